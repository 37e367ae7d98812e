// Package foretell says where the pods of a flock will run, and in which order they get there.
//
// It drives [reconcile.Step], the very function that agents run, for all nodes of a flock in which
// every message arrives at once, and pods take a while: those that were started are ready, and those that
// were stopped are gone, when no node has anything more to do before. What it foretells is what a flock does in
// which nothing else happens. It is pure, as reconcile is.
package foretell

import (
	"cmp"
	"maps"
	"slices"
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
	Round int // counts from 1; the actions of a round are taken before its pods are ready or gone
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

// Flock is a flock in which nothing but what it is asked to run happens.
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
	answers  []reconcile.Answer   // for its next step
	stopping map[types.UID]string // by what
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
	return &member{document: d, stopping: map[types.UID]string{}, pods: map[types.UID]*corev1.Pod{}}
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
		events, view, wake := f.live(first)
		for i := range events {
			events[i].Round, events[i].At = f.round, f.now.Sub(began)
		}
		c.Events = append(c.Events, events...)
		f.pass()
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

// live lets the nodes act, of which each hears of what the others do, until none has anything to do. It
// returns what the first said last, and when any wants to be called again.
func (f *Flock) live(first string) (events []Event, view reconcile.Decision, wake time.Time) {
	for range rounds {
		view = f.step(first)
		actions := view.Actions
		for _, name := range f.busy(view) {
			if name != first {
				actions = append(actions, f.step(name).Actions...)
			}
		}
		wake = view.Wake
		if len(actions) == 0 && len(events) == 0 && (wake.IsZero() || wake.Sub(f.now) > soon) {
			for _, name := range f.suspects(view) {
				d := f.step(name)
				actions = append(actions, d.Actions...)
				if !d.Wake.IsZero() && (wake.IsZero() || d.Wake.Before(wake)) {
					wake = d.Wake
				}
			}
		}
		events = append(events, f.events(actions, view)...)
		if !f.carryOut(actions) && !f.asking() {
			break
		}
	}
	return events, view, wake
}

// asking reports whether any node has answers to read.
func (f *Flock) asking() bool {
	for _, m := range f.members {
		if len(m.answers) > 0 {
			return true
		}
	}
	return false
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

// carryOut takes actions, and reports whether anybody has anything new to say: also which commits are accepted,
// so that what opens a slot is claimed before the first pod is stopped for the commit. A document is not
// changed but replaced.
func (f *Flock) carryOut(actions []reconcile.Action) bool {
	started := map[string][]reconcile.Instance{}
	for _, a := range actions {
		m := f.members[a.Instance.Node]
		if a.Kind == reconcile.Stop {
			m.stopping[a.Instance.UID] = a.By
			continue
		}
		started[a.Instance.Node] = append(started[a.Instance.Node], a.Instance)
		m.pods[a.Instance.UID] = a.Pod
	}
	news := false
	for name, m := range f.members {
		next := m.document
		next.Accepted = f.want.Accepted
		next.Declines = append(slices.Clip(next.Declines), m.declines...)
		next.Instances = append(slices.Clone(next.Instances), started[name]...)
		changed := len(m.declines)+len(started[name]) > 0 || !maps.Equal(m.document.Accepted, next.Accepted)
		m.declines = nil
		for i := range next.Instances {
			if x := &next.Instances[i]; !x.Terminating {
				if _, x.Terminating = m.stopping[x.UID]; x.Terminating {
					x.Ready, changed = false, true
				}
			}
		}
		news = m.replace(next, changed) || news
	}
	return news
}

// replace publishes a document that has changed.
func (m *member) replace(next reconcile.Document, changed bool) bool {
	if changed {
		next.Seq++
		m.document = next
	}
	return changed
}

// pass lets time pass until what was started is ready, and what was stopped is gone.
func (f *Flock) pass() {
	for _, m := range f.members {
		next := m.document
		next.Instances = nil
		changed := false
		for _, x := range m.document.Instances {
			switch {
			case x.Terminating:
				if by, ours := m.stopping[x.UID]; ours {
					next.Releases = append(slices.Clip(next.Releases), reconcile.Release{Slot: x.Slot, Revision: x.Revision, Epoch: x.Epoch, By: by, At: f.now})
				}
				delete(m.stopping, x.UID)
				delete(m.pods, x.UID)
				changed = true
				continue
			case !x.Ready && x.Phase != corev1.PodFailed && x.Phase != corev1.PodSucceeded:
				x.Phase, x.Ready, x.ReadySince, x.Reason, x.Message = corev1.PodRunning, true, f.now, "", ""
				changed = true
			}
			next.Instances = append(next.Instances, x)
		}
		m.replace(next, changed)
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
		if s.Stops != "" {
			busy[s.Stops] = true
		}
		if s.Pod != "" && s.Rule == reconcile.RulePlacement {
			busy[s.Node] = true // may stop it first, as there is no room beside it
		}
	}
	for name, m := range f.members {
		if len(m.answers) > 0 {
			busy[name] = true
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
		events[i] = Event{Action: a}
		if a.Kind == reconcile.Start {
			events[i].Candidates = candidates[a.Instance.Slot]
		}
	}
	return events
}
