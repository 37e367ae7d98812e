package reconcile

import (
	"fmt"
	"math/rand"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

// views is a flock in which two commits are carried out, the second soon after the first, as one that hears
// of it late sees it. It plans for others only: its own node is cordoned.
type views struct {
	r       *rand.Rand
	w       *world
	commits []Commit
}

func newViews(t *testing.T, seed int64, without rule) *views {
	v := &views{r: rand.New(rand.NewSource(seed)), w: newWorld(t)}
	self := testNode("n9", "4", "8Gi")
	self.Spec.Unschedulable = true
	v.w.in.Self, v.w.in.Nodes, v.w.in.without = "n9", []Node{{Node: self, Stable: true}}, without
	for i := range 6 {
		v.w.in.Nodes = append(v.w.in.Nodes, Node{Node: testNode(fmt.Sprint("n", i), fmt.Sprintf("%d00m", 5+v.r.Intn(25)), "8Gi"), Stable: true})
	}
	web := named("web", deployment("a", int32(5+v.r.Intn(10)), 1, 0))
	web.Spec.Template.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse(fmt.Sprintf("%d0m", 10+v.r.Intn(30)))
	if v.r.Intn(2) == 0 {
		web = away(web, corev1.PodAffinityTerm{LabelSelector: web.Spec.Selector})
	}
	api := named("api", deployment("a", int32(5+v.r.Intn(10)), 1, 0))
	v.w.push(Object{Object: web})
	v.commits = append(v.commits, v.w.in.Accepted["shop"])
	v.w.push(Object{Object: web}, Object{Object: api})
	v.commits = append(v.commits, v.w.in.Accepted["shop"])
	return v
}

// plan returns which node is to start each slot that is open, when these have been claimed.
func (v *views) plan(claimed map[Slot]string) map[Slot]string {
	in := v.w.input()
	for _, n := range in.Nodes[1:] {
		d := Document{Node: n.Node.Name, Boot: 1, Seq: 1, Accepted: in.Accepted, Allocatable: n.Node.Status.Allocatable}
		for slot, node := range claimed {
			if node != d.Node {
				continue
			}
			c := v.commits[1]
			if slot.Workload == "uid-web" {
				c = v.commits[0]
			}
			name := string(slot.Workload[4:])
			d.Instances = append(d.Instances, Instance{
				Slot: slot, Revision: "a100m00000", Epoch: 1, Node: node, Boot: 1, Claimed: in.Now, Cause: c.ID, Commit: c, App: "shop",
				Kind: kindDeployment, Namespace: "default", Owner: name, Name: fmt.Sprint(name, slot.Ordinal), UID: types.UID(slot.key()), Phase: corev1.PodPending,
			})
			for _, o := range in.Objects {
				if o.Object.GetUID() == slot.Workload {
					d.Instances[len(d.Instances)-1].Revision = o.Templates[0].Revision
				}
			}
		}
		slices.SortFunc(d.Instances, func(a, b Instance) int { return slices.Compare([]byte(a.Name), []byte(b.Name)) })
		in.Documents = append(in.Documents, d)
	}
	_, decision := Step(State{}, in)
	out := map[Slot]string{}
	for _, s := range decision.Slots {
		if len(s.Candidates) > 0 {
			out[s.Slot] = s.Candidates[0]
		}
	}
	return out
}

// moved counts the slots that are open in a view in which share of each commit's slots are claimed, and
// given to another node than before any was: each would be started by both.
func (v *views) moved(whole map[Slot]string, share [2]float64) (moved int) {
	claimed := map[Slot]string{}
	for _, s := range sortedSlots(whole) {
		of := share[1]
		if s.Workload == "uid-web" {
			of = share[0]
		}
		if v.r.Float64() < of {
			claimed[s] = whole[s]
		}
	}
	now := v.plan(claimed)
	for s, node := range whole {
		if claimed[s] == "" && now[s] != node {
			moved++
		}
	}
	return moved
}

func sortedSlots(m map[Slot]string) (out []Slot) {
	for s := range m {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Slot) int { return slices.Compare([]byte(a.key()), []byte(b.key())) })
	return out
}

