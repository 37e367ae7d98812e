package reconcile

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// world is one node that carries actions out in fake time: a pod is ready some ticks after its
// start unless its image is bad, and gone some ticks after its stop.
type world struct {
	t        testing.TB
	now      time.Time
	in       Input
	state    State
	pods     map[types.UID]*simPod
	releases []Release
	declines []Decline
	last     Decision
	log      []string
	asked    []Ask
	before   Input     // of the last step
	compared time.Time // the last step with that of a new state

	readyAfter, goneAfter time.Duration
	checked               func(*world)
}

type simPod struct {
	i       Instance
	pod     *corev1.Pod
	started time.Time
	stopped time.Time
	by      string
}

func newWorld(t testing.TB) *world {
	w := &world{
		t: t, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), pods: map[types.UID]*simPod{},
		readyAfter: time.Second, goneAfter: time.Second,
	}
	w.in = Input{
		Self: "n1", Boot: 7, Apps: []string{"shop"}, Accepted: map[string]Commit{},
		Nodes: []Node{{Node: testNode("n1", "4", "8Gi"), Stable: true}},
	}
	return w
}

func testNode(name, cpu, memory string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/hostname": name}}}
	n.Status.Allocatable = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory), corev1.ResourcePods: resource.MustParse("110"),
	}
	return n
}

// push makes a commit that holds exactly these objects.
func (w *world) push(objects ...Object) {
	level := w.in.Accepted["shop"].Level + 1
	c := Commit{ID: fmt.Sprintf("c%d", level), Level: level}
	w.in.Accepted = map[string]Commit{"shop": c, clusterUnit: c}
	old := w.in.Objects
	w.in.Objects = nil
	for _, o := range objects {
		o.Source = Source{App: "shop", Path: "shop.yaml", Line: 1}
		o.Commit = c
		o.Templates = []Template{{Revision: revisionOf(o), Commit: c, Spec: podTemplate(o)}}
		for _, before := range old {
			if before.Object.GetUID() == o.Object.GetUID() {
				for _, t := range before.Templates {
					if t.Revision != o.Templates[0].Revision {
						o.Templates = append(o.Templates, t)
					}
				}
				if fmt.Sprint(before.Object) == fmt.Sprint(o.Object) {
					o.Commit = before.Commit
				}
			}
		}
		w.in.Objects = append(w.in.Objects, o)
	}
}

func podTemplate(o Object) corev1.PodTemplateSpec {
	switch x := o.Object.(type) {
	case *corev1.Pod:
		return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: x.Labels, Annotations: x.Annotations}, Spec: x.Spec}
	case *appsv1.Deployment:
		return x.Spec.Template
	case *appsv1.ReplicaSet:
		return x.Spec.Template
	case *appsv1.DaemonSet:
		return x.Spec.Template
	}
	panic("no template")
}

// revisionOf stands for the hash: image name and requests make the revision.
func revisionOf(o Object) string {
	c := podTemplate(o).Spec.Containers[0]
	return fmt.Sprintf("%-10.10s", c.Image+c.Resources.Requests.Cpu().String()+"0000000000")
}

func template(image, cpu string) corev1.PodTemplateSpec {
	t := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: image}}},
	}
	t.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
	return t
}

func deployment(image string, replicas int32, surge, unavailable int32) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "uid-web", Generation: 1},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Template: template(image, "100m"),
			Strategy: appsv1.DeploymentStrategy{
				Type:          appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: new(intstr.FromInt32(surge)), MaxUnavailable: new(intstr.FromInt32(unavailable))},
			},
		},
	}
}

