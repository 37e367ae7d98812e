package reconcile

import (
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// drain is a commit that drains a node; each node hears of it at another moment.
func (f *flock) drain(name string) {
	for i := range f.worlds {
		f.later(i, "git", 3*time.Second, func(w *world) {
			level := w.in.Accepted[clusterUnit].Level + 1
			accepted := map[string]Commit{"shop": w.in.Accepted["shop"], clusterUnit: {ID: fmt.Sprint("drain", level), Level: level}}
			w.in.Accepted = accepted
			for k := range w.in.Nodes {
				if w.in.Nodes[k].Node.Name == name {
					n := w.in.Nodes[k].Node.DeepCopy()
					n.Spec.Unschedulable = true
					n.Spec.Taints = []corev1.Taint{{Key: DrainTaint, Effect: corev1.TaintEffectNoExecute}}
					w.in.Nodes[k].Node = n
				}
			}
		})
	}
}

// remove is a commit that takes a node away.
func (f *flock) remove(name string) {
	for i := range f.worlds {
		f.later(i, "git", 3*time.Second, func(w *world) {
			level := w.in.Accepted[clusterUnit].Level + 1
			w.in.Accepted = map[string]Commit{"shop": w.in.Accepted["shop"], clusterUnit: {ID: fmt.Sprint("remove", level), Level: level}}
			w.in.Nodes = slices.DeleteFunc(slices.Clone(w.in.Nodes), func(n Node) bool { return n.Node.Name == name })
		})
	}
}

func TestADrainedNodeIsLeftGently(t *testing.T) {
	recreate := func(image string) Object {
		d := deployment(image, 6, 0, 0)
		d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
		return Object{Object: d}
	}
	rolling := func(surge, unavailable int32) func(string) Object {
		return func(image string) Object { return Object{Object: deployment(image, 6, surge, unavailable)} }
	}
	for _, c := range []struct {
		name                         string
		object                       func(image string) Object
		replicas, surge, unavailable int
		drained                      []string
		removed                      string
		pushed                       bool // a rollout beside it
	}{
		{"surge", rolling(1, 0), 6, 1, 0, []string{"n1"}, "", false},
		{"surge, in a rollout", rolling(1, 0), 6, 1, 0, []string{"n1"}, "", true},
		{"stop first", rolling(0, 1), 6, 0, 1, []string{"n1"}, "", false},
		{"stop first, in a rollout", rolling(0, 1), 6, 0, 1, []string{"n1"}, "", true},
		{"both", rolling(2, 1), 6, 2, 1, []string{"n1"}, "", false},
		{"both, in a rollout", rolling(2, 1), 6, 2, 1, []string{"n1"}, "", true},
		{"two nodes at once", rolling(1, 0), 6, 1, 0, []string{"n1", "n2"}, "", false},
		{"two nodes at once, stop first, in a rollout", rolling(0, 1), 6, 0, 1, []string{"n1", "n2"}, "", true},
		{"Recreate", recreate, 6, 0, 6, []string{"n1"}, "", false},
		{"a bare Pod", func(image string) Object { return Object{Object: pod(image, corev1.RestartPolicyAlways)} }, 1, 0, 1, []string{"n0", "n1"}, "", false},
		{"a removed node whose document still counts", rolling(1, 0), 6, 1, 0, nil, "n1", false},
	} {
		if testing.Short() && (c.pushed || len(c.drained) < 2 && c.removed == "") {
			continue
		}
		for seed := range seeds(1, 3) {
			t.Run(fmt.Sprintf("%s,seed=%d", c.name, seed), func(t *testing.T) {
				f := newFlock(t, seed, 4)
				daemons := Object{Object: daemonSet("a", 0, 1)}
				f.push(c.object("a"), daemons)
				f.run(20*time.Second, nil)
				check := func() {
					ready, all := 0, 0
					for _, p := range f.pods() {
						if p.Kind != kindDaemonSet {
							all++
							if p.Ready {
								ready++
							}
						}
					}
					if ready < c.replicas-c.unavailable || all > c.replicas+c.surge {
						t.Fatalf("%d pods, %d ready\n%s", all, ready, f.story())
					}
				}
				left := c.drained
				for _, name := range c.drained {
					f.drain(name)
				}
				if c.removed != "" {
					f.remove(c.removed)
					left = []string{c.removed}
				}
				if c.pushed {
					f.push(c.object("b"), daemons)
				}
				f.run(2*time.Minute, check)
				slots := map[Slot]int{}
				for _, p := range f.pods() {
					if p.Kind == kindDaemonSet {
						continue
					}
					slots[p.Slot]++
					if slices.Contains(left, p.Node) {
						t.Errorf("%s is still on %s", p.Name, p.Node)
					}
					if !p.Ready || slots[p.Slot] > 1 {
						t.Errorf("%s is not ready, or not alone in its slot", p.Name)
					}
				}
				if len(slots) != c.replicas {
					t.Errorf("%d slots run, want %d", len(slots), c.replicas)
				}
				if t.Failed() {
					t.Log(f.story())
				}
			})
		}
	}
}

// TestWhatNoCommitChangesLeavesADrainedNode: pods of an earlier revision that a paused Deployment or a
// ReplicaSet keeps are moved like all others.
func TestWhatNoCommitChangesLeavesADrainedNode(t *testing.T) {
	paused := func(image string) Object {
		d := deployment(image, 4, 1, 0)
		d.Spec.Paused = image == "b"
		return Object{Object: d}
	}
	set := func(image string) Object {
		return Object{Object: &appsv1.ReplicaSet{
			ObjectMeta: deployment(image, 4, 1, 0).ObjectMeta,
			Spec:       appsv1.ReplicaSetSpec{Replicas: new(int32(4)), Template: template(image, "100m")},
		}}
	}
	for name, object := range map[string]func(string) Object{"paused": paused, "ReplicaSet": set} {
		for _, without := range []rule{noRule, ruleLeaves} {
			f := newFlock(t, 1, 3)
			for _, w := range f.worlds {
				w.in.without = without
			}
			f.push(object("a"))
			f.run(20*time.Second, nil)
			f.push(object("b"))
			f.run(10*time.Second, nil)
			f.drain("n1")
			f.run(2*time.Minute, func() {
				ready := 0
				for _, p := range f.pods() {
					if p.Ready {
						ready++
					}
				}
				if ready < 3 {
					t.Fatalf("%s: %d pods are ready\n%s", name, ready, f.story())
				}
			})
			stays, slots := false, map[Slot]bool{}
			for _, p := range f.pods() {
				slots[p.Slot] = p.Ready
				stays = stays || p.Node == "n1"
			}
			if want := without == ruleLeaves; stays != want || len(slots) != 4 {
				t.Errorf("%s, without rule %d: stays on the drained node: %t, want %t; %d slots run\n%s", name, without, stays, want, len(slots), f.story())
			}
		}
	}
}