// TestAPlanDoesNotDependOnHowFarItIsCarriedOut: of two commits under way, any part may have been claimed in
// a node's view; it plans what is open as everybody else does.
func TestAPlanDoesNotDependOnHowFarItIsCarriedOut(t *testing.T) {
	for _, share := range [][2]float64{{0.5, 0}, {0.5, 0.5}, {0.1, 0.9}, {1, 0.5}, {0.5, 1}, {0.9, 1}} {
		open := map[rule]int{}
		moved := map[rule]int{}
		for _, without := range []rule{noRule, ruleWave, ruleClaimed} {
			for seed := range seeds(12, 200) {
				v := newViews(t, seed, without)
				whole := v.plan(nil)
				open[without] += len(whole)
				moved[without] += v.moved(whole, share)
			}
		}
		t.Logf("claimed %v: of %d slots, %d would be started twice; without the rules %d and %d", share, open[noRule], moved[noRule], moved[ruleWave], moved[ruleClaimed])
		if moved[noRule] > 0 {
			t.Errorf("claimed %v: %d of %d slots would be started twice", share, moved[noRule], open[noRule])
		}
		if moved[ruleWave] == 0 || share[1] == 1 && moved[ruleClaimed] == 0 {
			t.Errorf("claimed %v: without a rule none would be started twice", share)
		}
	}
}

// TestAnOlderCauseIsPlannedFirst: where the slots of a commit go does not depend on whether the next commit
// has been heard of.
func TestAnOlderCauseIsPlannedFirst(t *testing.T) {
	for without, want := range map[rule]bool{noRule: false, ruleOlder: true} {
		moved, all := 0, 0
		for seed := range seeds(12, 200) {
			v := newViews(t, seed, without)
			later := v.plan(nil)
			v.w.in.Objects = slices.DeleteFunc(slices.Clone(v.w.in.Objects), func(o Object) bool { return o.Object.GetUID() == "uid-api" })
			for s, node := range v.plan(nil) {
				if all++; later[s] != node {
					moved++
				}
			}
		}
		t.Logf("without rule %d: %d of %d slots would be started twice", without, moved, all)
		if moved > 0 != want {
			t.Errorf("without rule %d: %d of %d slots would be started twice", without, moved, all)
		}
	}
}

// replacing is a slot that goes from one revision to the next, as documents tell of it.
type replacing int

const (
	runsOld replacing = iota
	runsBoth
	endsOld // and runs the new one
	stopping
	stopped
	runsNew
)

// rolling is a flock in which a commit changes one workload, which changes on the nodes where it is, and
// brings another.
type rolling struct {
	*views
	old, now Object
	on       []string // nodes of the slots
}

func newRolling(t *testing.T, seed int64, surge int32, without rule) *rolling {
	v := newViews(t, seed, without)
	web := func(image string) Object {
		d := named("web", deployment(image, int32(4+seed%4), surge, 1-surge))
		d.Spec.Template.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("100m")
		return Object{Object: d}
	}
	api := named("api", deployment("a", 8, 1, 0))
	v.w.in.Objects, v.w.in.Accepted = nil, map[string]Commit{}
	v.w.push(web("a"))
	v.commits = []Commit{v.w.in.Accepted["shop"]}
	v.w.push(web("b"), Object{Object: api})
	v.commits = append(v.commits, v.w.in.Accepted["shop"])
	r := &rolling{views: v, old: web("a"), now: web("b")}
	for range int(*web("a").Object.(*appsv1.Deployment).Spec.Replicas) {
		r.on = append(r.on, fmt.Sprint("n", v.r.Intn(6)))
	}
	return r
}

// recreate makes the second commit a Recreate with more slots.
func (r *rolling) recreate(more int32) {
	for _, o := range []Object{r.old, r.now} {
		d := o.Object.(*appsv1.Deployment)
		d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	}
	*r.now.Object.(*appsv1.Deployment).Spec.Replicas += more
	r.w.push(r.now, Object{Object: named("api", deployment("a", 8, 1, 0))})
	r.commits[1] = r.w.in.Accepted["shop"]
}

