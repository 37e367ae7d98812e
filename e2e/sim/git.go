package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pleachdev/pleach/reconcile"
)

// clusterUnit is the key of the cluster's own files in an accepted vector.
const clusterUnit = "pleach.dev"

// apps are the apps of the simulated repository.
var apps = []string{"shop", "tools"}

// badImage never becomes ready.
const badImage = -1

// Workload is what the simulated repository says of one workload.
type Workload struct {
	Name        string
	App         string
	Kind        string // Deployment, DaemonSet, ReplicaSet or Pod
	Recreate    bool
	Replicas    int
	Surge       int
	Unavailable int
	MinReady    time.Duration
	Image       int // a number; badImage
	Bad         int // tells bad images apart
	Brought     int // counts how often it was brought: what comes back after its removal is another object
}

// Change is what a commit does to one workload, which becomes To, or goes when Removed; or to one node.
type Change struct {
	To      Workload
	Removed bool
	OfNode  bool
	Machine Machine
}

// String is the change in a story.
func (c Change) String() string {
	switch w := c.To; {
	case c.OfNode:
		return c.Machine.String()
	case c.Removed:
		return w.Name + " removed"
	case w.Kind == "DaemonSet":
		return fmt.Sprintf("%s at %s on every node, maxSurge %d, maxUnavailable %d", w.Name, w.revision(), w.Surge, w.Unavailable)
	case w.Recreate:
		return fmt.Sprintf("%s at %s, %d replicas, Recreate", w.Name, w.revision(), w.Replicas)
	case w.Kind != "Deployment":
		return fmt.Sprintf("%s %s at %s, %d replicas", w.Kind, w.Name, w.revision(), w.Replicas)
	default:
		return fmt.Sprintf("%s at %s, %d replicas, maxSurge %d, maxUnavailable %d", w.Name, w.revision(), w.Replicas, w.Surge, w.Unavailable)
	}
}

func (w Workload) uid() types.UID {
	h := dice(uint64(w.Brought), w.Name)
	return types.UID(fmt.Sprintf("%08x-0000-5000-8000-%012x", h.Uint32(), h.Uint32()))
}

func (w Workload) revision() string {
	name := fmt.Sprintf("v%d", w.Image)
	if w.Image == badImage {
		name = fmt.Sprintf("bad%d", w.Bad)
	}
	return fmt.Sprintf("%sxxxxxxxxxx", name)[:10]
}

// Revision is one commit of the history.
type Revision struct {
	Commit   reconcile.Commit
	Objects  map[string][]reconcile.Object // by app
	Machines []*corev1.Node                // by name
}

func (v *Revision) committed() Committed {
	var all []reconcile.Object
	for _, app := range sortedKeys(v.Objects) {
		all = append(all, v.Objects[app]...)
	}
	c := CommittedOf(v.Commit, all)
	c.Cordoned, c.Drained, c.Tainted = v.outOfService()
	return c
}

// history is what was ever pushed, the commit of level i at i-1.
type history struct {
	revisions []Revision
	given     []Revision     // to be pushed instead of changes
	base      []*corev1.Node // by index, as they are without a change
	machines  []*corev1.Node // as committed last
	workloads map[string]Workload
	changed   map[string]reconcile.Commit
	templates map[string][]reconcile.Template
	brought   map[string]int64 // generation
}

func commit(level int64) reconcile.Commit {
	return reconcile.Commit{ID: fmt.Sprintf("c%039x", level), Level: level}
}

// push adds a commit.
func (h *history) push(changes []Change) {
	if len(h.given) > 0 {
		h.revisions, h.given = append(h.revisions, h.given[0]), h.given[1:]
		return
	}
	if h.workloads == nil {
		h.workloads, h.changed = map[string]Workload{}, map[string]reconcile.Commit{}
		h.templates, h.brought = map[string][]reconcile.Template{}, map[string]int64{}
	}
	c := commit(int64(len(h.revisions) + 1))
	for _, x := range changes {
		if x.OfNode {
			h.machines = slices.Clone(h.machines)
			h.machines[x.Machine.Node] = x.Machine.object(h.base[x.Machine.Node])
			continue
		}
		name := x.To.Name
		if x.Removed {
			delete(h.workloads, name)
			delete(h.templates, name)
			continue
		}
		h.workloads[name], h.changed[name] = x.To, c
		h.brought[name]++
		known := slices.DeleteFunc(slices.Clone(h.templates[name]), func(t reconcile.Template) bool { return t.Revision == x.To.revision() })
		known = append([]reconcile.Template{{Revision: x.To.revision(), Commit: c, Spec: x.To.template()}}, known...)
		h.templates[name] = known[:min(len(known), 11)]
	}
	next := Revision{Commit: c, Objects: map[string][]reconcile.Object{}, Machines: h.machines}
	for _, name := range sortedKeys(h.workloads) {
		w := h.workloads[name]
		next.Objects[w.App] = append(next.Objects[w.App], reconcile.Object{
			Source: reconcile.Source{App: w.App, Path: w.App + "/" + w.Name + ".yaml", Line: 1},
			Commit: h.changed[name], Object: w.object(h.brought[name]), Templates: h.templates[name],
		})
	}
	h.revisions = append(h.revisions, next)
}

func (h *history) at(level int64) Revision { return h.revisions[level-1] }

func (h *history) head() int64 { return int64(len(h.revisions)) }

func (w Workload) template() corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": w.Name}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "main", Image: w.revision(),
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m")}},
		}}},
	}
}

