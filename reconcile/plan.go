package reconcile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/placement"
)

// cause is what opened a slot. Causes are ordered: commits along the history, then lost nodes.
type cause struct {
	name  string // commit id, or "<node>/<boot>"
	level int64  // of the commit; 0 for a lost node
}

func causeOf(c Commit) cause { return cause{name: c.ID, level: c.Level} }

func (c cause) compare(o cause) int {
	if (c.level == 0) != (o.level == 0) {
		return cmp.Compare(o.level, c.level)
	}
	return cmp.Or(cmp.Compare(c.level, o.level), cmp.Compare(c.name, o.name))
}

// causeOf says what opened an empty slot.
func (p *pass) causeOf(w *workload, s *slot) cause {
	m := p.state.Slots[s.key]
	if i := slices.IndexFunc(p.nodes, func(n Node) bool { return n.Node.Name == m.Node }); i >= 0 && p.nodes[i].Gone {
		return cause{name: fmt.Sprintf("%s/%d", m.Node, m.Boot)}
	}
	return causeOf(w.object.Commit)
}

// key names a want in the plan. The new pod of a slot that surges is planned beside the old one.
func (x *want) key() string {
	if x.beside != nil {
		return x.s.key + "+"
	}
	return x.s.key
}

// planInput lists all slots: those that are wanted, those that are filled, and what else holds room.
func (p *pass) planInput() placement.Input {
	in := placement.Input{Namespaces: map[string]map[string]string{}}
	for _, o := range p.in.Objects {
		if n, ok := o.Object.(*corev1.Namespace); ok {
			in.Namespaces[n.Name] = with(n.Labels, corev1.LabelMetadataName, n.Name)
		}
	}
	for _, n := range p.nodes {
		in.Nodes = append(in.Nodes, p.placementNode(n))
	}
	waves := p.waves()
	for _, x := range p.wants {
		z := p.size(x.w, x.template)
		e := placement.Slot{Key: x.key(), Requests: z.requests, Constraints: z.constraints, Priority: priority(&x.template.Spec.Spec), Node: x.fixed(), Wave: waves[x.cause.name]}
		if x.beside != nil {
			e.Incumbent = x.beside.Node
		} else if r, ok := p.releases[x.s.key]; ok {
			e.Incumbent = r.node // an update stays where it is
		}
		in.Slots = append(in.Slots, e)
	}
	held := func(w *workload, list []Instance) {
		for _, m := range list {
			if !m.ended() {
				h := placement.Held{Node: m.Node, Requests: p.uses(w, m), Leaving: m.Terminating}
				if w != nil {
					t := cmp.Or(w.template(m.Revision), &w.templates[0])
					h.Constraints, h.Priority = p.size(w, t).constraints, priority(&t.Spec.Spec)
				}
				in.Held = append(in.Held, h)
			}
		}
	}
	for _, w := range p.workloads {
		for _, s := range w.slots {
			live := append(slices.Clip(s.old), s.now...)
			if len(live) > 0 {
				m := live[0]
				z := p.size(w, cmp.Or(w.template(m.Revision), &w.templates[0]))
				e := placement.Slot{Key: s.key, Requests: p.uses(w, m), Constraints: z.constraints, Priority: priority(&w.templates[0].Spec.Spec), Node: s.id.Node, Incumbent: m.Node, Claimed: true}
				// A pod that replaced another for a commit stayed on its node: only a slot's first
				// pod, and one after a lost node, were placed anew.
				if fresh := m.Epoch == 1 || m.Cause != m.Commit.ID; fresh && p.in.Now.Sub(m.Claimed) < waveSettles {
					e.Wave = waves[m.Cause]
				}
				in.Slots = append(in.Slots, e)
				held(w, live[1:])
			}
			held(w, s.leaving)
		}
		held(w, w.surplus)
	}
	held(nil, p.strays)
	return in
}

// fixed is the only node that will do for a want; "" when any may.
func (x *want) fixed() string {
	return cmp.Or(x.s.id.Node, x.template.Spec.Spec.NodeName)
}

// waves numbers the causes of the slots that are open, oldest first, from 1.
func (p *pass) waves() map[string]int {
	causes := map[string]cause{}
	for _, x := range p.wants {
		causes[x.cause.name] = x.cause
	}
	waves := map[string]int{}
	for i, c := range slices.SortedFunc(maps.Values(causes), cause.compare) {
		waves[c.name] = i + 1
	}
	return waves
}

// sizes remembers what templates ask for.
type sizes map[*Template]size

type size struct {
	requests    placement.Resources
	constraints *placement.Constraints
}

// size returns what a template of a workload asks for.
func (p *pass) size(w *workload, t *Template) size {
	z, ok := p.sizes[t]
	if !ok {
		spec := podSpec(w, t)
		z = size{placement.RequestsOf(spec), placement.ConstraintsOf(w.podMeta(t), spec)}
		p.sizes[t] = z
	}
	return z
}

// uses returns what an instance holds of its node: as its pod says, else its template, else the
// newest one.
func (p *pass) uses(w *workload, m Instance) placement.Resources {
	if pod := p.pods[m.UID]; pod != nil {
		return placement.RequestsOf(&pod.Spec)
	}
	if w == nil {
		return placement.Resources{Pods: 1}
	}
	return p.size(w, cmp.Or(w.template(m.Revision), &w.templates[0])).requests
}

// placementNode joins what Git says of a node with its own document.
func (p *pass) placementNode(n Node) placement.Node {
	out := placement.Node{
		Name: n.Node.Name, Labels: n.Node.Labels, Taints: n.Node.Spec.Taints,
		Unschedulable: n.Node.Spec.Unschedulable, Gone: n.Gone && n.Node.Name != p.in.Self,
		Allocatable: placement.ResourcesOf(n.Node.Status.Allocatable),
	}
	d := p.docs[n.Node.Name]
	if d == nil {
		if n.Node.Name != p.in.Self {
			// It has never said what it can take.
			out.Taints = append(slices.Clone(out.Taints), corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule})
		}
		return out
	}
	if len(d.Allocatable) > 0 {
		out.Allocatable = placement.ResourcesOf(d.Allocatable)
	}
	for _, c := range d.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			out.Taints = append(slices.Clone(out.Taints), corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule})
		}
	}
	return out
}

// evictedBy returns the taint that drives the workload's pods from this node.
func (p *pass) evictedBy(w *workload) (corev1.Taint, bool) {
	i := slices.IndexFunc(p.nodes, func(n Node) bool { return n.Node.Name == p.in.Self })
	if i < 0 {
		return corev1.Taint{}, false
	}
	c := p.size(w, &w.templates[0]).constraints
	for _, t := range p.nodes[i].Node.Spec.Taints {
		one := placement.Node{Taints: []corev1.Taint{t}}
		if !c.Keeps(&one) {
			return t, true
		}
	}
	return corev1.Taint{}, false
}
