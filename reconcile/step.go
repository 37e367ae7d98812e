// Package reconcile decides what a node does: which slots the workloads want, which of them are this
// node's to fill, and how they change from one revision to the next.
//
// It is pure. [Step] takes the state of the last step and one snapshot of what the node knows, and
// returns the next state and a [Decision]; it reads no clock, randomness, file or socket, and the
// order of its input does not matter. There is no leader: every node takes the same step over the
// same documents, and does its own share of the actions.
//
//	objects ── workloads ── slots ─┬─ decide: keep, stop, or want a pod   (rollout, empty)
//	documents ── instances ────────┘         │
//	nodes ──────────── placement.Plan ── claim: start, wait for a rank, or decline
package reconcile

import (
	"cmp"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Input is one snapshot of what a node knows. Step changes nothing of it.
type Input struct {
	Self string // this node's name
	Boot int64  // this node's boot counter
	Now  time.Time

	Objects  []Object          // of all apps, in any order
	Apps     []string          // names in spec.apps of the accepted pleach.yaml
	Accepted map[string]Commit // accepted commit per app; as in Document
	Nodes    []Node
	// Documents holds the newest document of every node, this node's own included, which must name
	// every pod that the node runs, is starting, or is stopping, and every bare Pod that finished
	// while its object stands. Documents of gone nodes are not read.
	Documents []Document
	// Pods are the pods of this node. They tell what an instance asks for when its template has
	// left the history.
	Pods []*corev1.Pod
	// Confirmed names pods whose node answered a direct call: I run it, it is ready, I keep it.
	// Only on that evidence is a duplicate stopped.
	Confirmed map[types.UID]bool
}

// Node is an enrolled machine as this node believes it to be.
type Node struct {
	Node   *corev1.Node // as accepted from Git; spec.unschedulable is its cordon
	Gone   bool         // held for dead by the gate of membership
	Stable bool         // seen lately, so that its document is waited for before a claim
}

// Decision is what a node does now, and what it can say about everything.
type Decision struct {
	Actions   []Action // stops first, each in the order of workloads and slots
	Declines  []Decline
	Workloads []WorkloadStatus // sorted by kind, namespace, name
	Slots     []SlotDecision   // in the order of workloads and slots
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
	RuleRollout   = "rollout"   // waits for another slot
	RuleEnding    = "ending"    // waits for a pod to end
	RuleBackOff   = "back-off"  // its last pod ended
	RuleFinished  = "finished"  // a bare Pod that ran to its end
)

// Step decides. It returns the state to pass in next time, which shares nothing with s.
//
// What rests on documents alone (the order of a rollout, duplicates) holds under any delay, loss or
// order of documents. That a slot has one claim rests on the rank delay and holds while documents
// arrive within it.
func Step(s State, in Input) (State, Decision) {
	p := newPass(s, in)
	for _, w := range p.workloads {
		p.decide(w)
	}
	p.place()
	p.remove()
	for _, w := range p.workloads {
		p.report(w)
	}
	p.forget()
	return p.state, p.finish()
}

// pass is one run of Step.
type pass struct {
	in        Input
	state     State
	nodes     []Node               // sorted by name
	docs      map[string]*Document // of nodes that are not gone
	pods      map[types.UID]*corev1.Pod
	workloads []*workload // sorted by kind, namespace, name, uid
	byUID     map[types.UID]*workload
	strays    []Instance          // of workloads that are not wanted
	releases  map[string]released // the newest of each slot
	newest    map[string]accepted // per app, the newest commit that any document speaks of
	sizes     sizes
	wants     []*want
	stops     []Action
	starts    []Action
	stopping  map[types.UID]bool
	declines  []Decline
	slots     map[string]*SlotDecision
	statuses  []WorkloadStatus
	wake      time.Time
}

func newPass(s State, in Input) *pass {
	p := &pass{
		in:       in,
		state:    s.clone(),
		docs:     map[string]*Document{},
		pods:     map[types.UID]*corev1.Pod{},
		byUID:    map[types.UID]*workload{},
		releases: map[string]released{},
		newest:   map[string]accepted{},
		sizes:    sizes{},
		stopping: map[types.UID]bool{},
		slots:    map[string]*SlotDecision{},
	}
	p.nodes = slices.SortedFunc(slices.Values(in.Nodes), func(a, b Node) int { return cmp.Compare(a.Node.Name, b.Node.Name) })
	gone := map[string]bool{}
	for _, n := range p.nodes {
		gone[n.Node.Name] = n.Gone && n.Node.Name != in.Self
	}
	for i := range in.Documents {
		if d := &in.Documents[i]; !gone[d.Node] {
			p.docs[d.Node] = d
		}
	}
	for _, pod := range in.Pods {
		p.pods[pod.UID] = pod
	}
	p.workloads = p.workloadsOf(in.Objects)
	for _, w := range p.workloads {
		p.byUID[w.uid] = w
	}
	p.collect()
	return p
}

// names returns the names of the nodes whose documents count, sorted.
func (p *pass) names() []string {
	return slices.Sorted(maps.Keys(p.docs))
}

// wakeAt asks to be called again at t.
func (p *pass) wakeAt(t time.Time) {
	if p.wake.IsZero() || t.Before(p.wake) {
		p.wake = t
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

func (p *pass) finish() Decision {
	d := Decision{
		Actions:   append(p.stops, p.starts...),
		Declines:  p.declines,
		Workloads: p.statuses,
		Wake:      p.wake,
	}
	for _, w := range p.workloads {
		for _, s := range w.slots {
			if e := p.slots[s.key]; e != nil {
				d.Slots = append(d.Slots, *e)
			}
		}
	}
	return d
}

// explain records why a slot is as it is; the last word stands.
func (p *pass) explain(w *workload, s *slot, rule, reason string) *SlotDecision {
	e := &SlotDecision{
		Slot: s.id, Kind: w.kind, Namespace: w.namespace, Owner: w.name,
		Source: w.object.Source, Commit: w.object.Commit, Revision: w.revision,
		Rule: rule, Reason: reason,
	}
	if m := s.holder(); m != nil {
		e.Node, e.Pod, e.Revision = m.Node, m.Name, m.Revision
	}
	p.slots[s.key] = e
	return e
}
