package placement

import "slices"

// Change is what is new since the last plan.
type Change struct {
	// Nodes and Slots are new or have changed. A node that left is one that is Gone: for the memory
	// that it takes make a new planner now and then.
	Nodes   []Node
	Slots   []Slot
	Without []string // keys of slots that are no more
	Held    []Held   // all of it, changed or not
}

// Update changes the input of the next plan. What it costs depends on the change, except that a node
// or an extended resource that was never heard of makes the planner begin anew.
func (p *Planner) Update(c Change) {
	p.undo()
	for i := range p.held {
		p.occupy(&p.held[i], -1)
		p.leaveKind(p.held[i].kind)
	}
	p.held = p.held[:0]
	for _, key := range c.Without {
		if i, ok := p.byKey[key]; ok {
			p.dropSlot(i)
		}
	}
	if p.isNew(c) || p.dead > 1000+len(p.kinds)/2 {
		*p = *NewPlanner(p.after(c))
		return
	}
	for i := range c.Nodes {
		p.setNode(c.Nodes[i])
	}
	for i := range c.Slots {
		if old, ok := p.byKey[c.Slots[i].Key]; ok {
			p.dropSlot(old)
		}
		p.settle(p.addSlot(c.Slots[i]))
	}
	p.hold(c.Held)
	clear(p.byPointer)
}

func (p *Planner) isNew(c Change) bool {
	for i := range c.Nodes {
		if _, ok := p.byName[c.Nodes[i].Name]; !ok {
			return true
		}
	}
	for _, name := range resourceNames(c.Slots) {
		if !slices.Contains(p.names, name) {
			return true
		}
	}
	return false
}

// after returns the whole input once a change is made.
func (p *Planner) after(c Change) Input {
	in := Input{Nodes: p.nodes, Held: c.Held, Namespaces: p.namespaces}
	for _, n := range c.Nodes {
		if i, ok := p.byName[n.Name]; ok {
			in.Nodes[i] = n
		} else {
			in.Nodes = append(in.Nodes, n)
		}
	}
	for _, s := range c.Slots {
		if i, ok := p.byKey[s.Key]; ok {
			p.dropSlot(i)
		}
	}
	for _, i := range p.byKey {
		in.Slots = append(in.Slots, p.slots[i].Slot)
	}
	in.Slots = append(in.Slots, c.Slots...)
	return in
}

// setNode replaces a node. What is settled there is taken out and looked at again.
func (p *Planner) setNode(node Node) {
	n := p.byName[node.Name]
	for _, i := range slices.Clone(p.on[n]) {
		p.unsettle(i)
	}
	for _, c := range p.classes {
		c.remove(p, n)
	}
	at := int(n) * len(p.names)
	v := p.vector(node.Allocatable)
	resized := false
	for r := range v {
		more := v[r] - p.alloc[at+r]
		p.alloc[at+r] += more
		p.free[at+r] += more
		p.total[r] += more
		resized = resized || more != 0
	}
	if resized {
		for _, sh := range p.shapes {
			sh.measure(p.total)
		}
	}
	p.nodes[n] = node
	for _, t := range p.topologies {
		t.leave(n)
		t.enter(n, &p.nodes[n])
	}
	for _, c := range p.classes {
		c.update(p, n)
	}
	for i := range p.open {
		if s := &p.slots[i]; s.Incumbent == node.Name {
			p.settle(i)
		}
	}
}
