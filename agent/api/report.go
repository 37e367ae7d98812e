package api

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/manifest"
	"github.com/pleachdev/pleach/gitsync/statusbranch"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/state"
)

// Status is what "pleach status" shows: the whole node at one moment.
type Status struct {
	Node    string    `json:"node"`
	Version string    `json:"version"` // of the agent
	Now     time.Time `json:"now"`     // by the agent's clock
	Cluster string    `json:"cluster,omitempty"`
	// Head is the newest verified commit; zero before the first.
	Head       reconcile.Commit    `json:"head"`
	Remote     gitsync.Remote      `json:"remote"`
	StatusPush statusbranch.Status `json:"statusPush"`
	// Units are the cluster's own files, then the apps by name.
	Units     []Unit                      `json:"units"`
	Nodes     []NodeSummary               `json:"nodes"`
	Workloads []*reconcile.WorkloadStatus `json:"workloads"` // sorted by namespace, kind, name
	Refusals  []gitsync.Refusal           `json:"refusals"`
	Warnings  []manifest.Problem          `json:"warnings"`
}

// Unit is what is accepted or refused as a whole.
type Unit struct {
	Name    string           `json:"name"`
	Commit  reconcile.Commit `json:"commit"` // that is in force
	Objects int              `json:"objects"`
	// Refused is the newest commit that this unit did not follow; nil when it is at the head.
	Refused *reconcile.Commit `json:"refused,omitempty"`
}

// NodeSummary is one node in a Status.
type NodeSummary struct {
	Name   string `json:"name"`
	Known  bool   `json:"known"` // a document of it is here
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"` // why it is not ready
	// Standing is how this node holds it, and since when; "" for this node itself, and for one that was
	// not heard of.
	Standing state.Standing `json:"standing,omitempty"`
	Since    time.Time      `json:"since,omitzero"`
	Heard    time.Time      `json:"heard,omitzero"` // when its newest document came
	// Scheduling is "" where pods may come, else "cordoned" or "draining".
	Scheduling string           `json:"scheduling,omitempty"`
	Head       reconcile.Commit `json:"head"`
	// Behind names the units that it accepted at another commit than this node.
	Behind  []string `json:"behind,omitempty"`
	Pods    int      `json:"pods"`
	Running int      `json:"running"`
}

// Description is all that is known of one object, for "pleach describe".
type Description struct {
	Node   string          `json:"node"` // that this comes from
	Kind   string          `json:"kind"`
	Object json.RawMessage `json:"object"`
	// Source and Commit say where Git has it; zero for pods of workloads, nodes and events.
	Source   reconcile.Source          `json:"source"`
	Commit   reconcile.Commit          `json:"commit"`
	Workload *reconcile.WorkloadStatus `json:"workload,omitempty"`
	// Pods are the workload's, or those on the node.
	Pods         []*corev1.Pod  `json:"pods,omitempty"`
	Explanations []Explanation  `json:"explanations,omitempty"`
	Events       []corev1.Event `json:"events,omitempty"`
}

// Explanation says for one slot what was decided, by which rule, and where that was written.
type Explanation struct {
	Slot      string           `json:"slot"` // "deploy/web/2", "ds/agent/node-1"
	Kind      string           `json:"kind"`
	Namespace string           `json:"namespace"`
	Workload  string           `json:"workload"`
	Source    reconcile.Source `json:"source"`
	Commit    reconcile.Commit `json:"commit"` // that last changed the workload
	Revision  string           `json:"revision"`
	Node      string           `json:"node,omitempty"`
	// Candidates are the nodes that may claim the slot, best first.
	Candidates []string `json:"candidates,omitempty"`
	Rule       string   `json:"rule"` // one of the Rule constants of package reconcile
	Reason     string   `json:"reason,omitempty"`
	// Pods fill the slot; none when it is open, two during a surge.
	Pods []*reconcile.Instance `json:"pods,omitempty"`
	// Standings say of the pods' nodes that are not alive how they are held, by node.
	Standings map[string]string `json:"standings,omitempty"`
}

