package reconcile

import (
	"fmt"
	"maps"
	"math/rand"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// tale is what one node hears: documents of others that may say anything, commits, nodes that come and
// go, and time.
type tale struct {
	r    *rand.Rand
	in   Input // the whole of it
	docs map[string]Document
	seq  int64
	news map[string]bool // documents that are new since the last step
	lost []string        // and those that count no more
	asks []Ask           // of the last steps
}

const taleNodes = 6

func newTale(seed int64) *tale {
	x := &tale{r: rand.New(rand.NewSource(seed)), docs: map[string]Document{}, news: map[string]bool{}}
	x.in = Input{Self: "n0", Boot: 3, Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Apps: []string{"shop", "tools"}, Accepted: map[string]Commit{}}
	for i := range taleNodes {
		x.in.Nodes = append(x.in.Nodes, Node{Node: testNode(fmt.Sprint("n", i), fmt.Sprint(1+x.r.Intn(3)), "8Gi"), Stable: true})
	}
	x.commit()
	for i := range taleNodes {
		x.say(fmt.Sprint("n", i), func(*Document) {})
	}
	return x
}

func (x *tale) pick(from ...string) string { return from[x.r.Intn(len(from))] }

// say lets a node publish another document.
func (x *tale) say(node string, change func(*Document)) {
	d := x.docs[node]
	if d.Node == "" {
		d = Document{Node: node, Boot: 1, Accepted: x.in.Accepted}
	}
	d.Instances, d.Releases, d.Declines = slices.Clone(d.Instances), slices.Clone(d.Releases), slices.Clone(d.Declines)
	change(&d)
	x.seq++
	d.Seq = x.seq
	x.docs[node], x.news[node] = d, true
	x.lost = slices.DeleteFunc(x.lost, func(name string) bool { return name == node })
}

// commit changes some of what is wanted.
func (x *tale) commit() {
	level := x.in.Accepted["shop"].Level + 1
	c := Commit{ID: fmt.Sprint("c", level), Level: level}
	accepted := map[string]Commit{clusterUnit: c, "shop": c, "tools": c}
	if x.r.Intn(8) == 0 {
		accepted["tools"] = x.in.Accepted["tools"] // refused
	}
	if x.r.Intn(15) == 0 {
		delete(accepted, "tools")
	}
	old := map[types.UID]Object{}
	for _, o := range x.in.Objects {
		old[o.Object.GetUID()] = o
	}
	x.in.Accepted, x.in.Objects = accepted, nil
	x.in.Apps = []string{"shop"}
	if x.r.Intn(8) > 0 {
		x.in.Apps = append(x.in.Apps, "tools")
	}
	for i := range 5 {
		uid := types.UID(fmt.Sprint("uid-", i))
		before, was := old[uid]
		switch {
		case x.r.Intn(6) == 0:
			continue
		case was && x.r.Intn(3) > 0:
			x.in.Objects = append(x.in.Objects, before)
			continue
		}
		o := x.object(i)
		o.Object.SetUID(uid)
		o.Object.SetName(fmt.Sprint("w", i))
		o.Source, o.Commit = Source{App: []string{"shop", "tools"}[i%2], Path: "x.yaml", Line: i}, c
		o.Templates = []Template{{Revision: revisionOf(o), Commit: c, Spec: podTemplate(o)}}
		for _, t := range before.Templates {
			if t.Revision != o.Templates[0].Revision {
				o.Templates = append(o.Templates, t)
			}
		}
		x.in.Objects = append(x.in.Objects, o)
	}
	if x.r.Intn(3) == 0 {
		x.in.Objects = append(x.in.Objects, Object{Object: &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", UID: "ns", Labels: map[string]string{"team": x.pick("red", "blue")}}}})
	}
}

func (x *tale) object(i int) Object {
	image := x.pick("a", "b", "c")
	switch i {
	case 3:
		d := daemonSet(image, int32(x.r.Intn(2)), int32(x.r.Intn(2)))
		if x.r.Intn(3) == 0 {
			d.Spec.Template.Spec.NodeSelector = map[string]string{"disk": "ssd"}
		}
		d.Spec.MinReadySeconds = int32(x.r.Intn(2) * 5)
		return Object{Object: d}
	case 4:
		return Object{Object: pod(image, corev1.RestartPolicyNever)}
	}
	d := deployment(image, int32(x.r.Intn(6)), int32(x.r.Intn(3)), int32(x.r.Intn(2)))
	d.Spec.Paused = x.r.Intn(6) == 0
	d.Spec.MinReadySeconds = int32(x.r.Intn(2) * 5)
	d.Spec.ProgressDeadlineSeconds = new(int32(30 + x.r.Intn(100)))
	if x.r.Intn(6) == 0 {
		d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	} else if x.r.Intn(4) == 0 {
		d.Spec.Strategy.RollingUpdate.MaxUnavailable = new(intstr.FromString("50%"))
	}
	spec := &d.Spec.Template.Spec
	spec.Priority = new(int32(x.r.Intn(3) * 100))
	spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse(x.pick("100m", "300m", "700m"))
	if x.r.Intn(3) == 0 {
		spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: "kubernetes.io/hostname", WhenUnsatisfiable: corev1.DoNotSchedule,
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		}}
	}
	return Object{Object: d}
}

// instance makes up a pod that a node may run.
func (x *tale) instance(node string) (m Instance, ok bool) {
	o := x.in.Objects[x.r.Intn(len(x.in.Objects))]
	if len(o.Templates) == 0 {
		return m, false
	}
	t := o.Templates[x.r.Intn(len(o.Templates))]
	m = Instance{
		Slot: Slot{Workload: o.Object.GetUID(), Ordinal: int32(x.r.Intn(6))}, Revision: t.Revision, Epoch: int64(1 + x.r.Intn(4)), Node: node, Boot: int64(1 + x.r.Intn(2)),
		Claimed: x.in.Now.Add(-time.Duration(x.r.Intn(100)) * time.Second), Cause: x.pick(o.Commit.ID, t.Commit.ID, "n3/1"), Commit: t.Commit, App: o.Source.App,
		Namespace: "default", Owner: o.Object.GetName(), Phase: corev1.PodPending,
	}
	switch o.Object.(type) {
	case *appsv1.DaemonSet:
		m.Kind, m.Slot = kindDaemonSet, Slot{Workload: m.Slot.Workload, Node: node}
	case *corev1.Pod:
		m.Kind, m.Slot.Ordinal = kindPod, 0
	default:
		m.Kind = kindDeployment
	}
	m.Name, m.UID = m.PodID()
	return m, true
}

// happen is one thing.
func (x *tale) happen(decided Decision) {
	node := fmt.Sprint("n", x.r.Intn(taleNodes))
	now := x.in.Now.Add(-time.Duration(x.r.Intn(3)) * time.Second)
	if x.in.Answers = nil; x.r.Intn(3) > 0 {
		for _, a := range x.asks {
			x.in.Answers = append(x.in.Answers, Answer{Ask: a, Yes: x.r.Intn(3) > 0, Reason: "no", At: x.in.Now})
		}
	}
	switch x.r.Intn(20) {
	case 0:
		x.commit()
	case 1, 2:
		x.say(node, func(d *Document) { d.Accepted = x.in.Accepted })
	case 3:
		x.say(node, func(d *Document) {
			if m, ok := x.instance(node); ok && !slices.ContainsFunc(d.Instances, func(o Instance) bool { return o.UID == m.UID }) {
				d.Instances = append(d.Instances, m)
			}
		})
	case 4, 5, 6, 7, 8:
		x.say(node, func(d *Document) {
			if len(d.Instances) == 0 {
				return
			}
			i := x.r.Intn(len(d.Instances))
			m := &d.Instances[i]
			what := x.r.Intn(6)
			if m.Terminating {
				what = 5
			}
			switch what {
			case 0, 1, 2:
				if m.Ready = !m.Ready && !m.Terminating; m.Ready {
					m.Phase, m.ReadySince, m.Reason = corev1.PodRunning, now, ""
				}
			case 3:
				m.Phase, m.Ready, m.Reason = []corev1.PodPhase{corev1.PodFailed, corev1.PodSucceeded}[x.r.Intn(2)], false, x.pick("", "OOMKilled")
			case 4:
				m.Terminating = true
			case 5:
				d.Releases = append(d.Releases, Release{Slot: m.Slot, Revision: m.Revision, Epoch: m.Epoch, By: x.pick("c1", ByEnded), At: now})
				d.Instances = slices.Delete(d.Instances, i, i+1)
			}
		})
	case 9:
		if len(decided.Slots) > 0 {
			s := decided.Slots[x.r.Intn(len(decided.Slots))]
			x.say(node, func(d *Document) {
				d.Declines = append(d.Declines, Decline{Slot: s.Slot, Revision: s.Revision, Reason: "no such device", At: now})
				d.Declines = d.Declines[max(0, len(d.Declines)-2):]
			})
		}
	case 10:
		i := x.r.Intn(len(x.in.Nodes))
		x.in.Nodes = slices.Clone(x.in.Nodes)
		x.in.Nodes[i].Gone = !x.in.Nodes[i].Gone && i > 0
	case 11:
		i := x.r.Intn(len(x.in.Nodes))
		x.in.Nodes = slices.Clone(x.in.Nodes)
		n := x.in.Nodes[i].Node.DeepCopy()
		switch x.r.Intn(4) {
		case 0:
			n.Spec.Unschedulable = !n.Spec.Unschedulable
		case 1:
			n.Labels["disk"] = x.pick("ssd", "hdd")
		case 2:
			n.Spec.Taints = nil
			if x.r.Intn(2) == 0 {
				n.Spec.Taints = []corev1.Taint{{Key: "out", Effect: corev1.TaintEffectNoExecute}}
			}
		case 3:
			x.in.Nodes[i].Stable = !x.in.Nodes[i].Stable
		}
		x.in.Nodes[i].Node = n
	case 12:
		if x.r.Intn(3) == 0 && node != "n0" {
			delete(x.docs, node)
			delete(x.news, node)
			x.lost = append(x.lost, node)
		}
	case 13:
		x.say(node, func(d *Document) {
			d.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(x.pick("500m", "2", "3")), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("9")}
			d.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionStatus(x.pick("True", "True", "False"))}}
		})
	case 14:
		if x.r.Intn(4) == 0 { // a node more or less
			if len(x.in.Nodes) == taleNodes {
				x.in.Nodes = append(slices.Clip(x.in.Nodes), Node{Node: testNode("n9", "2", "8Gi")})
			} else {
				x.in.Nodes = slices.Clip(x.in.Nodes[:taleNodes])
			}
		}
	case 16:
		x.in.Now = x.in.Now.Add(time.Duration(x.r.Intn(60)) * time.Second)
		if x.r.Intn(3) == 0 {
			x.in.Now = x.in.Now.Add(time.Duration(x.r.Intn(12)-1) * time.Minute)
		}
	default:
		x.in.Now = x.in.Now.Add(time.Duration(x.r.Intn(3000)) * time.Millisecond)
	}
}