// plan returns which node is to start each slot of the new workload when the others stand so.
func (r *rolling) plan(stand []replacing) map[Slot]string {
	in := r.w.input()
	documents := map[string]*Document{}
	for _, n := range in.Nodes[1:] {
		documents[n.Node.Name] = &Document{Node: n.Node.Name, Boot: 1, Seq: 1, Accepted: in.Accepted, Allocatable: n.Node.Status.Allocatable}
	}
	for i, at := range stand {
		d := documents[r.on[i]]
		run := func(o Object, c Commit, epoch int64, terminating bool) {
			d.Instances = append(d.Instances, Instance{
				Slot: Slot{Workload: "uid-web", Ordinal: int32(i)}, Revision: revisionOf(o), Epoch: epoch, Node: d.Node, Boot: 1, Claimed: in.Now, Cause: c.ID, Commit: c, App: "shop",
				Kind: kindDeployment, Namespace: "default", Owner: "web", Name: fmt.Sprint("web", i, "-", epoch), UID: types.UID(fmt.Sprint("web", i, "-", epoch)),
				Phase: corev1.PodRunning, Ready: !terminating, Terminating: terminating,
			})
		}
		if at == runsOld || at == runsBoth || at == endsOld || at == stopping {
			run(r.old, r.commits[0], 1, at == endsOld || at == stopping)
		}
		if at == runsBoth || at == endsOld || at == runsNew {
			run(r.now, r.commits[1], 2, false)
		}
		if at == stopped {
			d.Releases = append(d.Releases, Release{Slot: Slot{Workload: "uid-web", Ordinal: int32(i)}, Revision: revisionOf(r.old), Epoch: 1, By: r.commits[1].ID, At: in.Now})
		}
	}
	for _, n := range in.Nodes[1:] {
		in.Documents = append(in.Documents, *documents[n.Node.Name])
	}
	_, decision := Step(State{}, in)
	out := map[Slot]string{}
	for _, s := range decision.Slots {
		if s.Slot.Workload == "uid-api" && len(s.Candidates) > 0 {
			out[s.Slot] = s.Candidates[0]
		}
	}
	return out
}

// TestAPlanDoesNotDependOnHowFarARolloutIs: where a commit's new slots go does not depend on how many of its
// other pods have been replaced where they are, nor on which of them are being replaced.
func TestAPlanDoesNotDependOnHowFarARolloutIs(t *testing.T) {
	for surge, ways := range [][]replacing{{runsOld, stopping, stopped, runsNew}, {runsOld, runsBoth, endsOld, runsNew}} {
		open, moved := map[rule]int{}, map[rule]int{}
		for _, without := range []rule{noRule, ruleInPlace} {
			for seed := range seeds(12, 200) {
				r := newRolling(t, seed, int32(surge), without)
				stand := make([]replacing, len(r.on))
				whole := r.plan(stand)
				for i := range stand {
					stand[i] = ways[r.r.Intn(len(ways))]
				}
				open[without] += len(whole)
				for s, node := range r.plan(stand) {
					if whole[s] != node {
						moved[without]++
					}
				}
			}
		}
		t.Logf("maxSurge %d: of %d slots, %d would be started twice; without the rule %d", surge, open[noRule], moved[noRule], moved[ruleInPlace])
		if moved[noRule] > 0 || moved[ruleInPlace] == 0 || open[noRule] == 0 {
			t.Errorf("maxSurge %d: %d of %d slots would be started twice, without the rule %d", surge, moved[noRule], open[noRule], moved[ruleInPlace])
		}
	}
}

// TestAPlanDoesNotDependOnHowFarARecreateIs: the same of a Recreate that a commit also makes larger. Its new
// slots are planned while its old pods run, end and have ended, so that others do not take their room.
func TestAPlanDoesNotDependOnHowFarARecreateIs(t *testing.T) {
	open, moved := 0, map[rule]int{}
	for _, without := range []rule{noRule, ruleRecreate} {
		for seed := range seeds(24, 200) {
			r := newRolling(t, seed, 0, without)
			r.recreate(int32(1 + seed%3))
			stand := make([]replacing, len(r.on))
			whole := r.plan(stand)
			for _, ways := range [][]replacing{{runsOld, stopping, stopped}, {stopped}} {
				for i := range stand {
					stand[i] = ways[r.r.Intn(len(ways))]
				}
				open += len(whole)
				for s, node := range r.plan(stand) {
					if whole[s] != node {
						moved[without]++
					}
				}
			}
		}
	}
	t.Logf("of %d slots, %d would be started twice; without the rule %d", open, moved[noRule], moved[ruleRecreate])
	if moved[noRule] > 0 || moved[ruleRecreate] == 0 || open == 0 {
		t.Errorf("of %d slots, %d would be started twice, without the rule %d", open, moved[noRule], moved[ruleRecreate])
	}
}
