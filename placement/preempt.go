package placement

import (
	"cmp"
	"slices"
)

// victims is what a node would lose to a slot of higher priority.
type victims struct {
	node    int32
	slots   []int32
	leaving bool // pods that are terminating already make the room
	running int  // of the slots, those whose pods must end
	highest int32
	sum     int64 // of the priorities
	ticket  uint64
}

// compare orders by disruption, as the scheduler does once budgets are out of the way. That nothing
// running ends comes first.
func (v *victims) compare(o *victims) int {
	switch {
	case min(v.running, 1) != min(o.running, 1):
		return cmp.Compare(v.running, o.running)
	case v.highest != o.highest:
		return cmp.Compare(v.highest, o.highest)
	case v.sum != o.sum:
		return cmp.Compare(v.sum, o.sum)
	case len(v.slots) != len(o.slots):
		return cmp.Compare(len(v.slots), len(o.slots))
	case v.ticket != o.ticket:
		return cmp.Compare(o.ticket, v.ticket)
	}
	return cmp.Compare(v.node, o.node)
}

// preempt makes room for a slot that fits nowhere, at the cost of slots of lower priority on the
// node where that disrupts least. Those that do not run yet are planned again. While pods have to
// end, the slot has no node, but the room is kept for it.
func (p *Planner) preempt(i int32) bool {
	s := &p.slots[i]
	if s.kind.c.NeverPreempts {
		return false
	}
	best := p.leastDisruption(i)
	if best == nil {
		return false
	}
	for _, v := range best.slots {
		running := p.isRunning(v)
		p.pullStep(v)
		x := &p.slots[v]
		x.kept, x.waits = false, false
		if running {
			x.by = i
			p.pass.evicted = append(p.pass.evicted, v)
			continue
		}
		for r := range x.ranked {
			x.ranked[r] = -1
		}
		p.pass.again = append(p.pass.again, v)
	}
	s.waits = best.running > 0 || best.leaving
	s.ranked[0] = best.node
	p.putStep(i, best.node)
	return true
}

// preemptors are slots that find the same victims, as no rule about other pods has a part in it.
type preemptors struct {
	class, shape int
	priority     int32
	claimed      bool
}

// found is what preemptors found on each node, as of a version of the node.
type found struct {
	version []uint64
	victims []*victims
	none    uint64 // the planner's version at which there were none anywhere
}

// leastDisruption returns the best victims of all nodes for a slot; nil when there are none.
func (p *Planner) leastDisruption(i int32) (best *victims) {
	s := &p.slots[i]
	known := &found{}
	remember := !s.kind.ruled() && s.Node == ""
	if remember {
		key := preemptors{s.kind.class.id, s.shape.id, s.Priority, s.Claimed}
		if known = p.pass.found[key]; known == nil {
			known = &found{make([]uint64, len(p.nodes)), make([]*victims, len(p.nodes)), 0}
			p.pass.found[key] = known
		}
		if known.none == p.version {
			return nil
		}
	}
	a, b := s.hash, mix(s.hash+0x9e3779b97f4a7c15)|1
	for n, reason := range s.kind.class.reasons {
		if reason != "" || s.Node != "" && s.Node != p.nodes[n].Name {
			continue
		}
		var v *victims
		if remember && known.version[n] == p.versions[n] {
			v = known.victims[n]
		} else {
			v = p.victimsOn(i, int32(n))
			if remember {
				known.version[n], known.victims[n] = p.versions[n], v
			}
		}
		if v == nil {
			continue
		}
		v.ticket = draw(a, b, p.hashes[n])
		if best == nil || v.compare(best) < 0 {
			best = v
		}
	}
	if best == nil && remember {
		known.none = p.version
	}
	return best
}

// isRunning reports whether a planned slot runs where it is planned.
func (p *Planner) isRunning(i int32) bool {
	s := &p.slots[i]
	return s.Claimed && p.nodes[s.node].Name == s.Incumbent
}

// victimsOn returns the fewest slots whose end makes room for slot i on a node; nil when there is no
// such set. All of lower priority are taken away, those that are leaving too, and as many as possible
// put back, the most important first.
func (p *Planner) victimsOn(i, n int32) *victims {
	s := &p.slots[i]
	var lower []int32
	for _, v := range p.on[n] {
		// A slot that runs elsewhere ends nothing here: it is only planned as if it were new.
		if p.slots[v].Priority < s.Priority && (!s.Claimed || !p.isRunning(v)) {
			lower = append(lower, v)
		}
	}
	out := &victims{node: n, highest: -1 << 31}
	var going []*holding
	for _, x := range p.heldOn[n] {
		if x.Leaving && x.Priority < s.Priority {
			going = append(going, x)
		}
	}
	if len(lower)+len(going) == 0 {
		return nil
	}
	// Putting all back leaves the node as it was.
	version, at := p.version, p.versions[n]
	defer func() { p.version, p.versions[n] = version, at }()
	slices.SortFunc(lower, func(a, b int32) int {
		x, y := &p.slots[a], &p.slots[b]
		return cmp.Or(cmp.Compare(y.Priority, x.Priority), cmp.Compare(x.Key, y.Key))
	})
	for _, v := range lower {
		p.pull(v)
	}
	for _, h := range going {
		p.occupy(h, -1)
	}
	possible := p.hasRoom(s, n)
	for _, v := range lower {
		p.put(v, n)
		if !possible || p.hasRoom(s, n) {
			continue
		}
		p.pull(v)
		out.slots = append(out.slots, v)
		out.highest = max(out.highest, p.slots[v].Priority)
		out.sum += int64(p.slots[v].Priority) + 1<<31
	}
	for _, h := range going {
		p.occupy(h, 1)
	}
	out.leaving = !p.hasRoom(s, n)
	for _, v := range out.slots {
		p.put(v, n)
		if p.isRunning(v) {
			out.running++
		}
	}
	if !possible {
		return nil
	}
	return out
}
