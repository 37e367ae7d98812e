package reconcile

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func started(t *testing.T, o Object) Action {
	t.Helper()
	w := newWorld(t)
	w.push(o)
	d := w.step()
	if len(d.Actions) != 1 || d.Actions[0].Kind != Start {
		t.Fatalf("got %v", d.Actions)
	}
	return d.Actions[0]
}

func TestPodIsComplete(t *testing.T) {
	a := started(t, Object{Object: deployment("a", 1, 1, 0)})
	p := a.Pod
	if p.APIVersion != "v1" || p.Kind != "Pod" || p.Namespace != "default" || p.UID == "" || p.Spec.NodeName != "n1" {
		t.Errorf("got %+v", p)
	}
	if !strings.HasPrefix(p.Name, "web-a100m00000-") || len(p.Name) != len("web-a100m00000-")+5 {
		t.Errorf("name %q", p.Name)
	}
	if p.Labels["app"] != "web" || p.Labels["pod-template-hash"] != "a100m00000" {
		t.Errorf("labels %v", p.Labels)
	}
	if o := p.OwnerReferences; len(o) != 1 || o[0].Kind != "Deployment" || o[0].UID != "uid-web" || !*o[0].Controller {
		t.Errorf("owners %v", o)
	}
	if p.Annotations[AnnotationRevision] != "a100m00000" || p.Annotations[AnnotationCommit] != "c1" {
		t.Errorf("annotations %v", p.Annotations)
	}
	if n := len(p.Spec.Tolerations); n != 2 || *p.Spec.Tolerations[0].TolerationSeconds != 300 || *p.Spec.Priority != 0 {
		t.Errorf("tolerations %v, priority %v", p.Spec.Tolerations, p.Spec.Priority)
	}

	i, err := UnmarshalInstance(p)
	if err != nil {
		t.Fatal(err)
	}
	want := a.Instance
	want.Phase = ""
	if !reflect.DeepEqual(i, want) {
		t.Errorf("read back %+v\nwant %+v", i, want)
	}
}

// TestPodIdentityIsStable holds names, uids and the annotation of running pods: later agents must
// read what earlier ones wrote.
func TestPodIdentityIsStable(t *testing.T) {
	p := started(t, Object{Object: deployment("a", 1, 1, 0)}).Pod
	if p.Name != "web-a100m00000-wpndj" || p.UID != "9edb72da-053a-57e6-8dee-a18a7cc66705" {
		t.Errorf("got %s, %s", p.Name, p.UID)
	}
	const want = `{"slot":{"workload":"uid-web","ordinal":0},"revision":"a100m00000","epoch":1,"node":"n1","boot":7,` +
		`"claimed":"2026-01-02T03:04:05Z","cause":"c1","commit":{"id":"c1","level":1},"app":"shop",` +
		`"kind":"Deployment","namespace":"default","owner":"web","name":"web-a100m00000-wpndj","uid":"9edb72da-053a-57e6-8dee-a18a7cc66705"}`
	if got := p.Annotations[AnnotationSlot]; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestPodKeepsItsOwnTolerations(t *testing.T) {
	d := deployment("a", 1, 1, 0)
	d.Spec.Template.Spec.Tolerations = []corev1.Toleration{
		{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: new(int64(5))},
	}
	p := started(t, Object{Object: d}).Pod
	if len(p.Spec.Tolerations) != 2 || *p.Spec.Tolerations[0].TolerationSeconds != 5 {
		t.Errorf("got %v", p.Spec.Tolerations)
	}
	if len(d.Spec.Template.Spec.Tolerations) != 1 {
		t.Error("the template was changed")
	}
}

func TestLongNamesAreCut(t *testing.T) {
	for _, name := range []string{strings.Repeat("a", 63), strings.Repeat("b", 45) + "-" + strings.Repeat("c", 17), strings.Repeat("d.", 100) + "e"} {
		d := deployment("a", 1, 1, 0)
		d.Name = name
		p := started(t, Object{Object: d}).Pod
		if len(p.Name) > 63 {
			t.Errorf("%q has %d characters", p.Name, len(p.Name))
		}
		if errs := validation.NameIsDNSSubdomain(p.Name, false); len(errs) > 0 {
			t.Errorf("%q: %v", p.Name, errs)
		}
	}
}

func TestUnmarshalInstanceRefuses(t *testing.T) {
	p := started(t, Object{Object: deployment("a", 1, 1, 0)}).Pod
	for name, change := range map[string]func(*corev1.Pod){
		"missing, so Pleach did not start this pod": func(p *corev1.Pod) { delete(p.Annotations, AnnotationSlot) },
		"unexpected end of JSON input":              func(p *corev1.Pod) { p.Annotations[AnnotationSlot] = "{" },
		"not this one":                              func(p *corev1.Pod) { p.UID = "another" },
	} {
		c := p.DeepCopy()
		change(c)
		if _, err := UnmarshalInstance(c); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want %q", err, name)
		}
	}
}

