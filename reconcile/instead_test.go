package reconcile

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// crowded rolls a workload of one slot on each node, of which none has room for a second pod, and says which
// bound was broken and whether it ended. A Deployment's slots would take each other's room.
func crowded(t *testing.T, seed int64, without rule) (broken string, ended bool, f *flock) {
	const replicas = 4
	f = newFlock(t, seed, replicas)
	f.late = 2 * time.Second
	for _, w := range f.worlds {
		w.in.without = without
	}
	surge, unavailable := 1+int(seed%2), 1
	object := func(image string) Object {
		d := daemonSet(image, 0, 0)
		d.Spec.UpdateStrategy.RollingUpdate.MaxSurge, d.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable = new(intstr.FromInt(surge)), new(intstr.FromInt(unavailable))
		d.Spec.Template.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("2500m") // one on a node of 4
		return Object{Object: d}
	}
	f.push(object("a"))
	f.run(30*time.Second, nil)
	f.once(replicas, revisionOf(object("a")))
	check := func() {
		ready := 0
		pods := f.pods()
		for _, p := range pods {
			if p.Ready {
				ready++
			}
		}
		if ready < replicas-unavailable || len(pods) > replicas+surge {
			broken = fmt.Sprintf("%d pods, %d ready, maxSurge %d, maxUnavailable %d", len(pods), ready, surge, unavailable)
		}
	}
	f.push(object("b"))
	f.run(time.Duration(f.r.Intn(12000))*time.Millisecond, check)
	f.push(object("c"))
	for range 18 {
		f.run(10*time.Second, check)
		count := 0
		for _, p := range f.pods() {
			if p.Ready && p.Revision == revisionOf(object("c")) {
				count++
			}
		}
		if ended = count == replicas && len(f.pods()) == replicas; ended || broken != "" {
			break
		}
	}
	return broken, ended, f
}

// TestASurgeThatFitsNowhereStopsFirst, within the bounds, on nodes that hear late of each other.
func TestASurgeThatFitsNowhereStopsFirst(t *testing.T) {
	without := 0
	for seed := range seeds(1, 40) {
		broken, ended, f := crowded(t, seed, noRule)
		if broken != "" || !ended {
			t.Errorf("seed %d: %s; ended: %v\n%s", seed, broken, ended, f.story())
		}
		if testing.Short() || without > 0 {
			continue
		}
		if broken, _, _ := crowded(t, seed, ruleToken); broken != "" {
			without++
		}
	}
	if without == 0 && !testing.Short() {
		t.Error("without the token no bound is broken")
	}
}
