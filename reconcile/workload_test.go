package reconcile

import (
	"fmt"
	"math/rand"
	"reflect"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func expect(t *testing.T, w *world, all, ready int, revisions ...string) {
	t.Helper()
	a, r, revs := w.count()
	if a != all || r != ready || len(revisions) > 0 && !reflect.DeepEqual(revs, revisions) {
		t.Fatalf("got %d pods, %d ready, revisions %v; want %d, %d, %v\n%s", a, r, revs, all, ready, revisions, w.story())
	}
}

func TestScale(t *testing.T) {
	w := newWorld(t)
	w.push(Object{Object: deployment("a", 3, 1, 0)})
	w.run(5 * time.Second)
	w.push(Object{Object: deployment("a", 5, 1, 0)})
	if d := w.step(); len(d.Actions) != 2 {
		t.Fatalf("got %v", d.Actions)
	}
	w.run(5 * time.Second)
	expect(t, w, 5, 5)
	w.push(Object{Object: deployment("a", 2, 1, 0)})
	d := w.step()
	if len(d.Actions) != 3 {
		t.Fatalf("got %v", d.Actions)
	}
	for _, a := range d.Actions {
		if a.Kind != Stop || a.Instance.Slot.Ordinal < 2 || a.By != "c3" {
			t.Errorf("got %v by %s", a, a.By)
		}
	}
	w.run(5 * time.Second)
	expect(t, w, 2, 2)
	w.push(Object{Object: deployment("a", 0, 1, 0)})
	w.run(5 * time.Second)
	expect(t, w, 0, 0)
	if c := w.last.Workloads[0].Conditions[0]; c.Reason != "MinimumReplicasAvailable" {
		t.Errorf("got %+v", c)
	}
	w.push(Object{Object: deployment("a", 1, 1, 0)})
	w.run(5 * time.Second)
	expect(t, w, 1, 1)
}

func TestScaleUpWithANewTemplateStartsTheNewOne(t *testing.T) {
	w := newWorld(t)
	w.push(Object{Object: deployment("a", 2, 1, 0)})
	w.run(5 * time.Second)
	w.push(Object{Object: deployment("b", 4, 1, 0)})
	w.step()
	for _, a := range w.last.Actions {
		if a.Kind != Start || a.Instance.Revision != "b100m00000" {
			t.Errorf("got %v", a)
		}
	}
	w.run(20 * time.Second)
	expect(t, w, 4, 4, "b100m00000")
}

func TestRecreate(t *testing.T) {
	w := newWorld(t)
	d := func(image string) Object {
		d := deployment(image, 3, 0, 0)
		d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
		return Object{Object: d}
	}
	w.push(d("a"))
	w.run(5 * time.Second)
	w.push(d("b"))
	w.checked = func(w *world) {
		revisions := map[string]bool{}
		for _, p := range w.pods {
			revisions[p.i.Revision] = true
		}
		if len(revisions) > 1 {
			t.Fatalf("old and new pods together\n%s", w.story())
		}
	}
	if d := w.step(); len(d.Actions) != 3 {
		t.Fatalf("got %v", d.Actions)
	}
	w.run(10 * time.Second)
	expect(t, w, 3, 3, "b100m00000")
}

func TestPaused(t *testing.T) {
	w := newWorld(t)
	d := func(image string, replicas int32, paused bool) Object {
		d := deployment(image, replicas, 1, 0)
		d.Spec.Paused = paused
		return Object{Object: d}
	}
	w.push(d("a", 2, true))
	w.run(5 * time.Second)
	expect(t, w, 0, 0)
	w.push(d("a", 2, false))
	w.run(5 * time.Second)
	w.push(d("b", 2, true))
	w.run(5 * time.Second)
	expect(t, w, 2, 2, "a100m00000")
	if c := w.last.Workloads[0].Conditions[1]; c.Reason != "DeploymentPaused" || c.Status != metav1.ConditionUnknown {
		t.Errorf("got %+v", c)
	}
	w.push(d("b", 3, true))
	w.run(5 * time.Second)
	expect(t, w, 3, 3, "a100m00000")
	w.push(d("b", 3, false))
	w.run(10 * time.Second)
	expect(t, w, 3, 3, "b100m00000")
}

func TestMinReadySeconds(t *testing.T) {
	w := newWorld(t)
	d := func(image string) Object {
		d := deployment(image, 2, 1, 0)
		d.Spec.MinReadySeconds = 10
		return Object{Object: d}
	}
	w.push(d("a"))
	w.run(30 * time.Second)
	w.push(d("b"))
	w.run(10 * time.Second)
	expect(t, w, 3, 3) // the first is ready, not yet for ten seconds
	if st := w.last.Workloads[0]; st.Available != 2 || st.Ready != 3 || w.last.Wake.IsZero() {
		t.Errorf("got %+v, wake %s", st, w.last.Wake)
	}
	w.run(30 * time.Second)
	expect(t, w, 2, 2, "b100m00000")
}

func TestNotReadyPodsChangeAtOnce(t *testing.T) {
	w := newWorld(t)
	w.push(Object{Object: deployment("bad", 3, 1, 0)})
	w.run(5 * time.Second)
	w.push(Object{Object: deployment("a", 3, 1, 0)})
	if d := w.step(); len(d.Actions) != 3 {
		t.Errorf("got %v", d.Actions)
	}
	w.run(5 * time.Second)
	expect(t, w, 3, 3, "a100m00000")
}

func TestABadRevisionFollowedByAnother(t *testing.T) {
	w := newWorld(t)
	w.push(Object{Object: deployment("a", 3, 1, 1)})
	w.run(5 * time.Second)
	w.checked = bounds(3, 1, 1)
	w.push(Object{Object: deployment("bad", 3, 1, 1)})
	w.run(30 * time.Second)
	w.push(Object{Object: deployment("c", 3, 1, 1)})
	w.run(30 * time.Second)
	expect(t, w, 3, 3, "c100m00000")
}

func TestNoRoom(t *testing.T) {
	w := newWorld(t)
	big := deployment("a", 2, 1, 0)
	big.Spec.Template = template("a", "3")
	w.push(Object{Object: big})
	w.run(5 * time.Second)
	expect(t, w, 1, 1)
	if got := w.last.Workloads[0].Waiting; len(got) != 1 || got[0].Reason != "0/1 nodes are available: 1 Insufficient cpu." {
		t.Errorf("got %+v", got)
	}
}

func TestSurgeThatDoesNotFit(t *testing.T) {
	for unavailable, want := range []string{"a3000000000", "b3000000000"} {
		t.Run(fmt.Sprint("maxUnavailable=", unavailable), func(t *testing.T) {
			w := newWorld(t)
			d := func(image string) Object {
				d := deployment(image, 1, 1, int32(unavailable))
				d.Spec.Template = template(image, "3")
				return Object{Object: d}
			}
			w.push(d("a"))
			w.run(5 * time.Second)
			w.push(d("b"))
			w.run(10 * time.Second)
			expect(t, w, 1, 1, want[:10])
			if unavailable == 0 {
				if got := w.last.Workloads[0].Waiting; len(got) != 1 || got[0].Reason != "0/1 nodes are available: 1 Insufficient cpu." {
					t.Errorf("got %+v", got)
				}
			}
		})
	}
}

func TestSurgeThatFitsNowhereKeepsTheOldPod(t *testing.T) {
	w := newWorld(t)
	w.push(Object{Object: deployment("a", 2, 1, 1)})
	w.run(5 * time.Second)
	big := deployment("b", 1, 1, 1)
	big.Spec.Template = template("b", "100")
	w.push(Object{Object: big})
	w.run(10 * time.Second)
	expect(t, w, 1, 1, "a100m00000")
}

func pod(image string, policy corev1.RestartPolicy) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "job", Namespace: "default", UID: "uid-pod"}}
	p.Spec = template(image, "100m").Spec
	p.Spec.RestartPolicy = policy
	return p
}