func (w Workload) object(generation int64) reconcile.K8sObject {
	meta := metav1.ObjectMeta{Namespace: "default", Name: w.Name, UID: w.uid(), Generation: generation}
	surge, unavailable := new(intstr.FromInt32(int32(w.Surge))), new(intstr.FromInt32(int32(w.Unavailable)))
	switch w.Kind {
	case "Pod":
		t := w.template()
		meta.Labels = t.Labels
		return &corev1.Pod{ObjectMeta: meta, Spec: t.Spec}
	case "ReplicaSet":
		return &appsv1.ReplicaSet{ObjectMeta: meta, Spec: appsv1.ReplicaSetSpec{
			Replicas: new(int32(w.Replicas)), Template: w.template(), MinReadySeconds: int32(w.MinReady / time.Second),
		}}
	case "DaemonSet":
		return &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{
			Template: w.template(), MinReadySeconds: int32(w.MinReady / time.Second),
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{
				Type:          appsv1.RollingUpdateDaemonSetStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxSurge: surge, MaxUnavailable: unavailable},
			},
		}}
	}
	d := &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{
		Replicas: new(int32(w.Replicas)), Template: w.template(), MinReadySeconds: int32(w.MinReady / time.Second),
		Strategy: appsv1.DeploymentStrategy{
			Type:          appsv1.RollingUpdateDeploymentStrategyType,
			RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: surge, MaxUnavailable: unavailable},
		},
	}}
	if w.Recreate {
		d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	}
	return d
}

// author draws commits.
type author struct {
	r         *rand.Rand
	workloads []Workload
	present   []bool
	machines  []Machine
	images    int
	latest    int // changed last
}

func newAuthor(r *rand.Rand, nodes int) *author {
	a := &author{r: r}
	for i := range nodes {
		a.machines = append(a.machines, Machine{Node: i})
	}
	add := func(w Workload) {
		w.Image, w.MinReady = a.image(), time.Duration(r.IntN(2)*r.IntN(3))*time.Second
		w.App = apps[len(a.workloads)%len(apps)]
		a.workloads = append(a.workloads, w)
		a.present = append(a.present, true)
	}
	web, api := Workload{Name: "web", Kind: "Deployment"}, Workload{Name: "api", Kind: "Deployment"}
	web.Surge, web.Unavailable = a.limits()
	api.Surge, api.Unavailable = a.limits()
	web.Replicas, api.Replicas = 1+r.IntN(nodes+3), 1+r.IntN(4)
	add(web)
	add(api)
	add(Workload{Name: "batch", Kind: "Deployment", Recreate: true, Replicas: 1 + r.IntN(3)})
	logs := Workload{Name: "logs", Kind: "DaemonSet", Unavailable: 1 + r.IntN(2)}
	if r.IntN(2) == 0 { // one of the two is 0, as validation demands
		logs.Surge, logs.Unavailable = logs.Unavailable, 0
	}
	add(logs)
	if r.IntN(3) == 0 {
		add(Workload{Name: "set", Kind: "ReplicaSet", Replicas: 1 + r.IntN(4)})
	}
	if r.IntN(3) == 0 {
		add(Workload{Name: "one", Kind: "Pod", Replicas: 1})
	}
	if nodes >= large {
		// Twenty slots a node, in workloads as a large flock has them: wide, with room to roll.
		for i := range largeWorkloads {
			w := Workload{Name: fmt.Sprintf("app-%02d", i), Kind: "Deployment", Replicas: nodes * 19 / largeWorkloads}
			w.Surge, w.Unavailable = w.Replicas/8, w.Replicas/8
			add(w)
		}
	}
	return a
}

// large is from how many nodes on a flock has many workloads.
const (
	large          = 50
	largeWorkloads = 38
)

func (a *author) limits() (surge, unavailable int) {
	surge, unavailable = a.r.IntN(3), a.r.IntN(3)
	if surge+unavailable == 0 {
		surge = 1
	}
	return surge, unavailable
}

func (a *author) image() int {
	a.images++
	return a.images
}

func (a *author) first() (out []Change) {
	for _, w := range a.workloads {
		out = append(out, Change{To: w})
	}
	return out
}

func (a *author) next() []Change {
	i := a.latest
	if a.r.IntN(2) == 0 {
		i = a.r.IntN(len(a.workloads))
	}
	a.latest = i
	w := &a.workloads[i]
	if !a.present[i] {
		a.present[i] = true
		w.Brought++
		return []Change{{To: *w}}
	}
	switch a.r.IntN(8) {
	case 0:
		a.present[i] = false
		return []Change{{To: *w, Removed: true}}
	case 1:
		if w.Kind != "ReplicaSet" { // whose pods no commit ends
			w.Image, w.Bad = badImage, a.image()
		}
	case 2, 3:
		if w.Kind == "Deployment" || w.Kind == "ReplicaSet" {
			w.Replicas = a.r.IntN(w.Replicas + 4)
		} else {
			w.Image = a.image()
		}
	case 4: // back to an earlier one
		w.Image = 1 + a.r.IntN(a.images)
	case 5:
		if w.Kind == "Deployment" && !w.Recreate && a.r.IntN(3) == 0 {
			w.Surge, w.Unavailable = a.limits()
		}
		w.Image = a.image()
	default:
		w.Image = a.image()
	}
	return []Change{{To: *w}}
}

// last is a state in which everything can run.
func (a *author) last() (out []Change) {
	for i, w := range a.workloads {
		if a.present[i] {
			w.Image = a.image()
			if w.Kind == "Pod" {
				w.Brought++ // it may have run to its end
			}
			out = append(out, Change{To: w})
		}
	}
	for i, m := range a.machines { // half of those out of service stay so
		if m != (Machine{Node: i}) && a.r.IntN(2) == 0 {
			out = append(out, Change{Machine: Machine{Node: i}, OfNode: true})
		}
	}
	return out
}
