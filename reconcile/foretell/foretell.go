// Package foretell says where the pods of a flock will run, and in which order they get there.
//
// It drives [reconcile.Step], the very function that agents run, for all nodes of a flock in which
// every message arrives, a pod is ready as soon as it is started and gone as soon as it is stopped.
// What it foretells is what a flock does in which nothing else happens. It is pure, as reconcile is.
package foretell

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/reconcile"
)

const (
	tick    = time.Second      // from one round to the next
	soon    = time.Minute      // a timer of a workload's, and not a deadline
	horizon = 20 * time.Minute // without an action: what is not done by then waits for a person
	rounds  = 100_000          // none needs as many
)

// Wanted is what a flock is asked to run: an accepted state as reconcile takes it.
type Wanted struct {
	Apps     []string
	Accepted map[string]reconcile.Commit
	Objects  []reconcile.Object
	// Nodes are the enrolled machines. Their status.allocatable counts where no document tells.
	Nodes []*corev1.Node
}

// Event is one action, and when it is taken.
type Event struct {
	Round int // counts from 1; the actions of a round are taken side by side
	At    time.Duration
	reconcile.Action
	// Candidates may claim the slot, best first; the first starts the pod. Only of a Start.
	Candidates []string
}

// Course is what happens between two states.
type Course struct {
	Events    []Event
	Slots     []reconcile.SlotDecision   // at the end, in the order of workloads and slots
	Workloads []reconcile.WorkloadStatus // at the end
	// Settled is false when it went on moving for so long that the end was not waited for.
	Settled bool
}

// Flock is a flock whose pods do at once as they are told.
type Flock struct {
	began, now time.Time
	want       Wanted
	nodes      []reconcile.Node // of want
	members    map[string]*member
	round      int
}

type member struct {
	document reconcile.Document
	declines []reconcile.Decline // of the round
	state    reconcile.State
	answers  []reconcile.Answer // for its next step
	pods     map[types.UID]*corev1.Pod
}

// New returns a flock that runs what the documents say, at a time after all that they tell of. They
// are not changed.
func New(documents []reconcile.Document) *Flock {
	f := &Flock{members: map[string]*member{}, began: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)}
	for _, d := range documents {
		d.Declines = nil
		d.Seq++
		f.members[d.Node] = newMember(d)
		for _, m := range d.Instances {
			f.after(m.Claimed)
			f.after(m.ReadySince)
		}
		for _, r := range d.Releases {
			f.after(r.At)
		}
	}
	f.now = f.began
	return f
}

func newMember(d reconcile.Document) *member {
	return &member{document: d, pods: map[types.UID]*corev1.Pod{}}
}

// after lets the flock begin an hour after t: what was under way then is over.
func (f *Flock) after(t time.Time) {
	if t = t.Add(time.Hour); t.After(f.began) {
		f.began = t
	}
}

