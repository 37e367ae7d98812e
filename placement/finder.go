package placement

import (
	"cmp"
	"slices"
)

// finder walks a slot's nodes in rendezvous order. It keeps its buffer between slots.
type finder struct {
	order []entrant
}

type entrant struct {
	cost   uint64
	ticket uint64
	node   int32
}

// find fills ranked with the first nodes that have room: the least loaded one of the first tier
// that has any, then the others in rendezvous order. It reports whether there was one.
func (f *finder) find(p *planner, c *class, need []int64, hash uint64, ranked []int32) bool {
	n := 0
	for t := range c.tiers {
		f.rank(p, &c.tiers[t], need, hash)
		from := n
		for _, e := range f.order[:min(len(f.order), len(ranked)-n)] {
			ranked[n] = e.node
			n++
		}
		if from == 0 && n > 0 {
			lightest(p, need, ranked[:n])
		}
		if n == len(ranked) {
			break
		}
	}
	return n > 0
}

// rank puts the first nodes with room of a tier into f.order, by cost. The first few of each group
// are enough, and within a group the larger ticket has the smaller cost, so that logarithms are
// taken of those alone.
func (f *finder) rank(p *planner, t *tier, need []int64, hash uint64) {
	a, b := hash, mix(hash+0x9e3779b97f4a7c15)|1
	f.order = f.order[:0]
	for gi := range t.groups {
		g := &t.groups[gi]
		var top [choices]entrant
		n := 0
		var floor uint64
		for i, h := range g.hashes {
			d := draw(a, b, h)
			if d <= floor {
				continue
			}
			// Few get here, however many nodes are full: only those better than the best so far.
			if !p.fits(g.nodes[i], need) {
				continue
			}
			j := min(n, choices-1)
			for ; j > 0 && top[j-1].ticket < d; j-- {
				top[j] = top[j-1]
			}
			top[j] = entrant{ticket: d, node: g.nodes[i]}
			if n = min(n+1, choices); n == choices {
				floor = top[choices-1].ticket
			}
		}
		for _, e := range top[:n] {
			e.cost = cost(e.ticket, g.weight)
			f.order = append(f.order, e)
		}
	}
	slices.SortFunc(f.order, func(x, y entrant) int {
		switch {
		case x.cost != y.cost:
			return cmp.Compare(x.cost, y.cost)
		case x.ticket != y.ticket:
			return cmp.Compare(y.ticket, x.ticket)
		}
		return cmp.Compare(x.node, y.node)
	})
}

// lightest moves the node with the lowest share to the front; among equals the first stays ahead.
func lightest(p *planner, need []int64, ranked []int32) {
	best, low := 0, p.share(ranked[0], need)
	for i := 1; i < len(ranked); i++ {
		if s := p.share(ranked[i], need); s < low {
			best, low = i, s
		}
	}
	first(ranked, ranked[best])
}