// obey carries out what was decided, sometimes.
func (x *tale) obey(d Decision) {
	if x.r.Intn(4) == 0 {
		return
	}
	x.say("n0", func(o *Document) {
		o.Declines = append(o.Declines, d.Declines...)
		for _, a := range d.Actions {
			if a.Kind == Start {
				o.Instances = append(o.Instances, a.Instance)
				x.in.Pods = append(slices.Clip(x.in.Pods), a.Pod)
				continue
			}
			for i := range o.Instances {
				if o.Instances[i].UID == a.Instance.UID {
					o.Instances[i].Terminating, o.Instances[i].Ready = true, false
				}
			}
		}
	})
}

func (x *tale) input(partial bool) Input {
	in := x.in
	in.Partial = partial
	for i := range taleNodes {
		name := fmt.Sprint("n", i)
		if d, ok := x.docs[name]; ok && (!partial || x.news[name]) {
			in.Documents = append(in.Documents, d)
		}
	}
	if partial {
		in.Without = x.lost
	}
	return in
}

// TestAStepIsThatOfANewState tells tales of which each step sees what is new alone, and compares it with
// the step of a state that has nothing but the same memory and sees everything.
func TestAStepIsThatOfANewState(t *testing.T) {
	rules := map[string]int{}
	for seed := range seeds(10, 300) {
		x := newTale(seed)
		state, last := State{}, Decision{}
		for step := range 120 {
			fresh, want := Step(anew(state), x.input(false))
			var got Decision
			first := state.index == nil
			state, got = Step(state, x.input(!first))
			if got = laid(got, last); first {
				got.Removed = nil
			}
			x.news, x.lost = map[string]bool{}, nil
			x.asks = append(x.asks[max(len(x.asks)-20, 0):], want.Asks...)
			want.Removed, got.Removed, want.Asks, got.Asks = nil, nil, nil, nil // asked again only when decided again
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d, step %d: the decision differs from that of a new state: %s", seed, step, differ(got, want))
			}
			if a, b := state.all(), fresh.all(); !reflect.DeepEqual(a, b) {
				t.Fatalf("seed %d, step %d: the state remembers other things than a new one: %s", seed, step, differ(a, b))
			}
			last = want
			for _, s := range want.Slots {
				rules[s.Rule]++
			}
			for _, a := range want.Actions {
				by := a.By
				if strings.HasPrefix(by, "c") {
					by = "commit"
				}
				rules[string(a.Kind)+" by "+strings.TrimRight(by, "0123456789")]++
			}
			x.obey(want)
			for range 1 + x.r.Intn(2) {
				x.happen(want)
			}
		}
	}
	for _, rule := range []string{
		RuleKeep, RuleStart, RuleStop, RulePlacement, RuleClaim, RuleRollout, RuleEnding, RuleBackOff, RuleFinished,
		"Start by commit", "Stop by commit", "Stop by " + ByEnded, "Stop by " + ByEviction, "Stop by " + ByDuplicate,
	} {
		if int64(rules[rule]) < seeds(1, 30) {
			t.Errorf("%q was seen %d times: the tales tell little", rule, rules[rule])
		}
	}
	t.Log(rules)
}

