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
	at        *tracked
	sizes     map[*Template]size

	// While it is decided.
	slots   []*slot    // wanted, by ordinal or node
	surplus []Instance // in slots that are not wanted
	roll    *rollout
	moving  bool // a pod is to leave a drained node
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

// newWorkload reads an object that wants pods; nil when its kind is none that does.
func newWorkload(o Object) *workload {
	w := &workload{
		object: o, namespace: o.Object.GetNamespace(), name: o.Object.GetName(), uid: o.Object.GetUID(),
		templates: o.Templates, revision: o.Templates[0].Revision, sizes: map[*Template]size{},
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
		return nil
	}
	return w
}

// compare orders workloads, and with them all that is decided.
func (w *workload) compare(o *workload) int {
	return cmp.Or(cmp.Compare(w.kind, o.kind), cmp.Compare(w.namespace, o.namespace), cmp.Compare(w.name, o.name), cmp.Compare(w.uid, o.uid))
}

// addSlots lists the slots that the workload wants, and makes their seats.
func (p *pass) addSlots(g *tracked) {
	w := g.w
	if w == nil {
		return
	}
	if w.kind != kindDaemonSet {
		w.makeSlots(int(w.desired))
		for i, s := range w.slots {
			s.id.Ordinal = int32(i)
			s.seat = g.sit(s.id)
		}
		return
	}
	running := func(q *peer) bool {
		_, found := slices.BinarySearchFunc(g.records, q.name, func(r record, name string) int { return cmp.Compare(r.from.name, name) })
		return found && !p.index.isGone(q)
	}
	if g.fits == nil {
		g.fits = make(map[*peer]fit, len(p.nodes))
	}
	names := make([]string, 0, len(p.nodes))
	for _, n := range p.nodes {
		q := p.index.peers[n.Node.Name]
		f, ok := g.fits[q]
		if !ok {
			f = p.index.fit(w, q)
			g.fits[q] = f
		}
		if f.admits || f.keeps && running(q) {
			names = append(names, q.name)
		}
	}
	w.makeSlots(len(names))
	for i, s := range w.slots {
		s.id.Node = names[i]
		s.seat = g.sit(s.id)
	}
	w.desired = int32(len(names))
	w.strategy = daemonStrategy(w.object.Object.(*appsv1.DaemonSet), len(names))
}

func (w *workload) makeSlots(n int) {
	all := make([]slot, n)
	w.slots = make([]*slot, n)
	for i := range all {
		all[i].id.Workload, all[i].index = w.uid, i
		w.slots[i] = &all[i]
	}
}

// fit says whether a DaemonSet may have a slot on a node.
type fit struct {
	admits bool
	keeps  bool // what runs there already
}

func (x *index) fit(w *workload, q *peer) fit {
	c, n := w.size(&w.templates[0]).constraints, x.placementNode(q)
	return fit{admits: c.Admits(&n) == "", keeps: c.Keeps(&n)}
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