func TestBarePod(t *testing.T) {
	w := newWorld(t)
	w.push(Object{Object: pod("a", corev1.RestartPolicyNever)})
	d := w.step()
	if len(d.Actions) != 1 || d.Actions[0].Pod.Name != "job" || len(d.Actions[0].Pod.OwnerReferences) > 0 {
		t.Fatalf("got %v", d.Actions)
	}
	w.run(5 * time.Second)
	for _, p := range w.pods {
		p.i.Phase, p.i.Ready = corev1.PodSucceeded, false
	}
	w.run(time.Hour)
	w.state = State{} // the document still says that it finished
	w.run(time.Minute)
	if len(w.log) != 1 {
		t.Errorf("log:\n%s", w.story())
	}
	w.pods = map[types.UID]*simPod{}
	w.run(time.Minute) // and the state remembers
	if len(w.log) != 1 {
		t.Errorf("log:\n%s", w.story())
	}
}

func TestBarePodChanges(t *testing.T) {
	w := newWorld(t)
	w.push(Object{Object: pod("a", corev1.RestartPolicyAlways)})
	w.run(5 * time.Second)
	w.push(Object{Object: pod("b", corev1.RestartPolicyAlways)})
	w.run(5 * time.Second)
	expect(t, w, 1, 1, "b100m00000")
	w.push()
	w.run(5 * time.Second)
	expect(t, w, 0, 0)
}

