package sim

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pleachdev/pleach/reconcile"
)

// Committed is one commit of the followed history, as far as a recording is judged by it.
type Committed struct {
	ID        string   `json:"id"`
	Level     int64    `json:"level"`
	Apps      []string `json:"apps"` // that have objects
	Workloads []Wanted `json:"workloads"`
	// Nodes are those that are enrolled; nil: all that ever wrote a document.
	Nodes []string `json:"nodes,omitempty"`
	// Cordoned are those of Nodes on which nothing new starts, DaemonSets' pods aside; from those Drained pods
	// are moved away, DaemonSets' aside; on those Tainted, with NoExecute, no pod that is judged may be.
	Cordoned []string `json:"cordoned,omitempty"`
	Drained  []string `json:"drained,omitempty"`
	Tainted  []string `json:"tainted,omitempty"`
}

// Wanted is a workload as a commit has it.
type Wanted struct {
	UID       types.UID `json:"uid"`
	Kind      string    `json:"kind"`
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	App       string    `json:"app"`
	Revision  string    `json:"revision"`
	Replicas  int32     `json:"replicas"`          // of a DaemonSet, 0
	PerNode   bool      `json:"perNode,omitempty"` // one on each node
	// Rolling workloads keep to MaxSurge and MaxUnavailable, numbers of pods.
	Rolling         bool  `json:"rolling,omitempty"`
	MaxSurge        int   `json:"maxSurge,omitempty"`
	MaxUnavailable  int   `json:"maxUnavailable,omitempty"`
	MinReadySeconds int32 `json:"minReadySeconds,omitempty"`
}

// CommittedOf is a commit's objects, of all apps, as the checker wants them.
func CommittedOf(c reconcile.Commit, objects []reconcile.Object) Committed {
	out := Committed{ID: c.ID, Level: c.Level}
	for i := range objects {
		if app := objects[i].Source.App; !slices.Contains(out.Apps, app) {
			out.Apps = append(out.Apps, app)
		}
		if w, ok := wantedOf(&objects[i]); ok {
			out.Workloads = append(out.Workloads, w)
		}
	}
	slices.Sort(out.Apps)
	return out
}

func wantedOf(o *reconcile.Object) (Wanted, bool) {
	if len(o.Templates) == 0 {
		return Wanted{}, false
	}
	w := Wanted{
		UID: o.Object.GetUID(), Namespace: o.Object.GetNamespace(), Name: o.Object.GetName(), App: o.Source.App,
		Revision: o.Templates[0].Revision,
	}
	switch x := o.Object.(type) {
	case *appsv1.Deployment:
		w.Kind, w.Replicas, w.MinReadySeconds = "Deployment", replicas(x.Spec.Replicas), x.Spec.MinReadySeconds
		if r := x.Spec.Strategy.RollingUpdate; r != nil {
			w.Rolling = true
			w.MaxSurge, w.MaxUnavailable = scaled(r.MaxSurge, w.Replicas, true), scaled(r.MaxUnavailable, w.Replicas, false)
			if w.MaxSurge+w.MaxUnavailable == 0 {
				w.MaxUnavailable = 1 // as Kubernetes resolves it
			}
		}
	case *appsv1.DaemonSet:
		w.Kind, w.PerNode, w.MinReadySeconds = "DaemonSet", true, x.Spec.MinReadySeconds
		if r := x.Spec.UpdateStrategy.RollingUpdate; r != nil && r.MaxSurge != nil && r.MaxUnavailable != nil && r.MaxSurge.Type == intstr.Int && r.MaxUnavailable.Type == intstr.Int {
			w.Rolling, w.MaxSurge, w.MaxUnavailable = true, r.MaxSurge.IntValue(), r.MaxUnavailable.IntValue()
		}
	case *appsv1.ReplicaSet:
		w.Kind, w.Replicas, w.MinReadySeconds = "ReplicaSet", replicas(x.Spec.Replicas), x.Spec.MinReadySeconds
	case *appsv1.StatefulSet:
		w.Kind, w.Replicas, w.MinReadySeconds = "StatefulSet", replicas(x.Spec.Replicas), x.Spec.MinReadySeconds
	case *corev1.Pod:
		w.Kind, w.Replicas = "Pod", 1
	default:
		return Wanted{}, false
	}
	return w, true
}

func replicas(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

func scaled(v *intstr.IntOrString, of int32, up bool) int {
	if v == nil {
		return 0
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(v, int(of), up)
	if err != nil {
		return 0 // validation has refused it
	}
	return n
}

// workload finds a workload; nil when the commit does not have it.
func (c *Committed) workload(uid types.UID) *Wanted {
	if i := slices.IndexFunc(c.Workloads, func(w Wanted) bool { return w.UID == uid }); i >= 0 {
		return &c.Workloads[i]
	}
	return nil
}

// wants reports whether a commit has the slot.
func (c *Committed) wants(slot reconcile.Slot) bool {
	w := c.workload(slot.Workload)
	if w == nil {
		return false
	}
	return w.PerNode && (c.Nodes == nil || slices.Contains(c.Nodes, slot.Node)) && !slices.Contains(c.Tainted, slot.Node) || !w.PerNode && slot.Ordinal < w.Replicas
}

// admits reports whether a new pod of a workload may start on a node.
func (c *Committed) admits(m reconcile.Instance) bool {
	if slices.Contains(c.Tainted, m.Node) {
		return false
	}
	return m.Slot.Node != "" || !slices.Contains(c.Cordoned, m.Node) && !slices.Contains(c.Drained, m.Node)
}

// keeps reports whether pods of a workload may stay on a node.
func (c *Committed) keeps(m reconcile.Instance) bool {
	return !slices.Contains(c.Tainted, m.Node) && (m.Slot.Node != "" || !slices.Contains(c.Drained, m.Node))
}

// commitOf is the commit of which a document accepted the cluster's own files; nil when there is none.
func (j *judge) commitOf(d *reconcile.Document) *Committed {
	i := slices.IndexFunc(j.r.History, func(c Committed) bool { return c.ID == d.Accepted[clusterUnit].ID })
	if i < 0 {
		return nil
	}
	return &j.r.History[i]
}

// remover names the commit of a level.
func (j *judge) remover(level int64) string {
	i := slices.IndexFunc(j.r.History, func(c Committed) bool { return c.Level == level })
	return short(j.r.History[i].ID)
}

// known finds the newest state of a workload.
func (j *judge) known(uid types.UID) *Wanted {
	for i := len(j.r.History) - 1; i >= 0; i-- {
		if w := j.r.History[i].workload(uid); w != nil {
			return w
		}
	}
	return nil
}

// revisionAt is the revision of a workload in a commit; "" when it is not there.
func (j *judge) revisionAt(c reconcile.Commit, uid types.UID) string {
	if i := slices.IndexFunc(j.r.History, func(x Committed) bool { return x.ID == c.ID }); i >= 0 {
		if w := j.r.History[i].workload(uid); w != nil {
			return w.Revision
		}
	}
	return ""
}