// TestADocumentIsStruckAnew gives a document again under its number, of which less is believed meanwhile, or
// more.
func TestADocumentIsStruckAnew(t *testing.T) {
	w := newFlock(t, 1, 2).worlds[0]
	w.push(Object{Object: deployment("a", 2, 1, 0)})
	d := Document{Node: "n1", Boot: 1, Seq: 5, Accepted: w.in.Accepted, Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4")}}
	for i := range int32(2) {
		m := Instance{
			Slot: Slot{Workload: "uid-web", Ordinal: i}, Revision: "a100m00000", Epoch: 1, Node: "n1", Boot: 1, Claimed: w.now, Commit: w.in.Accepted["shop"], App: "shop",
			Kind: kindDeployment, Namespace: "default", Owner: "web", Phase: corev1.PodRunning, Ready: true, ReadySince: w.now,
		}
		m.Name, m.UID = m.PodID()
		d.Instances = append(d.Instances, m)
	}
	for _, n := range []int{2, 1, 0, 2} {
		struck := d
		struck.Instances = slices.Clone(d.Instances[:n])
		if n == 0 {
			struck.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}
		}
		w.in.Documents = []Document{struck}
		if got := w.decide(w.input()).Workloads[0].Ready; int(got) != n {
			t.Errorf("of %d pods that are believed, %d are ready", n, got)
		}
	}
}

