package follow

import (
	"encoding/binary"
	"time"

	"github.com/pleachdev/pleach/placement"
)

// MinPeriod is the least time between two looks of a whole flock at the remote. Forges ask automation to
// stay below a number of reads a second that does not grow with the number of nodes.
const MinPeriod = 1250 * time.Millisecond

// lameEvery says that every how-many-th turn a node looks which the remote did not answer last.
const lameEvery = 8

// period is the time between two turns of a flock in which n nodes take part. Each looks once in an
// interval on average, as it would alone; when that is more than the remote is to bear, less often.
func period(interval time.Duration, n int) time.Duration {
	return max(MinPeriod, interval/time.Duration(max(n, 1)))
}

// turnAt numbers the turns by the clock. Clocks differ, so that two nodes take theirs a little early or
// late; as each turn is one node's, the rate stays what it is.
func turnAt(now time.Time, period time.Duration) (turn int64, next time.Time) {
	turn = now.UnixNano() / int64(period)
	return turn, time.Unix(0, (turn+1)*int64(period))
}

// takes reports whether a turn is self's. well and lame part the members, self among them, by whether the
// remote answered them last: one of those whom it does not answer could only waste a turn, and gets
// every eighth one in addition, to find out when that is over. Where nobody is well all take turns.
//
// Of the nodes it is the one whose weight in this turn is the largest (rendezvous hashing), so that nodes
// who differ about who is a member differ only about turns of that member.
func takes(turn int64, self string, well, lame []string) bool {
	if len(well) == 0 {
		return heaviest(turn, lame) == self
	}
	if turn%lameEvery == 0 && heaviest(turn, lame) == self && self != "" {
		return true
	}
	return heaviest(turn, well) == self
}

// heaviest is "" when there is nobody.
func heaviest(turn int64, nodes []string) string {
	var best string
	var most uint64
	for _, n := range nodes {
		if w := weight(turn, n); best == "" || w > most || w == most && n < best {
			best, most = n, w
		}
	}
	return best
}

// rank is how many of the nodes are heavier than self in what key names.
func rank(key int64, self string, nodes []string) int {
	own, before := weight(key, self), 0
	for _, n := range nodes {
		if w := weight(key, n); n != self && (w > own || w == own && n < self) {
			before++
		}
	}
	return before
}

func weight(key int64, node string) uint64 {
	return placement.Hash(string(binary.BigEndian.AppendUint64([]byte(node+"\x00"), uint64(key))))
}
