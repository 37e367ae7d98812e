package api

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/state"
)

// RedactedAnnotation is on every Secret that the API hands out: a JSON object of the sizes in bytes
// of the values that were left out, by key.
const RedactedAnnotation = "pleach.dev/redacted-sizes"

// view reads one snapshot as Kubernetes objects. Objects that it returns without change of status
// are the store's own.
type view struct {
	state.Snapshot
	node string // this one
}

// objects returns all objects of a kind, sorted by namespace and name.
func (v view) objects(k Kind) []reconcile.K8sObject {
	var out []reconcile.K8sObject
	switch k.Kind {
	case "Pod":
		out = v.pods()
	case "Event":
		for _, e := range v.Events() {
			out = append(out, e)
		}
		return out // kept in the order of their last occurrence
	case "Node":
		out = v.nodes()
	case "Namespace":
		out = v.namespaces()
	case "ReplicaSet":
		out = append(v.accepted(k.Kind), v.replicaSetsOfDeployments()...)
	default:
		out = v.accepted(k.Kind)
	}
	slices.SortStableFunc(out, func(a, b reconcile.K8sObject) int {
		return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
	})
	return out
}

// admitted returns the accepted objects of a kind as Git has them.
func (v view) admitted(kind string) []reconcile.Object {
	a := v.Accepted()
	if a == nil {
		return nil
	}
	var out []reconcile.Object
	for _, app := range a.Apps {
		for _, o := range app.Objects {
			if o.Object.GetObjectKind().GroupVersionKind().Kind == kind {
				out = append(out, o)
			}
		}
	}
	return out
}

// accepted returns the accepted objects of a kind, with status for those that have one and without
// the values of Secrets.
func (v view) accepted(kind string) []reconcile.K8sObject {
	var out []reconcile.K8sObject
	for _, o := range v.admitted(kind) {
		switch o := o.Object.(type) {
		case *corev1.Secret:
			out = append(out, redacted(o))
		case *appsv1.Deployment, *appsv1.ReplicaSet, *appsv1.DaemonSet:
			w := v.Workload(kind, o.GetNamespace(), o.GetName())
			out = append(out, withStatus(o, w))
		default:
			out = append(out, o)
		}
	}
	return out
}

// redacted returns a copy that has the keys of s, but none of its values.
func redacted(s *corev1.Secret) *corev1.Secret {
	sizes := map[string]int{}
	for k, value := range s.Data {
		sizes[k] = len(value)
	}
	for k, value := range s.StringData { // it wins over data, as in Kubernetes
		sizes[k] = len(value)
	}
	body, err := json.Marshal(sizes) // sorted by key
	if err != nil {
		panic(err) // a map of numbers
	}
	meta := *s.ObjectMeta.DeepCopy()
	if meta.Annotations == nil {
		meta.Annotations = map[string]string{}
	}
	delete(meta.Annotations, corev1.LastAppliedConfigAnnotation) // holds the values once more
	meta.Annotations[RedactedAnnotation] = string(body)
	out := &corev1.Secret{TypeMeta: s.TypeMeta, ObjectMeta: meta, Type: s.Type, Immutable: s.Immutable}
	if len(sizes) > 0 {
		out.Data = map[string][]byte{}
		for k := range sizes {
			out.Data[k] = []byte{}
		}
	}
	return out
}

// namespaces returns those that Git declares and those that objects are in.
func (v view) namespaces() []reconcile.K8sObject {
	found := map[string]*corev1.Namespace{}
	add := func(name string) {
		if name != "" && found[name] == nil {
			found[name] = &corev1.Namespace{
				TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
				ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelMetadataName: name}},
			}
		}
	}
	if a := v.Accepted(); a != nil {
		for _, app := range a.Apps {
			for _, o := range app.Objects {
				if ns, ok := o.Object.(*corev1.Namespace); ok {
					found[ns.Name] = ns.DeepCopy()
				}
			}
		}
		for _, app := range a.Apps {
			for _, o := range app.Objects {
				add(o.Object.GetNamespace())
			}
		}
	}
	add(metav1.NamespaceDefault)
	var out []reconcile.K8sObject
	for _, name := range slices.Sorted(maps.Keys(found)) {
		found[name].Status.Phase = corev1.NamespaceActive
		out = append(out, found[name])
	}
	return out
}

func (v view) nodes() []reconcile.K8sObject {
	a := v.Accepted()
	if a == nil {
		return nil
	}
	var out []reconcile.K8sObject
	for _, n := range a.Nodes {
		n = n.DeepCopy()
		n.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}
		if d := v.Document(n.Name); d != nil {
			n.Status.Capacity, n.Status.Allocatable = d.Capacity, d.Allocatable
			n.Status.Addresses, n.Status.Conditions, n.Status.NodeInfo = d.Addresses, d.Conditions, d.NodeInfo
		} else {
			n.Status.Conditions = []corev1.NodeCondition{{
				Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated",
				Message: "this node has not been heard of", LastTransitionTime: n.CreationTimestamp,
			}}
		}
		if m := v.Member(n.Name); m != nil && m.Standing != state.Alive {
			n.Status.Conditions = unknown(n.Status.Conditions, m)
		}
		out = append(out, n)
	}
	return out
}