// input is the snapshot of the moment.
func (w *world) input() Input {
	in := w.in
	in.Now = w.now
	d := Document{Node: in.Self, Boot: in.Boot, Accepted: in.Accepted, Releases: w.releases, Declines: w.declines}
	in.Pods = nil
	for _, p := range w.pods {
		d.Instances = append(d.Instances, p.i)
		in.Pods = append(in.Pods, p.pod)
	}
	slices.SortFunc(d.Instances, func(a, b Instance) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	in.Documents = append([]Document{d}, w.in.Documents...)
	return in
}

// all is everything that a state remembers.
func (s State) all() Memory {
	if s.index == nil {
		return s.memory
	}
	set := map[*tracked]bool{}
	for _, g := range s.index.tracked {
		set[g] = true
	}
	m := s.index.remembered(set, func(*seat) bool { return true })
	m.Slots, m.Workloads = maps.Clone(m.Slots), maps.Clone(m.Workloads)
	return m
}

// comparedAgain is how long a step without news goes uncompared.
const comparedAgain = 2 * time.Second

// decide takes a step, and compares it with that of a new state that remembers the same: whenever there is news
// or the time that the last step has named, and else once in a while. The short tests
// compare once a second.
func (w *world) decide(in Input) (got Decision) {
	w.t.Helper()
	old := w.before
	w.before, old.Now = in, in.Now
	ago, wake := in.Now.Sub(w.compared), w.last.Wake
	quiet := (wake.IsZero() || in.Now.Before(wake)) && len(w.last.Actions) == 0 && reflect.DeepEqual(in, old)
	if ago < comparedAgain && quiet || testing.Short() && ago < time.Second {
		w.state, got = Step(w.state, in)
		w.asked = append(w.asked, got.Asks...)
		return got
	}
	w.compared = in.Now
	fresh, want := Step(anew(w.state), in)
	w.state, got = Step(w.state, in)
	asks := got.Asks // of what was decided now
	want.Removed, got.Removed, want.Asks, got.Asks = nil, nil, nil, nil
	if !reflect.DeepEqual(got, want) {
		w.t.Fatalf("the step of a state that was kept differs from that of a new one: %s", differ(got, want))
	}
	if a, b := w.state.all(), fresh.all(); !reflect.DeepEqual(a, b) {
		w.t.Fatalf("a state that was kept remembers other things than a new one: %s", differ(a, b))
	}
	got.Asks = asks
	w.asked = append(w.asked, asks...)
	return got
}

// differ tells where two values begin to differ.
func differ(got, want any) string {
	a, b := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want)
	at := 0
	for at < len(a) && at < len(b) && a[at] == b[at] {
		at++
	}
	from := max(at-300, 0)
	return fmt.Sprintf("got\n… %s\nwant\n… %s", a[from:min(len(a), at+300)], b[from:min(len(b), at+300)])
}

// step decides and carries out.
func (w *world) step() Decision {
	w.last = w.decide(w.input())
	for _, a := range w.last.Actions {
		w.log = append(w.log, fmt.Sprintf("%s %s", w.now.Format("04:05"), a))
		switch a.Kind {
		case Start:
			if w.pods[a.Instance.UID] != nil {
				w.t.Fatalf("started twice: %s", a)
			}
			w.pods[a.Instance.UID] = &simPod{i: a.Instance, pod: a.Pod, started: w.now}
		case Stop:
			p := w.pods[a.Instance.UID]
			p.i.Terminating, p.i.Ready, p.stopped, p.by = true, false, w.now, a.By
		}
	}
	w.declines = append(w.declines, w.last.Declines...)
	if w.checked != nil {
		w.checked(w)
	}
	if len(w.last.Actions)+len(w.last.Declines) == 0 {
		return w.last // what another step would say was compared
	}
	_, again := Step(anew(w.state), w.input())
	if len(again.Actions) > 0 {
		for _, d := range [][]SlotDecision{w.last.Slots, again.Slots} {
			for _, e := range d {
				w.t.Logf("%s/%d: %s %s on %s %v: %s", e.Owner, e.Slot.Ordinal, e.Rule, e.Revision, e.Node, e.Candidates, e.Reason)
			}
		}
		w.t.Fatalf("after all actions were carried out, Step asks for %v\nlog:\n%s", again.Actions, w.story())
	}
	return w.last
}

// tick lets the time pass and the pods live.
func (w *world) tick(d time.Duration) {
	w.now = w.now.Add(d)
	for uid, p := range w.pods {
		switch {
		case p.i.Terminating:
			if w.now.Sub(p.stopped) >= w.goneAfter {
				delete(w.pods, uid)
				w.releases = append(w.releases, Release{Slot: p.i.Slot, Revision: p.i.Revision, Epoch: p.i.Epoch, By: p.by, At: w.now})
			}
		case p.i.Phase == corev1.PodFailed || p.i.Phase == corev1.PodSucceeded:
		case p.pod.Spec.Containers[0].Image == "bad":
			p.i.Reason, p.i.Message = "ImagePullBackOff", `Back-off pulling image "bad"`
		case !p.i.Ready && w.now.Sub(p.started) >= w.readyAfter:
			p.i.Phase, p.i.Ready, p.i.ReadySince = corev1.PodRunning, true, w.now
		}
	}
}

// run steps until nothing happens for the given time.
func (w *world) run(total time.Duration) {
	w.t.Helper()
	for end := w.now.Add(total); w.now.Before(end); {
		w.step()
		w.tick(500 * time.Millisecond)
	}
}

func (w *world) story() string {
	out := ""
	for _, l := range w.log {
		out += l + "\n"
	}
	return out
}

