package placement

import (
	"maps"
	"slices"
)

// Change is what is new since the last plan.
type Change struct {
	Nodes   []Node   // new or changed
	Left    []string // names of nodes that are no more, which makes the planner begin anew
	Slots   []Slot   // new or changed
	Without []string // keys of slots that are no more
	// Held replaces what was held under the same names; nil or an empty list lets go of it. What an
	// Input holds is held under "".
	Held map[string][]Held
	// Namespaces replaces all labels of namespaces, which makes the planner begin anew; nil when they
	// are as before.
	Namespaces map[string]map[string]string
}

// Slot returns a slot as it was last given.
func (p *Planner) Slot(key string) (Slot, bool) {
	i, ok := p.byKey[key]
	if !ok {
		return Slot{}, false
	}
	return p.slots[i].Slot, true
}

// Update changes the input of the next plan. What it costs depends on the change, except that a node
// or an extended resource that was never heard of makes the planner begin anew.
func (p *Planner) Update(c Change) {
	p.undo()
	names := slices.Sorted(maps.Keys(c.Held))
	for _, name := range names {
		p.letGo(name)
	}
	for _, key := range c.Without {
		if i, ok := p.byKey[key]; ok {
			p.dropSlot(i)
		}
	}
	if p.isNew(c) || p.dead > 1000+len(p.kinds)/2 {
		p.anew(c)
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
	for _, name := range names {
		p.hold(name, c.Held[name])
	}
	if len(p.byPointer) > 100+2*len(p.kinds) {
		clear(p.byPointer) // most are of slots that are no more
	}
}

func (p *Planner) isNew(c Change) bool {
	if c.Namespaces != nil || len(c.Left) > 0 {
		return true
	}
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

// anew makes a planner of the whole input once a change is made. The change's slots have been dropped.
func (p *Planner) anew(c Change) {
	in := Input{Nodes: p.nodes, Namespaces: p.namespaces}
	if c.Namespaces != nil {
		in.Namespaces = c.Namespaces
	}
	for _, n := range c.Nodes {
		if i, ok := p.byName[n.Name]; ok {
			in.Nodes[i] = n
		} else {
			in.Nodes = append(in.Nodes, n)
		}
	}
	in.Nodes = slices.DeleteFunc(in.Nodes, func(n Node) bool { return slices.Contains(c.Left, n.Name) })
	for _, s := range c.Slots {
		if i, ok := p.byKey[s.Key]; ok {
			p.dropSlot(i)
		}
	}
	for _, i := range p.byKey {
		in.Slots = append(in.Slots, p.slots[i].Slot)
	}
	in.Slots = append(in.Slots, c.Slots...)
	held := p.held
	*p = *NewPlanner(in)
	for _, name := range slices.Sorted(maps.Keys(held)) {
		for _, h := range held[name] {
			p.hold(name, []Held{h.Held})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Held)) {
		p.hold(name, c.Held[name])
	}
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
