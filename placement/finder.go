package placement

import (
	"cmp"
	"slices"
)

// shareSteps is the resolution in which loads are compared: nodes whose share differs by less than
// a step are alike, and rendezvous order decides, so that a small change of load moves little.
const shareSteps = 32

// finder walks a slot's nodes in rendezvous order. It keeps its buffers between slots.
type finder struct {
	order  []entrant
	scored []candidate
}

type entrant struct {
	cost   uint64
	ticket uint64
	node   int32
}

func (e entrant) compare(o entrant) int {
	switch {
	case e.cost != o.cost:
		return cmp.Compare(e.cost, o.cost)
	case e.ticket != o.ticket:
		return cmp.Compare(o.ticket, e.ticket)
	}
	return cmp.Compare(e.node, o.node)
}

// find fills the slot's ranking with the first nodes that it may go to: the least loaded one of the
// first tier that has any, then the others in rendezvous order. It reports whether there was one.
func (f *finder) find(p *Planner, s *place) bool {
	if s.kind.scored() {
		return f.findScored(p, s)
	}
	n := 0
	for t := range s.kind.class.tiers {
		f.rank(p, s, &s.kind.class.tiers[t])
		from := n
		for _, e := range f.order[:min(len(f.order), choices-n)] {
			s.ranked[n] = e.node
			n++
		}
		if from == 0 && n > 0 {
			p.lightest(s, n)
		}
		if n == choices {
			break
		}
	}
	return n > 0
}

// rank puts the first nodes with room of a tier into f.order, by cost. Within a group the larger
// ticket has the smaller cost, so that logarithms are taken of few, and groups of large weight come
// first, as what they offer leaves little for the others to better.
func (f *finder) rank(p *Planner, s *place, t *tier) {
	a, b := s.hash, mix(s.hash+0x9e3779b97f4a7c15)|1
	ruled := s.kind.ruled()
	f.order = f.order[:0]
	for gi := range slices.Backward(t.groups) {
		g := &t.groups[gi]
		var top [choices]entrant
		n := 0
		var floor uint64
		if len(f.order) == choices {
			floor = atLeast(f.order[choices-1].cost, g.weight)
		}
		for i, h := range g.hashes {
			d := draw(a, b, h)
			if d <= floor {
				continue
			}
			// Few get here, however many nodes are full: only those better than the best so far.
			if node := g.nodes[i]; !p.fits(node, s.shape.need) || ruled && !p.hasRoom(s, node) {
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
			at := len(f.order)
			for at > 0 && e.compare(f.order[at-1]) < 0 {
				at--
			}
			if at < choices {
				f.order = slices.Insert(f.order, at, e)[:min(len(f.order)+1, choices)]
			}
		}
	}
}

// candidate is a feasible node of a slot that prefers nodes for the pods there.
type candidate struct {
	entrant
	weight     int64
	score      int64 // of the rules about nodes
	attraction int64
	crowd      int64
	unlabelled bool // lacks a label of soft spreading
}

// findScored is find for slots whose preference among nodes changes with the pods there: it scores
// all feasible nodes as the scheduler does, pods' affinity and spreading each with weight 2.
func (f *finder) findScored(p *Planner, s *place) bool {
	a, b := s.hash, mix(s.hash+0x9e3779b97f4a7c15)|1
	f.scored = f.scored[:0]
	for ti := range s.kind.class.tiers {
		t := &s.kind.class.tiers[ti]
		for gi := range t.groups {
			g := &t.groups[gi]
			for i, n := range g.nodes {
				if !p.hasRoom(s, n) {
					continue
				}
				c := candidate{entrant: entrant{ticket: draw(a, b, g.hashes[i]), node: n}, weight: g.weight, score: t.score, attraction: s.kind.attraction(n)}
				crowd, ok := s.kind.crowd(n)
				c.crowd, c.unlabelled = crowd, !ok
				f.scored = append(f.scored, c)
			}
		}
	}
	if len(f.scored) == 0 {
		return false
	}
	normalise(f.scored, len(s.kind.soft) > 0)
	top := f.scored[:0:0]
	for _, c := range f.scored {
		if len(top) == choices && c.score < top[choices-1].score {
			continue
		}
		c.cost = cost(c.ticket, c.weight)
		at, _ := slices.BinarySearchFunc(top, c, func(x, y candidate) int {
			return cmp.Or(cmp.Compare(y.score, x.score), x.compare(y.entrant))
		})
		if at < choices {
			top = slices.Insert(top, at, c)[:min(len(top)+1, choices)]
		}
	}
	alike := 0
	for i, c := range top {
		s.ranked[i] = c.node
		if c.score == top[0].score {
			alike++
		}
	}
	p.lightest(s, alike)
	return true
}

// normalise adds the two scores of pods, each scaled to 100 over the feasible nodes.
func normalise(list []candidate, spreads bool) {
	near, far := list[0].attraction, list[0].attraction
	var most int64
	least := int64(-1)
	for _, c := range list {
		near, far = max(near, c.attraction), min(far, c.attraction)
		if !c.unlabelled {
			most = max(most, c.crowd)
			if least < 0 || c.crowd < least {
				least = c.crowd
			}
		}
	}
	for i := range list {
		c := &list[i]
		if near > far {
			c.score += 2 * (100 * (c.attraction - far) / (near - far))
		}
		switch {
		case !spreads || c.unlabelled:
		case most == 0:
			c.score += 2 * 100
		default:
			c.score += 2 * (100 * (most + least - c.crowd) / most)
		}
	}
}

// lightest moves the node with the lowest share of the first n to the front; among equals the first
// stays ahead.
func (p *Planner) lightest(s *place, n int) {
	best, low := 0, p.share(s.ranked[0], s.shape.need)
	for i := 1; i < n; i++ {
		if share := p.share(s.ranked[i], s.shape.need); share < low {
			best, low = i, share
		}
	}
	first(s.ranked[:], s.ranked[best])
}

// share is the node's dominant share in steps once need is placed there. What is held does not count: it
// goes, sooner on one node's plan than on another's, and both are to choose the same.
func (p *Planner) share(n int32, need []int64) int64 {
	at := int(n) * len(need)
	var top int64
	for r, v := range need {
		if alloc := p.alloc[at+r]; alloc > 0 && (r < extended || v > 0) {
			top = max(top, (alloc-p.free[at+r]-p.lent[at+r]+v)*shareSteps/alloc)
		}
	}
	return top
}
