package reconcile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/placement"
)

// cause is what opened a slot. Causes are ordered: commits along the history, then lost nodes.
type cause struct {
	name  string // commit id, or "<node>/<boot>"
	level int64  // of the commit; 0 for a lost node
}

func causeOf(c Commit) cause { return cause{name: c.ID, level: c.Level} }

// loss reports whether it is the loss of a node.
func (c cause) loss() bool { return strings.Contains(c.name, "/") }

func (c cause) compare(o cause) int {
	if (c.level == 0) != (o.level == 0) {
		return cmp.Compare(o.level, c.level)
	}
	return cmp.Or(cmp.Compare(c.level, o.level), cmp.Compare(c.name, o.name))
}

// causeOf says what opened an empty slot.
func (p *pass) causeOf(w *workload, s *slot) cause {
	m := s.memory
	if q := p.index.peers[m.Node]; q != nil && q.node != nil && q.node.Gone {
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

// settles tells the planner what has changed of the workloads that were decided, and of the nodes.
func (p *pass) settles() {
	x := p.index
	if w := p.causes(); !maps.Equal(w, x.waves) {
		// The claims of the last minute and all that is open are numbered anew.
		x.waves = w
		for _, g := range sortedByRank(x.wanting, x.fresh) {
			p.take(g)
		}
	}
	c := placement.Change{Left: x.left, Held: map[string][]placement.Held{}}
	for _, g := range p.decided {
		p.changed(g, &c)
	}
	for q := range x.moved {
		c.Nodes = append(c.Nodes, x.placementNode(q))
	}
	slices.SortFunc(c.Nodes, func(a, b placement.Node) int { return cmp.Compare(a.Name, b.Name) })
	if x.renamed {
		c.Namespaces = x.namespaces
	}
	if x.planner == nil {
		x.planner = placement.NewPlanner(placement.Input{Nodes: c.Nodes, Slots: c.Slots, Namespaces: x.namespaces})
		c = placement.Change{Held: c.Held}
		x.planned = false
	}
	if len(c.Nodes)+len(c.Left)+len(c.Slots)+len(c.Without)+len(c.Held) > 0 || c.Namespaces != nil {
		x.planner.Update(c)
		x.planned = false
	}
	clear(x.moved)
	x.left, x.renamed = nil, false
}

// planSlots lists the slots of a workload: those that are wanted, those that are filled, and what else
// holds room. A pod that is replaced where it is belongs to no wave and counts once, at every stage of it.
func (p *pass) planSlots(g *tracked) (slots []placement.Slot, held []placement.Held) {
	w := g.w
	hold := func(list []Instance, returns bool) {
		for _, m := range list {
			if !m.ended() {
				h := placement.Held{Node: m.Node, Requests: p.uses(w, m), Leaving: m.Terminating, Returns: returns}
				if w != nil {
					t := cmp.Or(w.template(m.Revision), &w.templates[0])
					h.Constraints, h.Priority = w.size(t).constraints, priority(&t.Spec.Spec)
				}
				held = append(held, h)
			}
		}
	}
	if w == nil {
		for i := range g.records {
			if r := &g.records[i]; !p.index.isGone(r.from) {
				hold([]Instance{p.index.instance(g, r)}, false)
			}
		}
		return nil, held
	}
	waves := p.index.waves
	slots = make([]placement.Slot, 0, len(g.wants)+len(w.slots))
	for _, x := range g.wants {
		z := w.size(x.template)
		e := placement.Slot{Key: x.key(), Requests: z.requests, Constraints: z.constraints, Priority: priority(&x.template.Spec.Spec), Node: x.fixed(), Wave: waves[x.cause.name]}
		if x.beside != nil {
			e.Incumbent, e.Beside = x.beside.Node, !x.moves && p.in.without != ruleInPlace
		} else if r, ok := p.releases[x.s.key]; ok {
			e.Incumbent = r.node // an update stays where it is
		}
		if e.Incumbent != "" && !x.moves && x.cause.level > 0 && p.in.without != ruleInPlace {
			e.Wave = 0
		}
		slots = append(slots, e)
	}
	for _, s := range w.slots {
		live := s.live()
		if len(live) > 0 && live[0].live() && p.leaves(w, live[0]) {
			hold(live, false) // where it is; its new place is planned as that of a surge
		} else if len(live) > 0 {
			m := &live[0]
			z := w.size(cmp.Or(w.template(m.Revision), &w.templates[0]))
			e := placement.Slot{Key: s.key, Requests: p.uses(w, *m), Constraints: z.constraints, Priority: priority(&w.templates[0].Spec.Spec), Node: s.id.Node, Incumbent: m.Node, Claimed: true}
			if p.fresh(*m) && p.in.without != ruleWave {
				e.Wave = waves[m.Cause]
			}
			slots = append(slots, e)
			hold(live[1:], false)
		}
		hold(s.leaving, len(live) == 0 && p.in.without != ruleInPlace)
	}
	hold(w.surplus, false)
	return slots, held
}

// fresh reports whether a claim may belong to a wave. A pod that replaced another for a commit stayed on
// its node: only a slot's first pod, and one after a lost node, were placed anew.
func (p *pass) fresh(m Instance) bool {
	return (m.Epoch == 1 || m.Cause != m.Commit.ID) && p.in.Now.Sub(m.Claimed) < waveSettles
}

// causeOfClaim says what opened the slot of a pod, as the claim has it; false for one that left a drained
// node, of which the claim does not say how old it is.
func causeOfClaim(m Instance) (cause, bool) {
	if m.Cause == m.Commit.ID {
		return causeOf(m.Commit), true
	}
	c := cause{name: m.Cause}
	return c, c.loss()
}

// changed adds what the planner holds otherwise of a workload.
func (p *pass) changed(g *tracked, c *placement.Change) {
	p.at = g
	slots, held := p.planSlots(g)
	for _, s := range slots {
		if p.index.planner != nil {
			if old, ok := p.index.planner.Slot(s.Key); ok && old.Equal(s) {
				continue
			}
		}
		c.Slots = append(c.Slots, s)
	}
	if !slices.EqualFunc(slots, g.planned, func(s placement.Slot, key string) bool { return s.Key == key }) {
		keys := make([]string, len(slots))
		still := make(map[string]bool, len(slots))
		for i, s := range slots {
			keys[i], still[s.Key] = s.Key, true
		}
		for _, key := range g.planned {
			if !still[key] {
				c.Without = append(c.Without, key)
			}
		}
		g.planned = keys
	}
	if !slices.EqualFunc(held, g.held, placement.Held.Equal) {
		g.held = held
		c.Held[string(g.uid)] = held
	}
}

// victim is a slot whose room the plan gives to another.
type victim struct {
	w  *workload
	s  *slot
	by string // the other's key in the plan
}

// preempted lists the slots whose room the plan gives to others, in their order.
func (p *pass) preempted() (out []victim) {
	for _, a := range p.index.plan.Assignments {
		if a.PreemptedBy == "" {
			continue
		}
		uid, _, _ := strings.Cut(a.Key, "/")
		w := p.index.byUID[types.UID(uid)]
		if w == nil {
			continue
		}
		p.take(w.at)
		if i := slices.IndexFunc(w.slots, func(s *slot) bool { return s.key == a.Key }); i >= 0 {
			out = append(out, victim{w, w.slots[i], a.PreemptedBy})
		}
	}
	slices.SortFunc(out, func(a, b victim) int { return cmp.Or(byRank(a.w.at, b.w.at), cmp.Compare(a.s.index, b.s.index)) })
	return out
}

// fixed is the only node that will do for a want; "" when any may.
func (x *want) fixed() string {
	return cmp.Or(x.s.id.Node, x.template.Spec.Spec.NodeName)
}

// causes numbers the causes of the slots that are open, oldest first, from 1, and among them those of the
// claims of the last minute that are later than the oldest: one who has not heard of such a claim yet plans
// its slot after the others.
func (p *pass) causes() map[string]int {
	if len(p.index.wanting) == 0 {
		return nil
	}
	causes := map[string]cause{}
	for g := range p.index.wanting {
		for _, c := range g.causes {
			causes[c.name] = c
		}
	}
	oldest := slices.MinFunc(slices.Collect(maps.Values(causes)), cause.compare)
	for g := range p.index.fresh {
		for _, c := range g.claimed {
			if _, open := causes[c.name]; !open && oldest.compare(c) < 0 && p.in.without != ruleClaimed {
				causes[c.name] = c
			}
		}
	}
	waves := map[string]int{}
	for i, c := range slices.SortedFunc(maps.Values(causes), cause.compare) {
		if waves[c.name] = i + 1; p.in.without == ruleOlder {
			waves[c.name] = 1
		}
	}
	return waves
}

// size is what a template asks for.
type size struct {
	requests    placement.Resources
	constraints *placement.Constraints
}

// size returns what a template of the workload asks for.
func (w *workload) size(t *Template) size {
	z, ok := w.sizes[t]
	if !ok {
		spec := podSpec(w, t)
		z = size{placement.RequestsOf(spec), placement.ConstraintsOf(w.podMeta(t), spec)}
		w.sizes[t] = z
	}
	return z
}

// uses returns what an instance holds of its node: as its pod says, else its template, else the
// newest one.
func (p *pass) uses(w *workload, m Instance) placement.Resources {
	if o, ok := p.pods[m.UID]; ok {
		return o.requests
	}
	if w == nil {
		return placement.Resources{Pods: 1}
	}
	return w.size(cmp.Or(w.template(m.Revision), &w.templates[0])).requests
}

// placementNode joins what Git says of a node with its own document.
func (x *index) placementNode(q *peer) placement.Node {
	n := q.node.Node
	out := placement.Node{
		Name: n.Name, Labels: n.Labels, Taints: n.Spec.Taints, Unschedulable: n.Spec.Unschedulable, Gone: x.isGone(q),
		Allocatable: placement.ResourcesOf(n.Status.Allocatable),
	}
	heard := x.docs[q.name] != nil
	if heard && q.allocatable {
		out.Allocatable = q.room
	}
	// A node of which there is no document has never said what it can take.
	if heard && q.notReady || !heard && q.name != x.self {
		out.Taints = append(slices.Clone(out.Taints), corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule})
	}
	return out
}

// evictedBy returns the taint that drives the workload's pods from this node.
func (p *pass) evictedBy(w *workload) (corev1.Taint, bool) {
	q := p.index.peers[p.in.Self]
	if q == nil || q.node == nil {
		return corev1.Taint{}, false
	}
	c := w.size(&w.templates[0]).constraints
	for _, t := range q.node.Node.Spec.Taints {
		one := placement.Node{Taints: []corev1.Taint{t}}
		if !IsDrain(t) && !c.Keeps(&one) {
			return t, true
		}
	}
	return corev1.Taint{}, false
}