func (v view) status() Status {
	st := Status{Node: v.node, Remote: v.Remote(), StatusPush: v.StatusPush(), Workloads: v.Workloads()}
	slices.SortStableFunc(st.Workloads, func(a, b *reconcile.WorkloadStatus) int { return cmp.Compare(a.Namespace, b.Namespace) })
	a := v.Accepted()
	if a == nil {
		return st
	}
	st.Cluster, st.Head, st.Refusals, st.Warnings = a.Cluster.Name, a.Head, a.Refusals, a.Warnings
	unit := func(name string, c reconcile.Commit, objects int) {
		u := Unit{Name: name, Commit: c, Objects: objects}
		for _, r := range a.Refusals { // sorted by level: the last one is the newest
			if r.App == name || r.App == "" {
				u.Refused = &r.Commit
			}
		}
		st.Units = append(st.Units, u)
	}
	unit(gitsync.ClusterUnit, a.ClusterCommit, 1+len(a.Nodes))
	for _, app := range a.Apps {
		unit(app.Name, app.Commit, len(app.Objects))
	}
	for _, n := range a.Nodes {
		s := summary(n.Name, v.Document(n.Name))
		s.hold(v.Member(n.Name))
		if n.Spec.Unschedulable {
			s.Scheduling = "cordoned"
		}
		if slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == reconcile.DrainTaint }) {
			s.Scheduling = "draining"
		}
		if d := v.Document(n.Name); d != nil {
			for _, u := range st.Units {
				if d.Accepted != nil && d.Accepted[u.Name].ID != u.Commit.ID {
					s.Behind = append(s.Behind, u.Name)
				}
			}
		}
		st.Nodes = append(st.Nodes, s)
	}
	return st
}

func summary(name string, d *reconcile.Document) NodeSummary {
	s := NodeSummary{Name: name, Reason: "not heard of"}
	if d == nil {
		return s
	}
	s.Known, s.Head, s.Pods, s.Reason = true, d.Head, len(d.Instances), "has not said that it is ready"
	for _, c := range d.Conditions {
		if c.Type == corev1.NodeReady {
			s.Ready, s.Reason = c.Status == corev1.ConditionTrue, ""
			if !s.Ready {
				s.Reason = cmp.Or(c.Message, c.Reason)
			}
		}
	}
	for _, i := range d.Instances {
		if i.Phase == corev1.PodRunning && !i.Terminating {
			s.Running++
		}
	}
	return s
}

