package placement

import (
	"cmp"
	"slices"
)

// finder walks a slot's nodes in rendezvous order. It keeps its buffers between slots.
type finder struct {
	tickets []ticket
	order   []entrant
}

type ticket struct {
	draw uint64
	at   int32 // in the group
}

type entrant struct {
	cost uint64
	draw uint64
	node int32
	last bool // of its group: what follows in the order is not known to be next
}

// find fills ranked with the first nodes that have room: the least loaded one of the first tier
// that has any, then the others in rendezvous order. It reports whether there was one.
func (f *finder) find(p *planner, c *class, need []int64, hash uint64, ranked []int32) bool {
	n := 0
	for t := range c.tiers {
		from := n
		// Most slots are content with the first few nodes of each group, which are found without
		// a logarithm; only where those are full does the search widen.
		for depth := 8; ; depth *= 16 {
			complete := f.rank(&c.tiers[t], hash, depth)
			var done bool
			n, done = f.collect(p, need, ranked, from)
			if done || complete {
				break
			}
		}
		if from == 0 && n > 0 {
			f.lightest(p, need, ranked[:n])
		}
		if n == len(ranked) {
			break
		}
	}
	return n > 0
}

// rank sorts the depth largest draws of every group by cost; it reports whether those were all.
func (f *finder) rank(t *tier, hash uint64, depth int) (complete bool) {
	a, b := hash, mix(hash+0x9e3779b97f4a7c15)|1
	f.order = f.order[:0]
	complete = true
	for gi := range t.groups {
		g := &t.groups[gi]
		k := min(depth, len(g.nodes))
		if k < len(g.nodes) {
			complete = false
		}
		top := f.largest(g.hashes, a, b, k)
		for i, x := range top {
			f.order = append(f.order, entrant{
				cost: cost(x.draw, g.weight), draw: x.draw, node: g.nodes[x.at],
				last: i == k-1 && k < len(g.nodes),
			})
		}
	}
	slices.SortFunc(f.order, func(x, y entrant) int {
		return cmp.Or(cmp.Compare(x.cost, y.cost), cmp.Compare(y.draw, x.draw), cmp.Compare(x.node, y.node))
	})
	return complete
}

// largest returns the k largest draws of a group, largest first; equal draws by position.
func (f *finder) largest(hashes []uint64, a, b uint64, k int) []ticket {
	top := f.tickets[:0]
	if k > 64 { // a sorted insertion would be quadratic
		for i, h := range hashes {
			top = append(top, ticket{draw(a, b, h), int32(i)})
		}
		slices.SortFunc(top, func(x, y ticket) int {
			return cmp.Or(cmp.Compare(y.draw, x.draw), cmp.Compare(x.at, y.at))
		})
		f.tickets = top
		return top[:k]
	}
	var floor uint64
	for i, h := range hashes {
		d := draw(a, b, h)
		if d <= floor && len(top) == k {
			continue
		}
		if len(top) < k {
			top = append(top, ticket{})
		}
		j := len(top) - 1
		for ; j > 0 && top[j-1].draw < d; j-- {
			top[j] = top[j-1]
		}
		top[j] = ticket{d, int32(i)}
		floor = top[len(top)-1].draw
	}
	f.tickets = top
	return top
}

// collect appends nodes with room to ranked from position n on. It is done when ranked is full; it
// stops at the end of what is known.
func (f *finder) collect(p *planner, need []int64, ranked []int32, n int) (int, bool) {
	for _, e := range f.order {
		if n == len(ranked) {
			return n, true
		}
		if p.fits(e.node, need) {
			ranked[n] = e.node
			n++
		}
		if e.last {
			return n, n == len(ranked)
		}
	}
	return n, n == len(ranked)
}

// lightest moves the node with the lowest share to the front; among equals the first stays ahead.
func (f *finder) lightest(p *planner, need []int64, ranked []int32) {
	best, low := 0, p.share(ranked[0], need)
	for i := 1; i < len(ranked); i++ {
		if s := p.share(ranked[i], need); s < low {
			best, low = i, s
		}
	}
	first(ranked, ranked[best])
}
