package sim

import (
	"math/rand/v2"
	"time"
)

// network carries messages between nodes. A message is late by some milliseconds, sometimes by seconds;
// later ones overtake it.
type network struct {
	clock *clock
	r     *rand.Rand
	cuts  [][]int   // how many faults cut the way from one node to another
	cut   int       // how many such faults are under way
	loss  []float64 // of the faults under way
	late  []int     // how many faults make a node slow to send and to answer
}

func newNetwork(c *clock, seed uint64, nodes int) *network {
	n := &network{clock: c, r: dice(seed, "network"), cuts: make([][]int, nodes), late: make([]int, nodes)}
	for i := range n.cuts {
		n.cuts[i] = make([]int, nodes)
	}
	return n
}

// open reports whether messages go from one node to another at all.
func (n *network) open(from, to int) bool { return n.cuts[from][to] == 0 }

// loses reports whether so much is lost that a connection fails.
func (n *network) loses() bool {
	for _, share := range n.loss {
		if n.r.Float64() < share*share {
			return true
		}
	}
	return false
}

// both reports whether two nodes can talk.
func (n *network) both(a, b int) bool { return n.open(a, b) && n.open(b, a) }

// send delivers a message, if nothing is in its way when it leaves.
func (n *network) send(from, to int, deliver func()) {
	delay := time.Millisecond + time.Duration(n.r.ExpFloat64()*float64(20*time.Millisecond))
	lost := n.r.Float64()
	for _, share := range n.loss {
		if lost < share {
			return
		}
		if n.r.Float64() < share { // what is resent comes late
			delay += upTo(n.r, 3*time.Second)
		}
	}
	if n.late[from]+n.late[to] > 0 {
		delay += upTo(n.r, 2*time.Second)
	}
	if n.open(from, to) {
		n.clock.after(delay, deliver)
	}
}

// split cuts a group of nodes from the others, or joins them again.
func (n *network) split(group []int, by int) {
	n.cut += by
	in := make([]bool, len(n.cuts))
	for _, i := range group {
		in[i] = true
	}
	for i := range n.cuts {
		for j := range n.cuts {
			if in[i] != in[j] {
				n.cuts[i][j] += by
			}
		}
	}
}
