package api

import (
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/reconcile"
)

// withStatus returns a copy of a workload with its status filled in. w may be nil: nothing was
// decided about it yet, which an observedGeneration of zero says.
func withStatus(o reconcile.K8sObject, w *reconcile.WorkloadStatus) reconcile.K8sObject {
	if w == nil {
		w = &reconcile.WorkloadStatus{}
	}
	switch o := o.(type) {
	case *appsv1.Deployment:
		d := o.DeepCopy()
		d.Status = appsv1.DeploymentStatus{
			ObservedGeneration: w.Generation, Replicas: w.Current, UpdatedReplicas: w.Updated, ReadyReplicas: w.Ready,
			AvailableReplicas: w.Available, UnavailableReplicas: max(0, w.Desired-w.Available),
		}
		for _, c := range w.Conditions {
			d.Status.Conditions = append(d.Status.Conditions, appsv1.DeploymentCondition{
				Type: appsv1.DeploymentConditionType(c.Type), Status: corev1.ConditionStatus(c.Status), Reason: c.Reason,
				Message: c.Message, LastUpdateTime: c.LastTransitionTime, LastTransitionTime: c.LastTransitionTime,
			})
		}
		return d
	case *appsv1.ReplicaSet:
		r := o.DeepCopy()
		r.Status = appsv1.ReplicaSetStatus{
			ObservedGeneration: w.Generation, Replicas: w.Current, FullyLabeledReplicas: w.Current,
			ReadyReplicas: w.Ready, AvailableReplicas: w.Available,
		}
		for _, c := range w.Conditions {
			r.Status.Conditions = append(r.Status.Conditions, appsv1.ReplicaSetCondition{
				Type: appsv1.ReplicaSetConditionType(c.Type), Status: corev1.ConditionStatus(c.Status), Reason: c.Reason,
				Message: c.Message, LastTransitionTime: c.LastTransitionTime,
			})
		}
		return r
	case *appsv1.DaemonSet:
		d := o.DeepCopy()
		d.Status = appsv1.DaemonSetStatus{
			ObservedGeneration: w.Generation, DesiredNumberScheduled: w.Desired, CurrentNumberScheduled: w.Current,
			UpdatedNumberScheduled: w.Updated, NumberReady: w.Ready, NumberAvailable: w.Available,
			NumberUnavailable: max(0, w.Desired-w.Available),
		}
		for _, c := range w.Conditions {
			d.Status.Conditions = append(d.Status.Conditions, appsv1.DaemonSetCondition{
				Type: appsv1.DaemonSetConditionType(c.Type), Status: corev1.ConditionStatus(c.Status), Reason: c.Reason,
				Message: c.Message, LastTransitionTime: c.LastTransitionTime,
			})
		}
		return d
	}
	return o
}

// replicaSetsOfDeployments shows each rendering of a Deployment's template as the ReplicaSet that
// Kubernetes would have made of it: the current one, and those that pods are left of. They exist for
// reading alone; nothing decides by them.
func (v view) replicaSetsOfDeployments() []reconcile.K8sObject {
	type key struct{ namespace, name, revision string }
	type count struct{ pods, ready int32 }
	counts := map[key]count{}
	for _, inst := range v.instances() {
		if inst.Kind == "Deployment" && !inst.Terminating {
			k := key{inst.Namespace, inst.Owner, inst.Revision}
			c := counts[k]
			c.pods++
			if inst.Ready {
				c.ready++
			}
			counts[k] = c
		}
	}
	var out []reconcile.K8sObject
	for _, o := range v.admitted("Deployment") {
		d, ok := o.Object.(*appsv1.Deployment)
		if !ok {
			continue
		}
		for i, t := range o.Templates {
			c := counts[key{d.Namespace, d.Name, t.Revision}]
			if i > 0 && c.pods == 0 {
				continue
			}
			out = append(out, replicaSet(d, t, len(o.Templates)-i, c.pods, c.ready))
		}
	}
	return out
}

func replicaSet(d *appsv1.Deployment, t reconcile.Template, number int, pods, ready int32) *appsv1.ReplicaSet {
	labels := map[string]string{appsv1.DefaultDeploymentUniqueLabelKey: t.Revision}
	maps.Copy(labels, t.Spec.Labels)
	selector := d.Spec.Selector.DeepCopy()
	if selector == nil {
		selector = &metav1.LabelSelector{}
	}
	if selector.MatchLabels == nil {
		selector.MatchLabels = map[string]string{}
	}
	selector.MatchLabels[appsv1.DefaultDeploymentUniqueLabelKey] = t.Revision
	return &appsv1.ReplicaSet{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "ReplicaSet"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: d.Namespace, Name: d.Name + "-" + t.Revision, Labels: labels,
			UID:               types.UID(string(d.UID) + "-" + t.Revision),
			CreationTimestamp: metav1.NewTime(t.Commit.Time),
			Annotations: map[string]string{
				"deployment.kubernetes.io/revision": strconv.Itoa(number),
				"pleach.dev/commit":                 t.Commit.ID,
			},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "apps/v1", Kind: "Deployment", Name: d.Name, UID: d.UID, Controller: new(true),
			}},
		},
		Spec:   appsv1.ReplicaSetSpec{Replicas: new(pods), Selector: selector, Template: *t.Spec.DeepCopy()},
		Status: appsv1.ReplicaSetStatus{Replicas: pods, FullyLabeledReplicas: pods, ReadyReplicas: ready, AvailableReplicas: ready},
	}
}

// podsOf returns the pods of a workload: by the instances that documents tell of, and by owner
// reference for pods of this node that its document does not list yet.
func (v view) podsOf(kind, namespace, name string) []*corev1.Pod {
	owned := map[string]bool{}
	for _, inst := range v.instances() {
		if inst.Kind == kind && inst.Namespace == namespace && inst.Owner == name {
			owned[inst.Name] = true
		}
	}
	var out []*corev1.Pod
	for _, o := range v.objects(Kinds[slices.IndexFunc(Kinds, func(k Kind) bool { return k.Kind == "Pod" })]) {
		p, ok := o.(*corev1.Pod)
		if !ok || p.Namespace != namespace {
			continue
		}
		owner := metav1.GetControllerOf(p)
		if owned[p.Name] || owner != nil && owner.Kind == kind && owner.Name == name {
			out = append(out, p)
		}
	}
	return out
}
