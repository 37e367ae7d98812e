// Package reconcile decides what a node does: which slots the workloads want, which of them are this
// node's to fill, and how they change from one revision to the next.
//
// It is pure. [Step] takes the state of the last step and what the node knows, and returns the next
// state and a [Decision]; it reads no clock, randomness, file or socket, and the order of its input does
// not matter. There is no leader: every node takes the same step over the same documents, and does its
// own share of the actions.
//
//	objects ── workloads ── slots ─┬─ decide: keep, stop, or want a pod   (rollout, empty)
//	documents ── records ──────────┘         │
//	nodes ───────── placement.Planner ── claim: start, wait for a rank, or decline
//
// A pass costs what has changed: a workload is decided again when its object, its pods, what it asked
// for or the time that it waits for has changed, and the decision is the one that a new state would make
// of the whole input.
package reconcile

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/placement"
)

// Input is what a node knows, of documents what is new. Step changes nothing of it, and keeps some: what
// it points to is not to be changed afterwards.
type Input struct {
	Self string // this node's name
	Boot int64  // this node's boot counter
	Now  time.Time

	Objects  []Object          // of all apps, in any order; the same slice when nothing has changed
	Apps     []string          // names in spec.apps of the accepted pleach.yaml
	Accepted map[string]Commit // accepted commit per app; as in Document
	Nodes    []Node
	// Frozen says why nothing that a lost node ran may be moved now, though the node is held for gone; ""
	// when it may.
	Frozen string
	// Documents holds the newest document of every node, this node's own included, which must name
	// every pod that the node runs, is starting, or is stopping, and every bare Pod that finished
	// while its object stands. Documents of gone nodes are not read. One
	// that comes again with the same numbers and lists is not read again.
	Documents []Document
	// Partial says that Documents holds only those that are new since the last step of the State, and that
	// the Decision is to tell only of the workloads that were decided again. The first step of a State
	// needs all.
	Partial bool
	Without []string // nodes whose last document counts no more; read when Partial
	// Pods are the pods of this node. They tell what an instance asks for when its template has
	// left the history.
	Pods []*corev1.Pod
	// Answers are those that came since the last step. One that was given before costs a comparison.
	Answers []Answer
	// Found names pods of this node that do not run since the machine was started: see Decision.Resume.
	Found []types.UID

	without rule // is left out, in tests that show what it is for
}

// Node is an enrolled machine as this node believes it to be.
type Node struct {
	Node   *corev1.Node // as accepted from Git; spec.unschedulable is its cordon
	Gone   bool         // held for dead by the gate of membership
	Failed bool         // by membership's word, which is not yet believed: others are asked in its place
	Stable bool         // seen lately, so that its document is waited for before a claim
}

// Decision is what a node does now, and what it can say about everything.
type Decision struct {
	Actions  []Action // stops first, each in the order of workloads and slots
	Declines []Decline
	// Asks are the questions that this node waits for. One that is under way need not be asked again; an
	// Answer is to come of each, and then another step.
	Asks []Ask
	// Resume names those of Input.Found that may be started again. The others wait for a later step, or
	// are stopped by it.
	Resume []types.UID
	// Workloads and Slots tell of all workloads, or when the input is Partial of those that were decided
	// again in this step: of the others what an earlier step said stands.
	Workloads []WorkloadStatus // sorted by kind, namespace, name
	Slots     []SlotDecision   // in the order of workloads and slots
	Removed   []types.UID      // workloads that are no more since the last step, sorted
	// Wake is when Step wants to be called again even without news; zero when it need not be.
	Wake time.Time
}

// ActionKind says what an Action does.
type ActionKind string

// The kinds of actions.
const (
	Start ActionKind = "Start"
	Stop  ActionKind = "Stop"
)

// What an Action's By says when no commit asks for it.
const (
	ByEnded     = "ended"     // the pod ended by itself
	ByEviction  = "eviction"  // a NoExecute taint
	ByPreempted = "preempted" // a pod of higher priority takes its room
	ByDrain     = "drain"     // a drained node, and the workload may not have a pod more
	ByDuplicate = "duplicate" // another node has the earlier right to the slot, and keeps it
)