// describe returns the object of that name, or else all whose names begin with it, as kubectl does.
func (v view) describe(k Kind, namespace, name string) ([]Description, error) {
	var exact, prefixed []reconcile.K8sObject
	for _, o := range v.objects(k) {
		switch {
		case k.Namespaced && namespace != "" && o.GetNamespace() != namespace:
		case name == "" || strings.HasPrefix(o.GetName(), name) && o.GetName() != name:
			prefixed = append(prefixed, o)
		case o.GetName() == name:
			exact = append(exact, o)
		}
	}
	if len(exact) == 0 {
		exact = prefixed
	}
	var out []Description
	for _, o := range exact {
		d, err := v.description(k, o)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

func (v view) description(k Kind, o reconcile.K8sObject) (Description, error) {
	body, err := json.Marshal(o)
	if err != nil {
		return Description{}, fmt.Errorf("%s %s/%s: %w", k.Kind, o.GetNamespace(), o.GetName(), err)
	}
	d := Description{Node: v.node, Kind: k.Kind, Object: body}
	for _, a := range v.admitted(k.Kind) {
		if a.Object.GetNamespace() == o.GetNamespace() && a.Object.GetName() == o.GetName() {
			d.Source, d.Commit = a.Source, a.Commit
		}
	}
	switch {
	case k.Kind == "Pod":
		d.Explanations = v.explain(k, o.GetNamespace(), o.GetName(), "")
	case k.Workload:
		d.Workload = v.Workload(k.Kind, o.GetNamespace(), o.GetName())
		d.Pods = v.podsOf(k.Kind, o.GetNamespace(), o.GetName())
		d.Explanations = v.explain(k, o.GetNamespace(), o.GetName(), "")
	case k.Kind == "Node":
		for _, p := range v.pods() {
			if p := p.(*corev1.Pod); p.Spec.NodeName == o.GetName() {
				d.Pods = append(d.Pods, p)
			}
		}
	}
	for _, e := range v.Events() {
		on := e.InvolvedObject
		if on.Kind == k.Kind && on.Namespace == o.GetNamespace() && on.Name == o.GetName() &&
			(on.UID == "" || on.UID == o.GetUID()) {
			d.Events = append(d.Events, *e)
		}
	}
	return d, nil
}

// explain returns what was decided about the slots of a workload, or about the slot that a pod
// fills. slot narrows it to one: an ordinal or a node's name.
func (v view) explain(k Kind, namespace, name, slot string) []Explanation {
	instances := v.instances()
	wanted := func(kind, ns, workload string, s reconcile.Slot) bool {
		if kind != k.Kind || ns != namespace || workload != name {
			return false
		}
		return slot == "" || slot == s.Node || s.Node == "" && slot == strconv.Itoa(int(s.Ordinal))
	}
	if k.Kind == "Pod" {
		byPod := map[reconcile.Slot]bool{}
		if p := v.Pod(namespace, name); p != nil {
			if inst, err := reconcile.UnmarshalInstance(p); err == nil {
				byPod[inst.Slot] = true
			}
		}
		for _, inst := range instances {
			if inst.Namespace == namespace && inst.Name == name {
				byPod[inst.Slot] = true
			}
		}
		wanted = func(_, ns, _ string, s reconcile.Slot) bool { return ns == namespace && byPod[s] }
	}
	found := map[reconcile.Slot]*Explanation{}
	var order []reconcile.Slot
	get := func(kind, ns, workload string, s reconcile.Slot) *Explanation {
		e := found[s]
		if e == nil {
			e = &Explanation{Slot: SlotName(kind, workload, s), Kind: kind, Namespace: ns, Workload: workload}
			found[s] = e
			order = append(order, s)
		}
		return e
	}
	for _, d := range v.Decisions() {
		if wanted(d.Kind, d.Namespace, d.Owner, d.Slot) {
			e := get(d.Kind, d.Namespace, d.Owner, d.Slot)
			e.Candidates = d.Candidates
			e.Source, e.Commit, e.Revision, e.Node, e.Rule, e.Reason = d.Source, d.Commit, d.Revision, d.Node, d.Rule, d.Reason
		}
	}
	for _, inst := range instances {
		if wanted(inst.Kind, inst.Namespace, inst.Owner, inst.Slot) {
			e := get(inst.Kind, inst.Namespace, inst.Owner, inst.Slot)
			e.Pods = append(e.Pods, inst)
			if m := v.Member(inst.Node); m != nil && m.Standing != state.Alive {
				if e.Standings == nil {
					e.Standings = map[string]string{}
				}
				e.Standings[inst.Node] = standing(m)
			}
			e.Node = cmp.Or(e.Node, inst.Node)
		}
	}
	for _, w := range v.Workloads() {
		for _, r := range w.Waiting {
			if wanted(w.Kind, w.Namespace, w.Name, r.Slot) {
				e := get(w.Kind, w.Namespace, w.Name, r.Slot)
				e.Reason, e.Node = cmp.Or(e.Reason, r.Reason), cmp.Or(e.Node, r.Node)
			}
		}
	}
	out := make([]Explanation, 0, len(order))
	for _, s := range order {
		e := found[s]
		if w := v.Workload(e.Kind, e.Namespace, e.Workload); w != nil {
			e.Revision = cmp.Or(e.Revision, w.Revision)
			if e.Source.Path == "" {
				e.Source, e.Commit = w.Source, w.Commit
			}
		}
		out = append(out, *e)
	}
	slices.SortStableFunc(out, func(a, b Explanation) int {
		// shorter first puts ordinal 2 before 10
		return cmp.Or(cmp.Compare(a.Workload, b.Workload), cmp.Compare(len(a.Slot), len(b.Slot)), cmp.Compare(a.Slot, b.Slot))
	})
	return out
}
