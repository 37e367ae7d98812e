package placement

import (
	"cmp"
	"slices"
)

// pass is one plan: what it has added to the settled state.
type pass struct {
	number  int    // grows whenever room does
	trail   []step // to undo
	order   []int32
	evicted []int32 // slots whose running pods must end
	again   []int32 // slots that lost their place before they ran
	reasons map[reasonKey]string
	found   map[preemptors]*found
}

type step struct {
	slot, node int32
	put        bool
}

func (p *Planner) putStep(i, n int32) {
	p.put(i, n)
	p.pass.trail = append(p.pass.trail, step{i, n, true})
}

func (p *Planner) pullStep(i int32) {
	p.pass.trail = append(p.pass.trail, step{i, p.slots[i].node, false})
	p.pull(i)
	p.pass.number++
}

// undo returns to the settled state.
func (p *Planner) undo() {
	for _, t := range slices.Backward(p.pass.trail) {
		if t.put {
			p.pull(t.slot)
		} else {
			p.put(t.slot, t.node)
		}
	}
	for _, i := range p.pass.evicted {
		p.slots[i].by, p.slots[i].kept = -1, !p.open[i]
	}
	p.pass = pass{number: p.pass.number + 1, trail: p.pass.trail[:0], reasons: map[reasonKey]string{}, found: map[preemptors]*found{}}
}

// Plan plans the open slots. It returns the assignments of all slots that do not simply stay where
// they run, sorted by key.
func (p *Planner) Plan() []Assignment {
	p.undo()
	p.sortOpen()
	queue := p.pass.order
	// What a slot waits for may be placed after it, so that those whose rules look for other pods are
	// tried until nothing changes.
	for len(queue) > 0 {
		var later []int32
		placed := false
		for at := 0; at < len(queue); at++ {
			i := queue[at]
			switch k := p.slots[i].kind; {
			case p.place(i) || p.preempt(i):
				placed = true
			case len(k.near)+len(k.spread) > 0:
				later = append(later, i)
			}
			queue = append(queue, p.pass.again...)
			p.pass.again = p.pass.again[:0]
		}
		if queue = nil; placed {
			queue = later
		}
	}
	p.pin()
	list := slices.Concat(p.pass.order, p.pass.evicted)
	slices.SortFunc(list, func(a, b int32) int { return cmp.Compare(p.slots[a].Key, p.slots[b].Key) })
	return p.assignments(slices.Compact(list))
}

// Result returns the whole plan that Plan has made.
func (p *Planner) Result() Result {
	list := make([]int32, 0, len(p.byKey))
	for i := range p.slots {
		if p.slots[i].kind != nil {
			list = append(list, int32(i))
		}
	}
	slices.SortFunc(list, func(a, b int32) int { return cmp.Compare(p.slots[a].Key, p.slots[b].Key) })
	return Result{Assignments: p.assignments(list)}
}

// sortOpen lists the slots to place: by wave, priority, fewest feasible nodes, size, and hash.
func (p *Planner) sortOpen() {
	type entry struct {
		slot, priority int32
		wave, feasible int
		size, hash     uint64
	}
	list := make([]entry, 0, len(p.open))
	for i := range p.open {
		s := &p.slots[i]
		s.kept, s.waits, s.by = false, false, -1
		for r := range s.ranked {
			s.ranked[r] = -1
		}
		e := entry{slot: i, wave: s.Wave, feasible: s.kind.class.feasible, priority: s.Priority, size: s.shape.size, hash: s.hash}
		if s.Node != "" {
			e.feasible = 1
		}
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b entry) int {
		switch {
		case a.wave != b.wave:
			return cmp.Compare(a.wave, b.wave)
		case a.priority != b.priority:
			return cmp.Compare(b.priority, a.priority)
		case a.feasible != b.feasible:
			return cmp.Compare(a.feasible, b.feasible)
		case a.size != b.size:
			return cmp.Compare(b.size, a.size)
		case a.hash != b.hash:
			return cmp.Compare(a.hash, b.hash)
		}
		return cmp.Compare(p.slots[a.slot].Key, p.slots[b.slot].Key)
	})
	p.pass.order = make([]int32, len(list))
	for i, e := range list {
		p.pass.order[i] = e.slot
	}
}

