package reconcile

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
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
		d.UID = types.UID(fmt.Sprint("uid-", seed)) // each time another registrar
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

// stopsNow says whether a node stops its first pod, when pods of these revisions run on the nodes, all ready,
// and every question is answered with yes. The third revision fits beside no other.
func stopsNow(t *testing.T, self int, revisions []string, without rule) bool {
	w := newFlock(t, 1, len(revisions)).worlds[self]
	w.in.without = without
	for i, image := range "abc" {
		d := daemonSet(string(image), 2, 1)
		d.Spec.Template.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse([]string{"1", "2", "3500m"}[i])
		w.push(Object{Object: d})
	}
	templates := w.in.Objects[0].Templates // the newest first
	for i, list := range revisions {
		doc := Document{Node: fmt.Sprint("n", i), Accepted: w.in.Accepted}
		for _, image := range list {
			r := templates['c'-image]
			m := Instance{
				Slot: Slot{Workload: w.in.Objects[0].Object.GetUID(), Node: doc.Node}, Revision: r.Revision, Epoch: int64(1 + image - 'a'), Node: doc.Node, Boot: 7, Claimed: w.now, Commit: r.Commit, App: "shop",
				Kind: kindDaemonSet, Namespace: "default", Owner: "agent", Phase: corev1.PodRunning, Ready: true, ReadySince: w.now,
			}
			m.Name, m.UID = m.PodID()
			if i == self {
				w.pods[m.UID] = &simPod{i: m, pod: &corev1.Pod{Spec: r.Spec.Spec}}
			}
			doc.Instances = append(doc.Instances, m)
		}
		if i != self {
			w.in.Documents = append(w.in.Documents, doc)
		}
	}
	w.state, _ = Reply(w.state, w.input(), Ask{})
	w.tick(startsFor)
	for range 3 {
		d := w.decide(w.input())
		if len(d.Actions) > 0 {
			return d.Actions[0].Kind == Stop
		}
		w.in.Answers = nil
		for _, a := range d.Asks {
			w.in.Answers = append(w.in.Answers, Answer{Ask: a, Yes: true, At: w.now})
		}
	}
	return false
}

// TestNeighboursStopFirst: slot 0 would surge and does not fit. Slot 2, which stops first by the order and needs
// no token, is about to: its node has ended the second of its pods, of which the other has not heard yet. Were
// slot 0 to stop as well, two were down at once.
func TestNeighboursStopFirst(t *testing.T) {
	if !stopsNow(t, 2, []string{"a", "c", "a", "c"}, noRule) {
		t.Error("slot 2 does not stop by the order")
	}
	for without, stops := range map[rule]bool{noRule: false, ruleNeighbours: true} {
		if got := stopsNow(t, 0, []string{"a", "c", "ab", "c"}, without); got != stops {
			t.Errorf("without rule %d: slot 0 stops: %v", without, got)
		}
	}
	if !stopsNow(t, 0, []string{"a", "c", "c", "a"}, noRule) {
		t.Error("slot 0 does not stop once slot 2 has changed")
	}
}
