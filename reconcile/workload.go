package reconcile

import (
	"cmp"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// The kinds of objects that want pods.
const (
	kindPod        = "Pod"
	kindDeployment = "Deployment"
	kindReplicaSet = "ReplicaSet"
	kindDaemonSet  = "DaemonSet"
)

// workload is an object that wants pods, with its slots.
type workload struct {
	object    Object
	kind      string
	namespace string
	name      string
	uid       types.UID
	templates []Template // newest first, at least one
	revision  string     // the newest
	desired   int32
	strategy  strategy

	slots   []*slot    // wanted, by ordinal or node
	surplus []Instance // in slots that are not wanted
	roll    *rollout
}

// strategy is how a workload changes.
type strategy struct {
	surge       int
	unavailable int
	minReady    time.Duration
	deadline    time.Duration // 0: none
	recreate    bool          // all old pods end before a new one starts
	onDelete    bool          // a pod changes only when its slot opens for another reason
	paused      bool
	once        bool // a bare Pod: runs to its end
}

// workloadsOf picks the objects that want pods.
func (p *pass) workloadsOf(objects []Object) []*workload {
	var out []*workload
	for _, o := range objects {
		if len(o.Templates) == 0 {
			continue
		}
		w := &workload{
			object: o, namespace: o.Object.GetNamespace(), name: o.Object.GetName(), uid: o.Object.GetUID(),
			templates: o.Templates, revision: o.Templates[0].Revision,
		}
		switch x := o.Object.(type) {
		case *corev1.Pod:
			w.kind, w.desired = kindPod, 1
			w.strategy = strategy{once: true, recreate: true, unavailable: 1}
		case *appsv1.Deployment:
			w.kind, w.desired = kindDeployment, deref(x.Spec.Replicas, 1)
			w.strategy = deploymentStrategy(x, int(w.desired))
		case *appsv1.ReplicaSet:
			w.kind, w.desired = kindReplicaSet, deref(x.Spec.Replicas, 1)
			w.strategy = strategy{onDelete: true, unavailable: 1, minReady: seconds(x.Spec.MinReadySeconds)}
		case *appsv1.DaemonSet:
			w.kind = kindDaemonSet
			w.strategy = strategy{minReady: seconds(x.Spec.MinReadySeconds)} // the rest when its nodes are known
		default:
			continue
		}
		out = append(out, w)
	}
	slices.SortFunc(out, func(a, b *workload) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.namespace, b.namespace),
			cmp.Compare(a.name, b.name), cmp.Compare(a.uid, b.uid))
	})
	for _, w := range out {
		p.addSlots(w)
	}
	return out
}

// addSlots lists the slots that the workload wants.
func (p *pass) addSlots(w *workload) {
	add := func(id Slot) {
		w.slots = append(w.slots, &slot{id: id, key: id.key(), index: len(w.slots)})
	}
	if w.kind != kindDaemonSet {
		for i := range w.desired {
			add(Slot{Workload: w.uid, Ordinal: i})
		}
		return
	}
	running := map[string]bool{}
	for _, d := range p.docs {
		for i := range d.Instances {
			if d.Instances[i].Slot.Workload == w.uid {
				running[d.Node] = true
			}
		}
	}
	c := p.size(w, &w.templates[0]).constraints
	for _, n := range p.nodes {
		pn := p.placementNode(n)
		if c.Admits(&pn) == "" || running[n.Node.Name] && c.Keeps(&pn) {
			add(Slot{Workload: w.uid, Node: n.Node.Name})
		}
	}
	w.desired = int32(len(w.slots))
	w.strategy = daemonStrategy(w.object.Object.(*appsv1.DaemonSet), len(w.slots))
}

func deploymentStrategy(d *appsv1.Deployment, replicas int) strategy {
	s := strategy{paused: d.Spec.Paused, minReady: seconds(d.Spec.MinReadySeconds), deadline: seconds(deref(d.Spec.ProgressDeadlineSeconds, 600))}
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		s.recreate, s.unavailable = true, replicas
		return s
	}
	quarter := intstr.FromString("25%")
	surge, unavailable := &quarter, &quarter
	if r := d.Spec.Strategy.RollingUpdate; r != nil {
		surge, unavailable = cmp.Or(r.MaxSurge, surge), cmp.Or(r.MaxUnavailable, unavailable)
	}
	s.surge, s.unavailable = scaled(surge, replicas, true), min(scaled(unavailable, replicas, false), replicas)
	if s.surge == 0 && s.unavailable == 0 {
		// Rounding down left nothing to move with; Kubernetes takes one as well.
		s.unavailable = 1
	}
	return s
}

func daemonStrategy(d *appsv1.DaemonSet, nodes int) strategy {
	s := strategy{minReady: seconds(d.Spec.MinReadySeconds), onDelete: d.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType}
	one, none := intstr.FromInt32(1), intstr.FromInt32(0)
	surge, unavailable := &none, &one
	if r := d.Spec.UpdateStrategy.RollingUpdate; r != nil {
		surge, unavailable = cmp.Or(r.MaxSurge, surge), cmp.Or(r.MaxUnavailable, unavailable)
	}
	s.surge, s.unavailable = scaled(surge, nodes, true), scaled(unavailable, nodes, true)
	if s.surge == 0 && s.unavailable == 0 {
		s.unavailable = 1
	}
	return s
}

// scaled resolves a number or percentage; validation has refused what does not parse.
func scaled(v *intstr.IntOrString, total int, up bool) int {
	n, err := intstr.GetScaledValueFromIntOrPercent(v, total, up)
	if err != nil {
		return 0
	}
	return max(n, 0)
}

// template finds a rendering that is still known.
func (w *workload) template(revision string) *Template {
	for i := range w.templates {
		if w.templates[i].Revision == revision {
			return &w.templates[i]
		}
	}
	return nil
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }

func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}
