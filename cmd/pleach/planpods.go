package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/agent/api"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/reconcile/foretell"
)

// workloadPlan is what becomes of one workload's pods.
type workloadPlan struct {
	Workload string `json:"workload"` // "Deployment default/web"
	// Manner is how it changes where pods are replaced: "rolls, maxSurge 1, maxUnavailable 25%".
	Manner string     `json:"manner,omitempty"`
	Path   string     `json:"path,omitempty"`
	Line   int        `json:"line,omitempty"`
	Slots  []slotPlan `json:"slots"`
}

// slotPlan is what becomes of one slot.
type slotPlan struct {
	Slot   string `json:"slot"` // "deploy/web/2"
	Change string `json:"change"`
	From   string `json:"from,omitempty"` // node
	To     string `json:"to,omitempty"`   // node
	Pod    string `json:"pod,omitempty"`  // that runs in the end; the old one's when it ends
	// Revision is the one that runs in the end.
	Revision string `json:"revision,omitempty"`
	// Step orders what happens, from 1; what has the same step happens side by side.
	Step       int      `json:"step,omitempty"`
	Manner     string   `json:"manner,omitempty"` // surge, or stop first
	Reason     string   `json:"reason,omitempty"`
	Candidates []string `json:"candidates,omitempty"` // nodes that may claim it, best first
}

// What becomes of a slot.
const (
	stays    = "stays"
	starts   = "starts"
	replaced = "replaced" // on the same node
	moves    = "moves"
	ends     = "ends"
	waits    = "waits" // no node, or another reason not to run
)

// totals counts the slots by what becomes of them.
type totals struct {
	Objects  int `json:"objects"`
	Starts   int `json:"starts"`
	Replaced int `json:"replaced"`
	Moves    int `json:"moves"`
	Ends     int `json:"ends"`
	Stays    int `json:"stays"`
	Waits    int `json:"waits"`
}

func (t totals) String() string {
	if t == (totals{Stays: t.Stays, Waits: t.Waits}) {
		return "nothing changes" + t.waiting() + "."
	}
	parts := []string{verb(t.Starts, "pod starts", "pods start")}
	if t.Replaced > 0 {
		parts = append(parts, verb(t.Replaced, "is replaced where it is", "are replaced where they are"))
	}
	parts = append(parts, verb(t.Moves, "moves", "move"), verb(t.Ends, "ends", "end"))
	return verb(t.Objects, "object changes", "objects change") + "; " + strings.Join(parts, ", ") + t.waiting() + "."
}

func (t totals) waiting() string {
	if t.Waits == 0 {
		return ""
	}
	return "; " + verb(t.Waits, "slot has", "slots have") + " no pod"
}