func TestReplicaSetKeepsItsPods(t *testing.T) {
	w := newWorld(t)
	rs := func(image string) Object {
		return Object{Object: &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{Name: "rs", Namespace: "default", UID: "uid-rs"},
			Spec:       appsv1.ReplicaSetSpec{Replicas: new(int32(2)), Template: template(image, "100m")},
		}}
	}
	w.push(rs("a"))
	w.run(5 * time.Second)
	w.push(rs("b"))
	w.run(5 * time.Second)
	expect(t, w, 2, 2, "a100m00000")
	w.fail("Evicted")
	w.run(time.Minute)
	expect(t, w, 2, 2, "a100m00000", "b100m00000")
}

// fail ends one pod as a whole.
func (w *world) fail(reason string) *simPod {
	var first *simPod
	for _, p := range w.pods {
		if !p.i.Terminating && !p.i.ended() && (first == nil || p.i.Name < first.i.Name) {
			first = p
		}
	}
	first.i.Phase, first.i.Ready, first.i.Reason = corev1.PodFailed, false, reason
	return first
}

func TestEndedPodIsReplacedAfterABackOff(t *testing.T) {
	w := newWorld(t)
	w.push(Object{Object: deployment("a", 2, 1, 0)})
	w.run(5 * time.Second)
	failed := w.fail("Evicted")
	d := w.step()
	if len(d.Actions) != 0 || d.Wake.Sub(w.now) != backOffFirst {
		t.Fatalf("got %v, wake %s at %s", d.Actions, d.Wake, w.now)
	}
	if got := d.Workloads[0].Waiting[0].Reason; !strings.Contains(got, "Evicted") {
		t.Errorf("got %q", got)
	}
	w.run(20 * time.Second)
	expect(t, w, 2, 2)
	if w.pods[failed.i.UID] != nil {
		t.Errorf("the ended pod is still there\n%s", w.story())
	}
	for _, p := range w.pods {
		if p.i.Slot == failed.i.Slot && p.i.Epoch != failed.i.Epoch+1 {
			t.Errorf("epoch %d after %d", p.i.Epoch, failed.i.Epoch)
		}
	}
}

func daemonSet(image string, surge, unavailable int32) *appsv1.DaemonSet {
	ds := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "agent", Namespace: "default", UID: "uid-ds"},
		Spec:       appsv1.DaemonSetSpec{Template: template(image, "100m")},
	}
	ds.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{
		Type:          appsv1.RollingUpdateDaemonSetStrategyType,
		RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxSurge: new(intstr.FromInt32(surge)), MaxUnavailable: new(intstr.FromInt32(unavailable))},
	}
	return ds
}

func TestDaemonSet(t *testing.T) {
	w := newWorld(t)
	w.in.Nodes[0].Node.Spec.Unschedulable = true // DaemonSets do not mind
	w.push(Object{Object: daemonSet("a", 0, 1)})
	w.run(5 * time.Second)
	expect(t, w, 1, 1)
	for _, p := range w.pods {
		if p.i.Slot.Node != "n1" || len(p.pod.Spec.Tolerations) != 7 {
			t.Errorf("got slot %+v, tolerations %v", p.i.Slot, p.pod.Spec.Tolerations)
		}
	}
	w.push(Object{Object: daemonSet("b", 0, 1)})
	w.run(5 * time.Second)
	expect(t, w, 1, 1, "b100m00000")
	w.push(Object{Object: daemonSet("c", 1, 0)})
	w.checked = bounds(1, 1, 0)
	w.run(5 * time.Second)
	expect(t, w, 1, 1, "c100m00000")
	w.checked = nil

	onDelete := daemonSet("d", 0, 1)
	onDelete.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}
	w.push(Object{Object: onDelete})
	w.run(5 * time.Second)
	expect(t, w, 1, 1, "c100m00000")

	elsewhere := daemonSet("d", 0, 1)
	elsewhere.Spec.Template.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	w.push(Object{Object: elsewhere})
	w.run(5 * time.Second)
	if _, _, revs := w.count(); len(revs) != 0 {
		t.Errorf("got %v\n%s", revs, w.story())
	}
}

