package follow

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// member is a node with a clock of its own.
type member struct {
	name string
	skew time.Duration
	lame bool
}

func flock(n int, rng *rand.Rand, lame int) []member {
	var out []member
	for i := range n {
		out = append(out, member{fmt.Sprintf("node-%d-%d", n, i), time.Duration(rng.Int64N(int64(6*time.Second))) - 3*time.Second, i < lame})
	}
	return out
}

// looks lists when who looks at the remote, as all members decide it, each by its own clock.
func looks(members []member, interval, length time.Duration) (at []time.Duration, by map[string][]time.Duration) {
	var well, lame []string
	for _, m := range members {
		if m.lame {
			lame = append(lame, m.name)
		} else {
			well = append(well, m.name)
		}
	}
	begin := time.Unix(1_800_000_000, 0)
	p := period(interval, len(members))
	by = map[string][]time.Duration{}
	for _, m := range members {
		for now := begin.Add(m.skew); now.Before(begin.Add(m.skew + length)); {
			turn, next := turnAt(now, p)
			if takes(turn, m.name, well, lame) {
				at = append(at, now.Add(-m.skew).Sub(begin))
				by[m.name] = append(by[m.name], now.Add(-m.skew).Sub(begin))
			}
			now = next
		}
	}
	slices.Sort(at)
	return at, by
}

// The remote sees one look a period at most, whatever the flock's size and however its clocks differ;
// nobody starves; and the more nodes there are, the more often somebody looks, up to that bound.
func TestTurns(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const interval, length = 5 * time.Second, 2 * time.Hour
	last := time.Duration(0)
	for _, n := range []int{1, 2, 3, 4, 5, 8, 20, 100} {
		members := flock(n, rng, 0)
		at, by := looks(members, interval, length)
		p := period(interval, n)
		if want := int(length / p); len(at) < want-10 || len(at) > want+10 {
			t.Errorf("%d nodes: %d looks in %v, want %d", n, len(at), length, want)
		}
		if perSecond := float64(len(at)) / length.Seconds(); perSecond > 0.81 {
			t.Errorf("%d nodes: %.2f looks a second", n, perSecond)
		}
		// In any window the bound is passed by what clocks differ and no more.
		const window, skew = time.Minute, 3 * time.Second
		most := int((window+2*skew)/p) + 2
		for i := range at {
			if i+most < len(at) && at[i+most]-at[i] < window {
				t.Fatalf("%d nodes: more than %d looks within %v", n, most, window)
			}
		}
		for _, m := range members {
			mine := by[m.name]
			share := float64(len(mine)) * float64(n) / float64(len(at))
			if share < 0.6 || share > 1.5 {
				t.Errorf("%d nodes: %s has %.2f of its share", n, m.name, share)
			}
			for i := 1; i < len(mine); i++ {
				if gap := mine[i] - mine[i-1]; gap > 15*time.Duration(n)*p {
					t.Errorf("%d nodes: %s waits %v", n, m.name, gap)
				}
			}
		}
		if last != 0 && p > last {
			t.Errorf("%d nodes look each %v, fewer each %v", n, p, last)
		}
		last = p
	}
	if p := period(interval, 1); p != interval {
		t.Errorf("a node alone looks each %v, want %v", p, interval)
	}
	if p := period(time.Minute, 3); p != 20*time.Second {
		t.Errorf("3 nodes that are told to look each minute look each %v", p)
	}
}

// Nodes that the remote does not answer take no turns from the others, and still look.
func TestLameNodesLeaveTurnsToOthers(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	const length = time.Hour
	for _, tc := range []struct{ nodes, lame int }{{3, 1}, {3, 2}, {20, 1}, {20, 19}, {3, 3}, {20, 20}} {
		members := flock(tc.nodes, rng, tc.lame)
		at, by := looks(members, 5*time.Second, length)
		good := 0
		for _, m := range members {
			if !m.lame {
				good += len(by[m.name])
			}
			if len(by[m.name]) == 0 {
				t.Errorf("%+v: %s never looks", tc, m.name)
			}
		}
		turns := int(length / period(5*time.Second, tc.nodes))
		if tc.lame < tc.nodes && (good < turns-5 || good > turns+5) {
			t.Errorf("%+v: those who are well look %d times, want %d", tc, good, turns)
		}
		if perSecond := float64(len(at)) / length.Seconds(); perSecond > 0.95 {
			t.Errorf("%+v: %.2f looks a second", tc, perSecond)
		}
	}
}

// Nodes that differ about one member differ about its turns alone.
func TestViewsDifferByTheirMembers(t *testing.T) {
	all := []string{"a", "b", "c", "d", "e"}
	without := []string{"a", "b", "d", "e"}
	for turn := range int64(1000) {
		if x, y := heaviest(turn, all), heaviest(turn, without); x != y && x != "c" {
			t.Fatalf("turn %d is %s's or %s's", turn, x, y)
		}
	}
}

func TestRankIsAPermutation(t *testing.T) {
	nodes := []string{"a", "b", "c", "d"}
	for key := range int64(100) {
		var ranks []int
		for _, n := range nodes {
			ranks = append(ranks, rank(key, n, nodes))
		}
		if slices.Sort(ranks); !slices.Equal(ranks, []int{0, 1, 2, 3}) {
			t.Fatalf("key %d: ranks %v", key, ranks)
		}
	}
}
