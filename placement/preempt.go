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
	return cmp.Or(
		cmp.Compare(min(v.running, 1), min(o.running, 1)),
		cmp.Compare(v.highest, o.highest),
		cmp.Compare(v.sum, o.sum),
		cmp.Compare(len(v.slots), len(o.slots)),
		cmp.Compare(o.ticket, v.ticket),
		cmp.Compare(v.node, o.node),
	)
}

// preempt makes room for a slot that fits nowhere, at the cost of slots of lower priority on the
// node where that disrupts least. Those that do not run yet are planned again. While pods have to
// end, the slot has no node, but the room is kept for it.
func (p *Planner) preempt(i int32) bool {
	s := &p.slots[i]
	if s.kind.c.NeverPreempts {
		return false
	}
	var best *victims
	for n, reason := range s.kind.class.reasons {
		if reason != "" || s.Slot.Node != "" && s.Slot.Node != p.nodes[n].Name {
			continue
		}
		if v := p.victimsOn(i, int32(n)); v != nil && (best == nil || v.compare(best) < 0) {
			best = v
		}
	}
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
		if p.slots[v].Priority < s.Priority && !(s.Claimed && p.isRunning(v)) {
			lower = append(lower, v)
		}
	}
	out := &victims{node: n, ticket: draw(s.hash, mix(s.hash+0x9e3779b97f4a7c15)|1, p.hashes[n]), highest: -1 << 31}
	var going []*holding
	for h := range p.held {
		if x := &p.held[h]; x.Leaving && x.node == n && x.Priority < s.Priority {
			going = append(going, x)
		}
	}
	if len(lower)+len(going) == 0 {
		return nil
	}
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