// count returns the pods that are not terminating, those of them that are ready, and the revisions.
func (w *world) count() (all, ready int, revisions []string) {
	for _, p := range w.pods {
		if !p.i.Terminating {
			all++
			revisions = append(revisions, p.i.Revision)
			if p.i.Ready {
				ready++
			}
		}
	}
	slices.Sort(revisions)
	return all, ready, slices.Compact(revisions)
}

func TestPushStartsAllReplicasAtOnce(t *testing.T) {
	w := newWorld(t)
	w.push(Object{Object: deployment("a", 3, 1, 0)})
	d := w.step()
	if len(d.Actions) != 3 {
		t.Fatalf("got %v, want three starts", d.Actions)
	}
	for _, a := range d.Actions {
		if a.Kind != Start || a.Pod == nil || a.Pod.Spec.NodeName != "n1" {
			t.Errorf("got %+v", a)
		}
	}
	w.run(5 * time.Second)
	if st := w.last.Workloads[0]; st.Ready != 3 || st.Available != 3 || len(st.Waiting) > 0 {
		t.Errorf("got %+v", st)
	}
}

// bounds fails the test when a rollout takes more pods down or adds more than it may.
func bounds(replicas, surge, unavailable int) func(*world) {
	return func(w *world) {
		w.t.Helper()
		all, ready, _ := w.count()
		if ready < replicas-unavailable || all > replicas+surge {
			w.t.Fatalf("%d pods, %d ready, of %d replicas with maxSurge %d, maxUnavailable %d\n%s", all, ready, replicas, surge, unavailable, w.story())
		}
	}
}

func TestRolloutKeepsItsBounds(t *testing.T) {
	for _, c := range []struct{ replicas, surge, unavailable int32 }{
		{3, 1, 0}, {3, 0, 1}, {5, 1, 1}, {10, 3, 2}, {4, 4, 4}, {1, 1, 0}, {1, 0, 1}, {7, 0, 3}, {7, 3, 0},
	} {
		t.Run(fmt.Sprintf("replicas=%d,surge=%d,unavailable=%d", c.replicas, c.surge, c.unavailable), func(t *testing.T) {
			w := newWorld(t)
			w.push(Object{Object: deployment("a", c.replicas, c.surge, c.unavailable)})
			w.run(5 * time.Second)
			w.checked = bounds(int(c.replicas), int(c.surge), int(c.unavailable))
			w.push(Object{Object: deployment("b", c.replicas, c.surge, c.unavailable)})
			w.run(60 * time.Second)
			st := w.last.Workloads[0]
			if st.Updated != c.replicas || st.Available != c.replicas || st.Current != c.replicas {
				t.Fatalf("did not end: %+v\n%s", st, w.story())
			}
			if c := st.Conditions[1]; c.Reason != "NewReplicaSetAvailable" {
				t.Errorf("got %+v", c)
			}
		})
	}
}

func TestBadImageStopsTheRolloutAndRevertRecovers(t *testing.T) {
	for _, c := range []struct{ surge, unavailable int32 }{{1, 0}, {0, 1}, {1, 1}, {2, 1}} {
		if testing.Short() && c.surge+c.unavailable > 1 {
			continue
		}
		t.Run(fmt.Sprintf("surge=%d,unavailable=%d", c.surge, c.unavailable), func(t *testing.T) {
			w := newWorld(t)
			w.push(Object{Object: deployment("a", 4, c.surge, c.unavailable)})
			w.run(5 * time.Second)
			w.checked = bounds(4, int(c.surge), int(c.unavailable))
			w.push(Object{Object: deployment("bad", 4, c.surge, c.unavailable)})
			w.run(20 * time.Minute)
			st := w.last.Workloads[0]
			if st.Ready != 4-c.unavailable {
				t.Errorf("ready %d, want %d\n%s", st.Ready, 4-c.unavailable, w.story())
			}
			if got := st.Conditions[1]; got.Reason != "ProgressDeadlineExceeded" || got.Status != metav1.ConditionFalse {
				t.Errorf("got %+v", got)
			}
			if len(st.Waiting) != 4 || st.Waiting[0].Reason != `ImagePullBackOff: Back-off pulling image "bad"` {
				t.Errorf("waiting: %+v", st.Waiting)
			}
			w.push(Object{Object: deployment("a", 4, c.surge, c.unavailable)})
			w.run(5 * time.Second)
			if st := w.last.Workloads[0]; st.Ready != 4 || st.Updated != 4 || st.Current != 4 {
				t.Errorf("after the revert: %+v\n%s", st, w.story())
			}
		})
	}
}