// Action is one thing for this node to do. Doing it twice is harmless: the pod's uid names it.
type Action struct {
	Kind     ActionKind
	Instance Instance
	Pod      *corev1.Pod // to run, complete; nil for Stop
	Reason   string
	By       string // id of the commit that asks for it, or one of the By constants
}

// String is what a dry run prints and the log records.
func (a Action) String() string {
	return string(a.Kind) + " " + a.Instance.Namespace + "/" + a.Instance.Name + ": " + a.Reason
}

// SlotDecision explains one slot: which rule decided, for which commit, and from which line.
type SlotDecision struct {
	Slot       Slot
	Kind       string // of the workload
	Namespace  string
	Owner      string // the workload's name
	Source     Source
	Commit     Commit
	Revision   string   // that the slot runs or is to run
	Pod        string   // "" when none
	Node       string   // that runs it or should; "" when none
	Candidates []string // nodes that may claim it, best first
	Stops      string   // the node that is to stop its pod before anything else happens; "" when none
	Rule       string   // one of the Rule constants
	Reason     string
}

// Rules that decide slots, as explain names them.
const (
	RuleKeep      = "keep"      // runs at its revision
	RuleStart     = "start"     // claimed in this step
	RuleStop      = "stop"      // stopped in this step
	RulePlacement = "placement" // no node, or another node's turn
	RuleClaim     = "claim"     // waits for its rank, for documents, or after declines
	RuleRelocate  = "relocate"  // is to leave a drained node
	RuleRollout   = "rollout"   // waits for another slot
	RuleEnding    = "ending"    // waits for a pod to end
	RuleBackOff   = "back-off"  // its last pod ended
	RuleFinished  = "finished"  // a bare Pod that ran to its end
)

// Step decides. It takes s over, and returns the state to pass in next time.
//
// What rests on documents (the order of a rollout) and on the word of the other pod's own node (that a pod
// ends in favour of another) holds under any delay, loss or order. What rests on a registrar (that a slot
// has one claim, and a workload one token) holds while all that ask reach the same.
func Step(s State, in Input) (State, Decision) {
	p := newPass(s, in)
	p.run()
	return State{index: p.index}, p.finish()
}

// pass is one run of Step.
type pass struct {
	in       Input
	index    *index
	nodes    []Node               // sorted by name
	docs     map[string]*Document // that count; of other nodes without their pods
	pods     map[types.UID]ownPod
	newest   map[string]accepted // per app, the newest commit that any document speaks of
	decided  []*tracked
	at       *tracked            // that is being decided
	strays   []Instance          // of this node, and of workloads that are not wanted
	releases map[string]released // the newest of each slot
	wants    []*want
	stops    []Action
	starts   []Action
	stopping map[types.UID]bool
	declines []Decline
	asks     []Ask
	resume   []types.UID
	statuses []WorkloadStatus
}

// run decides what is marked, and plans when that or the planner's input concerns any open slot.
func (p *pass) run() {
	x := p.index
	dirty := x.dirty
	x.dirty = nil
	slices.SortFunc(dirty, byRank)
	for _, g := range dirty {
		p.take(g)
	}
	p.settles()
	if len(x.wanting) > 0 && (!x.planned || slices.ContainsFunc(p.decided, func(g *tracked) bool { return x.wanting[g] })) {
		// Claims share the node's room, so that all are looked at together.
		for _, g := range sortedByRank(x.wanting) {
			p.take(g)
			p.wants = append(p.wants, g.wants...)
		}
		if !x.planned {
			x.plan, x.planned = placement.Result{Assignments: x.planner.Plan()}, true
		}
		p.place()
	}
	p.at = nil
	p.remove()
	p.resumeFound()
	slices.SortFunc(p.decided, byRank)
	for _, g := range p.decided {
		if p.at = g; g.w != nil {
			p.report(g.w)
		}
		put(x.timed, g, !g.wake.IsZero() || !g.due.IsZero())
	}
}

func byRank(a, b *tracked) int { return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.uid, b.uid)) }