func TestNoExecuteTaint(t *testing.T) {
	w := newWorld(t)
	w.push(Object{Object: deployment("a", 1, 1, 0)}, Object{Object: daemonSet("a", 0, 1)})
	w.run(5 * time.Second)
	w.in.Nodes[0].Node = w.in.Nodes[0].Node.DeepCopy()
	w.in.Nodes[0].Node.Spec.Taints = []corev1.Taint{{Key: "k", Value: "v", Effect: corev1.TaintEffectNoExecute}}
	w.run(5 * time.Second)
	expect(t, w, 0, 0)
	if got := w.last.Workloads[1].Waiting; len(got) != 1 || got[0].Reason != "0/1 nodes are available: 1 node(s) had untolerated taint {k: v}." {
		t.Errorf("got %+v", got)
	}
}

func TestRemovedOnlyWhenPositivelyLacking(t *testing.T) {
	w := newWorld(t)
	w.push(Object{Object: deployment("a", 2, 1, 0)})
	w.run(5 * time.Second)
	objects, accepted := w.in.Objects, w.in.Accepted

	w.in.Objects, w.in.Accepted = nil, map[string]Commit{clusterUnit: accepted[clusterUnit]} // the app is in error
	w.run(5 * time.Second)
	expect(t, w, 2, 2)
	w.in.Accepted = nil // all is
	w.run(5 * time.Second)
	expect(t, w, 2, 2)
	w.in.Accepted = map[string]Commit{"shop": {ID: "c0"}, clusterUnit: {ID: "c0"}} // this node fell behind
	w.run(5 * time.Second)
	expect(t, w, 2, 2)

	w.in.Objects, w.in.Accepted = objects, accepted
	w.run(5 * time.Second)
	if len(w.log) != 2 {
		t.Fatalf("log:\n%s", w.story())
	}
	w.in.Apps = nil // pleach.yaml dropped the app
	w.in.Objects, w.in.Accepted = nil, map[string]Commit{clusterUnit: accepted[clusterUnit]}
	w.run(5 * time.Second)
	expect(t, w, 0, 0)
}

func TestRemovedObject(t *testing.T) {
	w := newWorld(t)
	w.push(Object{Object: deployment("a", 2, 1, 0)})
	w.run(5 * time.Second)
	w.push()
	d := w.step()
	if len(d.Actions) != 2 || d.Actions[0].Reason != "Deployment default/web is not in app shop any more" {
		t.Errorf("got %v", d.Actions)
	}
}

// TestLostStateDoesNoHarm throws the state away at random moments of a life with rollouts, bad images,
// scaling and evictions.
func TestLostStateDoesNoHarm(t *testing.T) {
	for seed := range seeds(3, 25) {
		r := rand.New(rand.NewSource(seed))
		w := newWorld(t)
		surge, unavailable := int32(r.Intn(3)), int32(r.Intn(3))
		if surge+unavailable == 0 {
			surge = 1
		}
		replicas := int32(1 + r.Intn(6))
		w.push(Object{Object: deployment("a", replicas, surge, unavailable)})
		w.run(5 * time.Second)
		w.checked = bounds(int(replicas), int(surge), int(min(unavailable, replicas)))
		for range 200 {
			if r.Intn(20) == 0 {
				image := []string{"a", "b", "c", "bad"}[r.Intn(4)]
				w.push(Object{Object: deployment(image, replicas, surge, unavailable)})
			}
			if r.Intn(5) == 0 {
				w.state = State{}
			}
			w.step()
			w.tick(time.Duration(r.Intn(1500)) * time.Millisecond)
		}
		w.push(Object{Object: deployment("d", replicas, surge, unavailable)})
		w.run(60 * time.Second)
		expect(t, w, int(replicas), int(replicas), "d100m00000")
	}
}

