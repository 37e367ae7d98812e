package reconcile

import (
	"fmt"
	"testing"
	"time"

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

func TestADrainedNodeIsLeftGently(t *testing.T) {
	for _, c := range []struct{ surge, unavailable int32 }{{1, 0}, {0, 1}, {2, 1}} {
		for seed := range seeds(1, 5) {
			t.Run(fmt.Sprintf("surge=%d,unavailable=%d,seed=%d", c.surge, c.unavailable, seed), func(t *testing.T) {
				f := newFlock(t, seed, 3)
				const replicas = 6
				f.push(Object{Object: deployment("a", replicas, c.surge, c.unavailable)}, Object{Object: daemonSet("a", 0, 1)})
				f.run(20*time.Second, nil)
				check := func() {
					ready, all := 0, 0
					for _, p := range f.pods() {
						if p.Kind == kindDeployment {
							all++
							if p.Ready {
								ready++
							}
						}
					}
					if ready < replicas-int(c.unavailable) || all > replicas+int(c.surge) {
						t.Fatalf("%d pods, %d ready\n%s", all, ready, f.story())
					}
				}
				f.drain("n1")
				if seed%2 == 0 { // a rollout beside it
					f.push(Object{Object: deployment("b", replicas, c.surge, c.unavailable)}, Object{Object: daemonSet("a", 0, 1)})
				}
				f.run(2*time.Minute, check)
				slots := map[Slot]int{}
				for _, p := range f.pods() {
					slots[p.Slot]++
					if p.Node == "n1" && p.Kind != kindDaemonSet {
						t.Errorf("%s is still on n1", p.Name)
					}
				}
				if len(slots) != replicas+3 {
					t.Errorf("%d slots run, want %d", len(slots), replicas+3)
				}
				for s, n := range slots {
					if n != 1 {
						t.Errorf("slot %v runs %d times", s, n)
					}
				}
				if t.Failed() {
					t.Log(f.story())
				}
			})
		}
	}
}