// place finds a node for one slot and takes its room.
func (p *Planner) place(i int32) bool {
	s := &p.slots[i]
	c := s.kind.class
	switch {
	case s.Node != "":
		if n, ok := p.byName[s.Node]; ok && p.admits(s, n) {
			s.ranked[0] = n
		}
	case s.shape.full[c.id] == p.pass.number:
	case !p.best.find(p, s):
		if !s.kind.ruled() {
			s.shape.full[c.id] = p.pass.number
		}
	case s.Incumbent != "" && !s.Claimed:
		if n, ok := p.byName[s.Incumbent]; ok && p.admits(s, n) {
			first(s.ranked[:], n)
		}
	}
	if s.ranked[0] < 0 {
		return false
	}
	p.putStep(i, s.ranked[0])
	return true
}

// admits reports whether a slot may be planned on a node now.
func (p *Planner) admits(s *place, n int32) bool {
	return s.kind.class.reasons[n] == "" && p.hasRoom(s, n)
}

// hasRoom is admits for nodes that pass the rules about nodes.
func (p *Planner) hasRoom(s *place, n int32) bool {
	return p.fits(n, s.shape.need) && (!s.kind.ruled() || p.portsFree(s.kind, n) && s.kind.blocked(n) == "")
}

// first moves n to the front of the ranking; what falls off its end is forgotten.
func first(ranked []int32, n int32) {
	at := slices.Index(ranked, n)
	if at < 0 {
		at = len(ranked) - 1
	}
	copy(ranked[1:at+1], ranked[:at])
	ranked[0] = n
}

// pin puts claimed slots of the waves on the nodes that run them, wherever they were planned. What
// was planned beside them by rules about pods, and may not be there in truth, is placed again; room
// alone is for the node to refuse.
func (p *Planner) pin() {
	var moved bool
	for _, i := range p.pass.order {
		s := &p.slots[i]
		if !s.Claimed || s.by >= 0 {
			continue
		}
		n, ok := p.runs(i)
		if s.kept = ok; ok && s.node != n {
			if moved = true; s.node >= 0 {
				p.pullStep(i)
			}
			s.waits = false
			p.putStep(i, n)
		}
	}
	if !moved {
		return
	}
	for _, i := range p.pass.order {
		s := &p.slots[i]
		if s.kept || s.node < 0 || s.waits || !s.kind.ruled() {
			continue
		}
		n := s.node
		p.pullStep(i)
		if p.portsFree(s.kind, n) && s.kind.blocked(n) == "" {
			p.putStep(i, n)
			continue
		}
		for r := range s.ranked {
			s.ranked[r] = -1
		}
		p.place(i)
	}
}

// assignments says where slots are planned.
func (p *Planner) assignments(list []int32) []Assignment {
	out := make([]Assignment, len(list))
	names := make([]string, 0, len(list))
	for at, i := range list {
		s := &p.slots[i]
		a := Assignment{Key: s.Key, Kept: s.kept}
		start := len(names)
		switch {
		case s.kept:
			a.Node = s.Incumbent
			names = append(names, a.Node)
		case s.by >= 0:
			a.PreemptedBy = p.slots[s.by].Key
			a.Reason = "preempted by " + a.PreemptedBy
		case s.waits:
			a.Nominated = p.nodes[s.node].Name
			a.Reason = p.reason(s) + " It waits for pods of lower priority to end on node " + a.Nominated + "."
		case s.node < 0:
			a.Reason = p.reason(s)
		default:
			a.Node = p.nodes[s.node].Name
			for _, c := range s.ranked {
				if c >= 0 {
					names = append(names, p.nodes[c].Name)
				}
			}
		}
		if len(names) > start {
			a.Candidates = names[start:len(names):len(names)]
		}
		out[at] = a
	}
	return out
}