func TestOrderOfInputDoesNotMatter(t *testing.T) {
	w := newWorld(t)
	w.in.Nodes = append(w.in.Nodes, Node{Node: testNode("n2", "8", "16Gi"), Stable: true}, Node{Node: testNode("n3", "2", "4Gi")})
	for _, name := range []string{"n2", "n3"} {
		w.in.Documents = append(w.in.Documents, Document{Node: name, Accepted: map[string]Commit{"shop": {ID: "c9", Level: 9}}})
	}
	w.in.Accepted = map[string]Commit{"shop": {ID: "c8", Level: 8}}
	w.push(Object{Object: deployment("a", 9, 1, 1)}, Object{Object: daemonSet("a", 0, 1)}, Object{Object: pod("a", corev1.RestartPolicyAlways)})
	w.step()
	w.tick(2 * time.Second)
	w.push(Object{Object: deployment("b", 8, 1, 1)}, Object{Object: daemonSet("b", 0, 1)}, Object{Object: pod("a", corev1.RestartPolicyAlways)})
	r := rand.New(rand.NewSource(1))
	in := w.input()
	memory := anew(w.state)
	_, before := Step(anew(memory), in)
	for _, a := range before.Asks {
		in.Answers = append(in.Answers, Answer{Ask: a, Yes: true, At: in.Now})
	}
	wantState, want := Step(anew(memory), in)
	if len(want.Actions) == 0 {
		t.Fatal("nothing to compare")
	}
	for range 20 {
		r.Shuffle(len(in.Objects), func(i, j int) { in.Objects[i], in.Objects[j] = in.Objects[j], in.Objects[i] })
		r.Shuffle(len(in.Nodes), func(i, j int) { in.Nodes[i], in.Nodes[j] = in.Nodes[j], in.Nodes[i] })
		r.Shuffle(len(in.Documents), func(i, j int) { in.Documents[i], in.Documents[j] = in.Documents[j], in.Documents[i] })
		r.Shuffle(len(in.Pods), func(i, j int) { in.Pods[i], in.Pods[j] = in.Pods[j], in.Pods[i] })
		for _, d := range in.Documents {
			r.Shuffle(len(d.Instances), func(i, j int) { d.Instances[i], d.Instances[j] = d.Instances[j], d.Instances[i] })
		}
		state, got := Step(anew(memory), in)
		if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) && !reflect.DeepEqual(got, want) || !reflect.DeepEqual(state.all(), wantState.all()) {
			t.Fatalf("got %+v\nwant %+v", got, want)
		}
	}
}

func TestPercentages(t *testing.T) {
	for _, c := range []struct {
		surge, unavailable string
		replicas           int
		want               [2]int
	}{
		{"25%", "25%", 4, [2]int{1, 1}},
		{"25%", "25%", 3, [2]int{1, 0}},
		{"0%", "25%", 3, [2]int{0, 1}},
		{"100%", "100%", 3, [2]int{3, 3}},
		{"10%", "0%", 25, [2]int{3, 0}},
	} {
		d := deployment("a", int32(c.replicas), 0, 0)
		d.Spec.Strategy.RollingUpdate.MaxSurge = new(intstr.FromString(c.surge))
		d.Spec.Strategy.RollingUpdate.MaxUnavailable = new(intstr.FromString(c.unavailable))
		s := deploymentStrategy(d, c.replicas)
		if got := [2]int{s.surge, s.unavailable}; got != c.want {
			t.Errorf("%s, %s of %d: got %v, want %v", c.surge, c.unavailable, c.replicas, got, c.want)
		}
	}
}

func TestTerminatingPodsHoldTheirRoom(t *testing.T) {
	w := newWorld(t)
	w.goneAfter = 30 * time.Second
	three := func(image string) Object {
		d := deployment(image, 1, 0, 1)
		d.Spec.Template = template(image, "3")
		return Object{Object: d}
	}
	w.push(three("a"))
	w.run(5 * time.Second)
	w.push(three("b"))
	w.run(10 * time.Second)
	if got := w.last.Workloads[0].Waiting[0].Reason; !strings.HasPrefix(got, "waits for web-a3") || !strings.HasSuffix(got, " to end") {
		t.Errorf("got %q", got)
	}
	w.run(30 * time.Second)
	expect(t, w, 1, 1, "b300000000"[:10])
}