// laid lays what a step decided over what was decided before.
func laid(d, before Decision) Decision {
	anew := map[types.UID]bool{}
	for _, uid := range d.Removed {
		anew[uid] = true
	}
	for i := range d.Workloads {
		anew[d.Workloads[i].UID] = true
	}
	of := map[types.UID]int{}
	for _, w := range before.Workloads {
		if !anew[w.UID] {
			d.Workloads = append(d.Workloads, w)
		}
	}
	slices.SortStableFunc(d.Workloads, func(a, b WorkloadStatus) int {
		return strings.Compare(a.Kind+a.Namespace+a.Name, b.Kind+b.Namespace+b.Name)
	})
	for i, w := range d.Workloads {
		of[w.UID] = i
	}
	for _, s := range before.Slots {
		if !anew[s.Slot.Workload] {
			d.Slots = append(d.Slots, s)
		}
	}
	slices.SortStableFunc(d.Slots, func(a, b SlotDecision) int { return of[a.Slot.Workload] - of[b.Slot.Workload] })
	return d
}

// anew is a new state with the memory of another, and what came of questions and was promised: that is in
// no document.
func anew(s State) State {
	n := Resume(s.all())
	if s.index != nil {
		n.index = newIndex(s.index.self, n.memory)
		n.index.answers = maps.Clone(s.index.answers)
		r := s.index.registry
		r.claims, r.tokens, r.words = maps.Clone(r.claims), maps.Clone(r.tokens), maps.Clone(r.words)
		n.index.registry = r
	}
	return n
}
