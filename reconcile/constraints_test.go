package reconcile

import (
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// named gives a Deployment of one image another name, labels and uid.
func named(name string, d *appsv1.Deployment) *appsv1.Deployment {
	d.Name, d.UID = name, types.UID("uid-"+name)
	labels := map[string]string{"app": name}
	d.Spec.Selector, d.Spec.Template.Labels = &metav1.LabelSelector{MatchLabels: labels}, labels
	return d
}

// away keeps a Deployment's pods from nodes with pods of an app.
func away(d *appsv1.Deployment, t corev1.PodAffinityTerm) *appsv1.Deployment {
	t.TopologyKey = corev1.LabelHostname
	d.Spec.Template.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{t}}}
	return d
}

// TestAntiAffinityAcrossNodes starts more replicas than there are nodes to keep them apart, and rolls
// them to another image: its pods are told apart from the old ones by their hash.
func TestAntiAffinityAcrossNodes(t *testing.T) {
	f := newFlock(t, 1, 3)
	d := func(image string) Object {
		return Object{Object: away(named("web", deployment(image, 4, 0, 1)), corev1.PodAffinityTerm{
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, MatchLabelKeys: []string{LabelTemplateHash},
		})}
	}
	apart := func() {
		on := map[string]string{}
		for _, m := range f.pods() {
			if m.Terminating {
				continue
			}
			if other := on[m.Node+m.Revision]; other != "" {
				t.Fatalf("%s beside %s on %s\n%s", m.Name, other, m.Node, f.story())
			}
			on[m.Node+m.Revision] = m.Name
		}
	}
	f.push(d("a"))
	f.run(time.Minute, apart)
	if n := len(f.pods()); n != 3 {
		t.Errorf("%d pods on 3 nodes", n)
	}
	waiting := f.worlds[0].last.Workloads[0].Waiting
	if len(waiting) != 1 || waiting[0].Reason != "0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules." {
		t.Errorf("got %+v", waiting)
	}
	f.push(d("b"))
	f.run(3*time.Minute, apart)
	for _, m := range f.pods() {
		if !strings.HasPrefix(m.Revision, "b") {
			t.Errorf("%s is left\n%s", m.Name, f.story())
		}
	}
}

// TestNamespaceSelector keeps a pod from those of namespaces that are chosen by label.
func TestNamespaceSelector(t *testing.T) {
	w := newWorld(t)
	space := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "other", UID: "uid-other", Labels: map[string]string{"team": "red"}}}
	shunned := named("db", deployment("a", 1, 1, 0))
	shunned.Namespace = "other"
	// A Namespace brings no pods, so that the world pushes it without a template.
	w.push(Object{Object: shunned})
	w.in.Objects = append(w.in.Objects, Object{Object: space, Source: Source{App: "shop"}})
	w.run(5 * time.Second)
	before := w.in.Objects
	w.push(Object{Object: away(named("web", deployment("a", 1, 1, 0)), corev1.PodAffinityTerm{
		LabelSelector: &metav1.LabelSelector{}, NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "red"}},
	})})
	w.in.Objects = append(w.in.Objects, before...)
	w.run(5 * time.Second)
	expect(t, w, 1, 1)
	for _, s := range w.last.Workloads {
		if s.Name == "web" && (len(s.Waiting) != 1 || s.Waiting[0].Reason != "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.") {
			t.Errorf("got %+v", s.Waiting)
		}
	}
}

// TestPreemption makes room for a pod of higher priority, once, and not before all documents are there.
func TestPreemption(t *testing.T) {
	w := newWorld(t)
	w.goneAfter = 5 * time.Second
	of := func(name string, priority int32) Object {
		d := named(name, deployment("a", 1, 0, 1))
		d.Spec.Template.Spec.Containers = template("a", "3").Spec.Containers
		d.Spec.Template.Spec.Priority = &priority
		return Object{Object: d}
	}
	w.push(of("low", 0))
	w.run(5 * time.Second)
	expect(t, w, 1, 1)

	silent := Node{Node: testNode("n2", "1", "1Gi"), Stable: true}
	w.in.Nodes = append(w.in.Nodes, silent)
	w.push(of("low", 0), of("high", 100))
	w.run(20 * time.Second)
	expect(t, w, 1, 1)
	for _, a := range w.last.Actions {
		t.Errorf("before all documents are there: %s", a)
	}

	w.in.Nodes = w.in.Nodes[:1]
	stops := 0
	for range 120 {
		d := w.step()
		w.tick(500 * time.Millisecond)
		for _, a := range d.Actions {
			if a.Kind == Stop {
				stops++
				if a.By != ByPreempted || a.Reason != "preempted by high[0] of higher priority" || a.Instance.Owner != "low" {
					t.Errorf("got %s by %s", a, a.By)
				}
			}
		}
	}
	expect(t, w, 1, 1)
	if stops != 1 {
		t.Errorf("%d stops\n%s", stops, w.story())
	}
	for _, s := range w.last.Workloads {
		switch {
		case s.Name == "high" && s.Available != 1:
			t.Errorf("high does not run\n%s", w.story())
		case s.Name == "low" && (len(s.Waiting) != 1 || s.Waiting[0].Reason != "0/1 nodes are available: 1 Insufficient cpu."):
			t.Errorf("low: %+v", s.Waiting)
		}
	}
}