// verb says how many do something.
func verb(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// comparePods says what becomes of every slot between what ran and what runs in the end.
func comparePods(before, after []reconcile.Instance, course foretell.Course, objects []reconcile.Object) ([]workloadPlan, totals) {
	c := comparison{was: holders(before), is: holders(after), events: map[reconcile.Slot][]foretell.Event{}, steps: map[int]int{}}
	for _, e := range course.Events {
		if _, ok := c.steps[e.Round]; !ok {
			c.steps[e.Round] = len(c.steps) + 1
		}
		c.events[e.Instance.Slot] = append(c.events[e.Instance.Slot], e)
	}
	var out []workloadPlan
	index := map[types.UID]int{}
	of := func(uid types.UID, name string, source reconcile.Source) *workloadPlan {
		i, ok := index[uid]
		if !ok {
			i = len(out)
			index[uid] = i
			out = append(out, workloadPlan{Workload: name, Path: source.Path, Line: source.Line})
		}
		return &out[i]
	}
	decided := map[reconcile.Slot]bool{}
	for _, d := range course.Slots {
		decided[d.Slot] = true
		if d.Rule == reconcile.RuleFinished {
			continue
		}
		w := of(d.Slot.Workload, d.Kind+" "+d.Namespace+"/"+d.Owner, d.Source)
		w.Slots = append(w.Slots, c.slot(d.Slot, api.SlotName(d.Kind, d.Owner, d.Slot), d))
	}
	for _, m := range before {
		if !decided[m.Slot] {
			decided[m.Slot] = true
			w := of(m.Slot.Workload, m.Kind+" "+m.Namespace+"/"+m.Owner, reconcile.Source{})
			w.Slots = append(w.Slots, c.slot(m.Slot, api.SlotName(m.Kind, m.Owner, m.Slot), reconcile.SlotDecision{}))
		}
	}
	for _, o := range objects {
		if i, ok := index[o.Object.GetUID()]; ok && c.rolled[o.Object.GetUID()] {
			out[i].Manner = manner(o.Object)
		}
	}
	slices.SortStableFunc(out, func(a, b workloadPlan) int { return cmp.Compare(a.Workload, b.Workload) })
	return out, c.totals
}

type comparison struct {
	was, is map[reconcile.Slot]reconcile.Instance
	events  map[reconcile.Slot][]foretell.Event
	steps   map[int]int // by round
	rolled  map[types.UID]bool
	totals  totals
}

// holders are the pods by slot: of several the one that is ready, started last.
func holders(list []reconcile.Instance) map[reconcile.Slot]reconcile.Instance {
	out := make(map[reconcile.Slot]reconcile.Instance, len(list))
	for _, m := range list {
		if old, ok := out[m.Slot]; !ok || m.Ready && !old.Ready || m.Ready == old.Ready && m.Epoch > old.Epoch {
			out[m.Slot] = m
		}
	}
	return out
}

func (c *comparison) slot(slot reconcile.Slot, name string, d reconcile.SlotDecision) slotPlan {
	p := slotPlan{Slot: name}
	old, ran := c.was[slot]
	now, runs := c.is[slot]
	if ran {
		p.From, p.Pod, p.Revision = old.Node, old.Name, old.Revision
	}
	if runs {
		p.To, p.Pod, p.Revision = now.Node, now.Name, now.Revision
	}
	switch {
	case runs && ran && now.UID == old.UID:
		p.Change = stays
		c.totals.Stays++
		if d.Rule == reconcile.RuleRollout || d.Rule == reconcile.RulePlacement || d.Rule == reconcile.RuleClaim {
			p.Reason = "keeps revision " + old.Revision + ": " + d.Reason
		}
		return p
	case runs && !ran:
		p.Change = starts
		c.totals.Starts++
	case runs && now.Node == old.Node:
		p.Change = replaced
		c.totals.Replaced++
	case runs:
		p.Change = moves
		c.totals.Moves++
	case d.Rule == "":
		p.Change = ends
		c.totals.Ends++
	default:
		p.Change, p.Reason, p.Candidates = waits, d.Reason, d.Candidates
		c.totals.Waits++
		if ran {
			c.totals.Ends++
		}
	}
	var reasons []string
	for _, e := range c.events[slot] {
		if p.Step == 0 {
			p.Step = c.steps[e.Round]
			if runs && ran {
				p.Manner = map[reconcile.ActionKind]string{reconcile.Start: "surge", reconcile.Stop: "stop first"}[e.Kind]
				if c.rolled == nil {
					c.rolled = map[types.UID]bool{}
				}
				c.rolled[slot.Workload] = true
			}
		}
		if len(e.Candidates) > 0 {
			p.Candidates = e.Candidates
		}
		if e.Kind == reconcile.Stop {
			reasons = append(reasons, e.Reason)
		}
	}
	if p.Reason == "" {
		p.Reason = strings.Join(slices.Compact(reasons), "; ")
	}
	return p
}

// manner words a workload's update strategy as it is written.
func manner(o reconcile.K8sObject) string {
	limits := func(surge, unavailable any) string {
		return fmt.Sprintf("rolls, maxSurge %v, maxUnavailable %v", surge, unavailable)
	}
	switch o := o.(type) {
	case *appsv1.Deployment:
		if o.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
			return "all pods end before the first new one starts (Recreate)"
		}
		if r := o.Spec.Strategy.RollingUpdate; r != nil && r.MaxSurge != nil && r.MaxUnavailable != nil {
			return limits(r.MaxSurge, r.MaxUnavailable)
		}
	case *appsv1.DaemonSet:
		if r := o.Spec.UpdateStrategy.RollingUpdate; r != nil && r.MaxSurge != nil && r.MaxUnavailable != nil {
			return limits(r.MaxSurge, r.MaxUnavailable)
		}
	}
	return ""
}