// pods returns this node's pods as they are, and the pods of other nodes as their documents tell.
func (v view) pods() []reconcile.K8sObject {
	var out []reconcile.K8sObject
	for _, p := range v.Pods() {
		if p.Kind == "" {
			copied := *p
			copied.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
			p = &copied
		}
		out = append(out, p)
	}
	templates := v.templates()
	for _, d := range v.Documents() {
		if d.Node == v.node {
			continue
		}
		for i := range d.Instances {
			inst := &d.Instances[i]
			p := remotePod(inst, d, templates[templateKey{inst.Kind, inst.Namespace, inst.Owner, inst.Revision}])
			if m := v.Member(d.Node); m != nil && m.Standing == state.Gone {
				lose(p, m)
			}
			out = append(out, p)
		}
	}
	return out
}

type templateKey struct{ kind, namespace, name, revision string }

func (v view) templates() map[templateKey]*corev1.PodTemplateSpec {
	out := map[templateKey]*corev1.PodTemplateSpec{}
	a := v.Accepted()
	if a == nil {
		return out
	}
	for _, app := range a.Apps {
		for _, o := range app.Objects {
			for i, t := range o.Templates {
				kind := o.Object.GetObjectKind().GroupVersionKind().Kind
				out[templateKey{kind, o.Object.GetNamespace(), o.Object.GetName(), t.Revision}] = &o.Templates[i].Spec
			}
		}
	}
	return out
}

// remotePod makes a Pod of what another node says of an instance. template may be nil: that node can
// be at a commit that this one does not know.
func remotePod(inst *reconcile.Instance, d *reconcile.Document, template *corev1.PodTemplateSpec) *corev1.Pod {
	p := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: inst.Namespace, Name: inst.Name, UID: inst.UID, CreationTimestamp: metav1.NewTime(inst.Claimed),
		},
		Status: corev1.PodStatus{Phase: inst.Phase, PodIP: inst.PodIP, Message: inst.Message},
	}
	if template != nil {
		p.Labels = maps.Clone(template.Labels)
		p.Annotations = maps.Clone(template.Annotations)
		p.Spec = *template.Spec.DeepCopy()
	}
	p.Spec.NodeName = inst.Node
	if inst.PodIP != "" {
		p.Status.PodIPs = []corev1.PodIP{{IP: inst.PodIP}}
	}
	if inst.Terminating {
		now := metav1.NewTime(inst.Claimed) // when it began is not published; that it did is what shows
		p.DeletionTimestamp = &now
	}
	for _, a := range d.Addresses {
		if a.Type == corev1.NodeInternalIP {
			p.Status.HostIP = a.Address
			break
		}
	}
	ready := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionFalse}
	if inst.Ready {
		ready.Status, ready.LastTransitionTime = corev1.ConditionTrue, metav1.NewTime(inst.ReadySince)
	}
	p.Status.Conditions = []corev1.PodCondition{ready}
	for i, c := range p.Spec.Containers {
		cs := corev1.ContainerStatus{Name: c.Name, Image: c.Image, Ready: inst.Ready}
		if i == 0 {
			cs.RestartCount = inst.Restarts // documents hold the pod's sum
		}
		if inst.Phase == corev1.PodRunning && inst.Reason == "" {
			cs.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(inst.Claimed)}
		} else if inst.Reason != "" {
			cs.State.Waiting = &corev1.ContainerStateWaiting{Reason: inst.Reason, Message: inst.Message}
		}
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, cs)
	}
	if len(p.Spec.Containers) == 0 {
		p.Status.Reason = inst.Reason
	}
	return p
}

// instances returns every instance that documents tell of, sorted by node.
func (v view) instances() []*reconcile.Instance {
	var out []*reconcile.Instance
	for _, d := range v.Documents() {
		for i := range d.Instances {
			out = append(out, &d.Instances[i])
		}
	}
	return out
}

// WorkloadName is how people write a workload: "deploy/web".
func WorkloadName(kind, name string) string {
	if k, err := FindKind(kind); err == nil && len(k.Short) > 0 {
		return k.Short[0] + "/" + name
	}
	return strings.ToLower(kind) + "/" + name
}

// SlotName is how people write a slot: "deploy/web/2", "ds/agent/node-1".
func SlotName(kind, name string, s reconcile.Slot) string {
	if s.Node != "" {
		return WorkloadName(kind, name) + "/" + s.Node
	}
	return fmt.Sprintf("%s/%d", WorkloadName(kind, name), s.Ordinal)
}