// take decides one workload, once in a pass.
func (p *pass) take(g *tracked) {
	if g.decided {
		return
	}
	x := p.index
	g.dirty, g.decided = false, true
	g.wake, g.due = time.Time{}, time.Time{}
	delete(x.listening, g)
	p.decided = append(p.decided, g)
	p.at = g
	p.fill(g)
	if g.w != nil {
		wants := p.wants
		p.wants = nil
		p.decide(g.w)
		g.wants, p.wants = p.wants, wants
	}
	g.causes = g.causes[:0]
	for _, w := range g.wants {
		if !slices.Contains(g.causes, w.cause) {
			g.causes = append(g.causes, w.cause)
		}
	}
	put(x.wanting, g, len(g.wants) > 0)
}

// again asks for a new decision in the next pass: what a step asked for may not have happened.
func (p *pass) again(g *tracked) {
	if g != nil {
		p.index.next = append(p.index.next, g)
	}
}

// wakeAt asks to be called again at t.
func (p *pass) wakeAt(t time.Time) {
	if p.at.wake.IsZero() || t.Before(p.at.wake) {
		p.at.wake = t
	}
}

// dueAt asks to be decided again by the first pass from t on.
func (p *pass) dueAt(t time.Time) {
	if p.at.due.IsZero() || t.Before(p.at.due) {
		p.at.due = t
	}
}

// stop asks for the end of one of this node's own pods.
func (p *pass) stop(m Instance, by, reason string) {
	if m.Node != p.in.Self || m.Terminating || p.stopping[m.UID] {
		return
	}
	p.stopping[m.UID] = true
	p.stops = append(p.stops, Action{Kind: Stop, Instance: m, Reason: reason, By: by})
}

// finish puts the pass away.
func (p *pass) finish() Decision {
	x := p.index
	d := Decision{
		Actions: append(p.stops, p.starts...), Declines: p.declines, Asks: p.asks, Resume: p.resume, Workloads: p.statuses,
		Removed: slices.Compact(slices.Sorted(slices.Values(x.removed))),
	}
	x.removed = nil
	n := 0
	for _, g := range p.decided {
		if g.w != nil {
			n += len(g.w.slots)
		}
	}
	d.Slots = slices.Grow(d.Slots, n)
	for _, g := range p.decided {
		x.store(g)
		g.decided, g.wants = false, nil
		if g.w == nil {
			continue
		}
		from := len(d.Slots)
		for _, s := range g.w.slots {
			if s.said != nil {
				d.Slots = append(d.Slots, *s.said)
			}
		}
		g.w.slots, g.w.surplus, g.w.roll = nil, nil, nil
		if !p.in.Partial {
			g.slots = slices.Clone(d.Slots[from:])
		}
	}
	if !p.in.Partial {
		d.Workloads, d.Slots = x.whole(d)
	}
	for _, a := range d.Actions {
		p.again(x.tracked[a.Instance.Slot.Workload])
	}
	for _, c := range d.Declines {
		p.again(x.tracked[c.Slot.Workload])
	}
	for _, g := range x.next {
		x.mark(g)
	}
	x.next = x.next[:0]
	for g := range x.timed {
		if !g.wake.IsZero() && (d.Wake.IsZero() || g.wake.Before(d.Wake)) {
			d.Wake = g.wake
		}
	}
	return d
}

// whole returns what was said last of all workloads.
func (x *index) whole(d Decision) ([]WorkloadStatus, []SlotDecision) {
	for i := range d.Workloads {
		x.tracked[d.Workloads[i].UID].status = &d.Workloads[i]
	}
	if len(d.Workloads)+len(d.Removed) > 0 {
		x.statuses, x.slots = nil, nil
		for _, g := range x.order {
			x.statuses = append(x.statuses, *g.status)
			x.slots = append(x.slots, g.slots...)
		}
	}
	return x.statuses, x.slots
}

// explain records why a slot is as it is; the last word stands.
func (p *pass) explain(w *workload, s *slot, rule, reason string) *SlotDecision {
	s.saying = SlotDecision{
		Slot: s.id, Kind: w.kind, Namespace: w.namespace, Owner: w.name,
		Source: w.object.Source, Commit: w.object.Commit, Revision: w.revision,
		Rule: rule, Reason: reason,
	}
	s.said = &s.saying
	if m := s.holder(); m != nil {
		s.said.Node, s.said.Pod, s.said.Revision = m.Node, m.Name, m.Revision
	}
	return s.said
}