// Instances lists what runs, by namespace and name.
func (f *Flock) Instances() []reconcile.Instance {
	var all []reconcile.Instance
	for _, name := range f.names() {
		all = append(all, f.members[name].document.Instances...)
	}
	slices.SortStableFunc(all, func(a, b reconcile.Instance) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return all
}

func (f *Flock) names() []string { return slices.Sorted(maps.Keys(f.members)) }

// Run lets the flock accept a state, and lives on until nothing moves any more.
func (f *Flock) Run(want Wanted) Course {
	f.want, f.nodes = want, nil
	for _, n := range want.Nodes {
		f.nodes = append(f.nodes, reconcile.Node{Node: n, Stable: true})
		if f.members[n.Name] == nil {
			f.members[n.Name] = newMember(reconcile.Document{Node: n.Name, Boot: 1, Seq: 1, Allocatable: n.Status.Allocatable})
		}
	}
	c := Course{Settled: true}
	names := f.names()
	if len(names) == 0 {
		return c
	}
	first := names[0] // tells what there is to do; any that is enrolled would say the same
	if len(want.Nodes) > 0 {
		first = want.Nodes[0].Name
	}
	f.wakeUp()
	began, last := f.now, f.now
	for range rounds {
		f.round++
		f.now = f.now.Add(tick)
		view := f.step(first)
		actions := view.Actions
		for _, name := range f.busy(view) {
			if name != first {
				actions = append(actions, f.step(name).Actions...)
			}
		}
		wake := view.Wake
		if len(actions) == 0 && (wake.IsZero() || wake.Sub(f.now) > soon) {
			for _, name := range f.suspects(view) {
				d := f.step(name)
				actions = append(actions, d.Actions...)
				if !d.Wake.IsZero() && (wake.IsZero() || d.Wake.Before(wake)) {
					wake = d.Wake
				}
			}
		}
		f.carryOut(actions)
		events := f.events(actions, view)
		for i := range events {
			events[i].At = f.now.Sub(began)
		}
		c.Events = append(c.Events, events...)
		switch {
		case len(events) > 0:
			last = f.now
		case wake.IsZero() || wake.Sub(last) > horizon:
			c.Slots, c.Workloads = view.Slots, view.Workloads
			return c
		case wake.After(f.now.Add(tick)):
			f.now = wake.Add(-tick)
		}
	}
	c.Settled = false
	return c
}

// step is one pass of a node, which does not carry out what it decides. What it asks is answered at once; a
// node that has something to do does it first.
func (f *Flock) step(name string) reconcile.Decision {
	m := f.members[name]
	in := f.input(name)
	in.Answers, m.answers = m.answers, nil
	for i := range in.Answers {
		in.Answers[i].At = f.now
	}
	var d reconcile.Decision
	for {
		m.state, d = reconcile.Step(m.state, in)
		m.declines = append(m.declines, d.Declines...)
		in.Answers = f.answers(d.Asks)
		if len(in.Answers) == 0 {
			return d
		}
		if len(d.Actions) > 0 {
			m.answers = in.Answers
			d.Wake = f.now.Add(tick)
			return d
		}
	}
}

func (f *Flock) input(name string) reconcile.Input {
	m := f.members[name]
	in := reconcile.Input{
		Self: name, Boot: m.document.Boot, Now: f.now, Nodes: f.nodes,
		Objects: f.want.Objects, Apps: f.want.Apps, Accepted: f.want.Accepted,
	}
	for _, other := range f.names() {
		in.Documents = append(in.Documents, f.members[other].document)
	}
	for _, uid := range slices.Sorted(maps.Keys(m.pods)) {
		in.Pods = append(in.Pods, m.pods[uid])
	}
	return in
}

// answers lets the nodes that are asked answer.
func (f *Flock) answers(asks []reconcile.Ask) (out []reconcile.Answer) {
	for _, a := range asks {
		m := f.members[a.To]
		if m == nil {
			out = append(out, reconcile.Answer{Ask: a, Unreachable: true, At: f.now})
			continue
		}
		var answer reconcile.Answer
		m.state, answer = reconcile.Reply(m.state, f.input(a.To), a)
		answer.At = f.now
		out = append(out, answer)
	}
	return out
}

// wakeUp lets every node run for a while already: one that has just started promises nothing.
func (f *Flock) wakeUp() {
	now := f.now
	f.now = now.Add(-time.Hour)
	for _, name := range f.names() {
		m := f.members[name]
		m.state, _ = reconcile.Reply(m.state, f.input(name), reconcile.Ask{})
	}
	f.now = now
}

// carryOut takes the actions of a round. In its end what was started is ready, what was stopped is gone, and
// everybody has heard it: also which commits the others have accepted, so that what opens a slot is
// claimed before the first pod is stopped for the commit. A document is not changed but replaced.
func (f *Flock) carryOut(actions []reconcile.Action) {
	started, stopped := map[string][]reconcile.Instance{}, map[types.UID]string{}
	for _, a := range actions {
		m := f.members[a.Instance.Node]
		if a.Kind == reconcile.Stop {
			stopped[a.Instance.UID] = a.By
			delete(m.pods, a.Instance.UID)
			continue
		}
		started[a.Instance.Node] = append(started[a.Instance.Node], a.Instance)
		m.pods[a.Instance.UID] = a.Pod
	}
	for name, m := range f.members {
		next := m.document
		next.Accepted = f.want.Accepted
		next.Declines = append(slices.Clip(next.Declines), m.declines...)
		next.Instances = nil
		changed := len(m.declines) > 0 || !maps.Equal(m.document.Accepted, next.Accepted)
		m.declines = nil
		for _, x := range append(slices.Clip(m.document.Instances), started[name]...) {
			by, ends := stopped[x.UID]
			switch {
			case ends:
				next.Releases = append(slices.Clip(next.Releases), reconcile.Release{Slot: x.Slot, Revision: x.Revision, Epoch: x.Epoch, By: by, At: f.now})
				changed = true
				continue
			case x.Terminating:
				changed = true
				continue
			case !x.Ready && x.Phase != corev1.PodFailed && x.Phase != corev1.PodSucceeded:
				x.Phase, x.Ready, x.ReadySince, x.Reason, x.Message = corev1.PodRunning, true, f.now, "", ""
				changed = true
			}
			next.Instances = append(next.Instances, x)
		}
		if changed {
			next.Seq++
			m.document = next
		}
	}
}

// suspects names the nodes that may do something of which the slots tell nothing: those whose Node keeps
// pods away, and all of them while slots lack a node, for which others may have to go.
func (f *Flock) suspects(view reconcile.Decision) []string {
	for _, s := range view.Slots {
		if s.Pod == "" && s.Rule != reconcile.RuleFinished {
			return f.names()
		}
	}
	suspects := maps.Clone(f.members)
	for _, n := range f.want.Nodes {
		if len(n.Spec.Taints) == 0 && !n.Spec.Unschedulable {
			delete(suspects, n.Name)
		}
	}
	return slices.Sorted(maps.Keys(suspects))
}

// busy names the nodes that have something to do by one node's view of the flock.
func (f *Flock) busy(view reconcile.Decision) []string {
	busy := map[string]bool{}
	wanted := make(map[reconcile.Slot]bool, len(view.Slots))
	for _, s := range view.Slots {
		wanted[s.Slot] = true
		if len(s.Candidates) > 0 {
			busy[s.Candidates[0]] = true
		}
		if s.Rule == reconcile.RuleRollout && s.Node != "" && strings.HasPrefix(s.Reason, fmt.Sprintf("waits for node %s to stop", s.Node)) {
			busy[s.Node] = true
		}
	}
	holder := make(map[reconcile.Slot]string, len(view.Slots))
	for name, m := range f.members {
		for i := range m.document.Instances {
			x := &m.document.Instances[i]
			other, taken := holder[x.Slot]
			if taken {
				busy[other] = true
			}
			if taken || !wanted[x.Slot] || x.Phase == corev1.PodFailed || x.Phase == corev1.PodSucceeded {
				busy[name] = true
			}
			holder[x.Slot] = name
		}
	}
	maps.DeleteFunc(busy, func(name string, _ bool) bool { return f.members[name] == nil })
	return slices.Sorted(maps.Keys(busy))
}

// events tells of actions, with the candidates that the view names.
func (f *Flock) events(actions []reconcile.Action, view reconcile.Decision) []Event {
	if len(actions) == 0 {
		return nil
	}
	candidates := make(map[reconcile.Slot][]string, len(view.Slots))
	for _, s := range view.Slots {
		candidates[s.Slot] = s.Candidates
	}
	events := make([]Event, len(actions))
	for i, a := range actions {
		events[i] = Event{Round: f.round, Action: a}
		if a.Kind == reconcile.Start {
			events[i].Candidates = candidates[a.Instance.Slot]
		}
	}
	return events
}