func TestObservedInstanceSaysWhatKubectlShows(t *testing.T) {
	ready := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	waits := func(reason, message string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
	}
	for _, c := range []struct {
		name   string
		status corev1.PodStatus
		want   Instance
	}{
		{"nothing yet", corev1.PodStatus{}, Instance{Phase: corev1.PodPending}},
		{
			"an init container crashes",
			corev1.PodStatus{
				Phase:                 corev1.PodPending,
				InitContainerStatuses: []corev1.ContainerStatus{{Name: "init", RestartCount: 2, State: waits("CrashLoopBackOff", "back-off 20s")}},
				ContainerStatuses:     []corev1.ContainerStatus{{Name: "web", RestartCount: 1, State: waits("PodInitializing", "")}},
			},
			Instance{Phase: corev1.PodPending, Restarts: 3, Reason: "CrashLoopBackOff", Message: "container init: back-off 20s"},
		},
		{
			"ready",
			corev1.PodStatus{
				Phase: corev1.PodRunning, PodIP: "10.1.2.3",
				Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(ready)}},
			},
			Instance{Phase: corev1.PodRunning, PodIP: "10.1.2.3", Ready: true, ReadySince: ready},
		},
	} {
		pod := started(t, Object{Object: deployment("a", 1, 1, 0)}).Pod.DeepCopy()
		pod.Status = c.status
		got, err := ObservedInstance(pod)
		if err != nil {
			t.Fatal(err)
		}
		want, _ := UnmarshalInstance(pod)
		want.Phase, want.PodIP, want.Ready, want.ReadySince = c.want.Phase, c.want.PodIP, c.want.Ready, c.want.ReadySince
		want.Restarts, want.Reason, want.Message = c.want.Restarts, c.want.Reason, c.want.Message
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v\nwant %+v", c.name, got, want)
		}
	}
}

func FuzzUnmarshalInstance(f *testing.F) {
	f.Add(`{"slot":{"workload":"u","ordinal":0},"name":"p","namespace":"n","uid":"x","claimed":"2026-01-02T03:04:05Z"}`)
	f.Add(`{}`)
	f.Fuzz(func(t *testing.T, text string) {
		p := &corev1.Pod{}
		p.Name, p.Namespace, p.UID = "p", "n", "x"
		p.Annotations = map[string]string{AnnotationSlot: text}
		if i, err := UnmarshalInstance(p); err == nil && (i.Name != "p" || i.UID != "x") {
			t.Errorf("got %+v", i)
		}
	})
}

func TestStateSurvivesItsEncoding(t *testing.T) {
	w := newWorld(t)
	w.push(Object{Object: deployment("a", 3, 1, 1)})
	w.run(5 * time.Second)
	w.push(Object{Object: deployment("bad", 3, 1, 1)})
	w.run(30 * time.Second)
	b, err := json.Marshal(w.state)
	if err != nil {
		t.Fatal(err)
	}
	var back State
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	want, _ := Step(w.state, w.input())
	got, _ := Step(back, w.input())
	a, _ := json.Marshal(want)
	c, _ := json.Marshal(got)
	if string(a) != string(c) {
		t.Errorf("got  %s\nwant %s", c, a)
	}
}
