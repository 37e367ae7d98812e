package reconcile

import (
	"cmp"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Annotations and labels that Pleach gives to pods.
const (
	AnnotationSlot     = "pleach.dev/slot"     // the instance's identity as JSON; see UnmarshalInstance
	AnnotationRevision = "pleach.dev/revision" // of the template
	AnnotationCommit   = "pleach.dev/commit"   // full id of the commit for which the pod was started
	LabelTemplateHash  = "pod-template-hash"   // the revision, as Kubernetes labels pods of ReplicaSets
)

// maxName is the longest pod name: it is the default hostname, and a DNS label holds no more.
const maxName = 63

// podNamespace is the UUID namespace of pod uids: that of the name pods.pleach.dev.
var podNamespace = uuid5([16]byte{0x6b, 0xa7, 0xb8, 0x10, 0x9d, 0xad, 0x11, 0xd1, 0x80, 0xb4, 0x00, 0xc0, 0x4f, 0xd4, 0x30, 0xc8}, []byte("pods.pleach.dev"))

// uuid5 is the name-based UUID of RFC 9562, section 5.5.
func uuid5(space [16]byte, name []byte) (id [16]byte) {
	sum := sha1.Sum(append(append(make([]byte, 0, 160), space[:]...), name...))
	copy(id[:], sum[:])
	id[6], id[8] = id[6]&0x0f|0x50, id[8]&0x3f|0x80
	return id
}

// claim is what makes two instances different.
type claim struct {
	slot  Slot
	epoch int64
	node  string
	boot  int64
}

func (c claim) text() []byte {
	b := make([]byte, 0, 128)
	b = append(append(b, c.slot.key()...), '\n')
	b = append(strconv.AppendInt(b, c.epoch, 10), '\n')
	b = append(append(b, c.node...), '\n')
	return strconv.AppendInt(b, c.boot, 10)
}

func (c claim) uid() types.UID { return formatUID(uuid5(podNamespace, c.text())) }

// formatUID writes a UUID as people read it.
func formatUID(id [16]byte) types.UID {
	var b [36]byte
	at := 0
	for i, n := range []int{4, 2, 2, 2, 6} {
		if i > 0 {
			b[at] = '-'
			at++
		}
		hex.Encode(b[at:], id[:n])
		copy(id[:], id[n:])
		at += 2 * n
	}
	return types.UID(b[:])
}

// parseUID is the reverse, for what formatUID writes.
func parseUID(uid types.UID) (id [16]byte, ok bool) {
	if len(uid) != 36 {
		return id, false
	}
	var b [32]byte
	n := 0
	for i := range len(uid) {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			continue
		}
		b[n] = uid[i]
		n++
	}
	_, err := hex.Decode(id[:], b[:])
	return id, err == nil
}

const suffixLength = 5

// suffix is 5 characters that make no words, as the names that Kubernetes generates.
func (c claim) suffix() string {
	const letters = "bcdfghjklmnpqrstvwxz2456789"
	sum := sha256.Sum256(c.text())
	out := make([]byte, suffixLength)
	for i := range out {
		out[i] = letters[int(sum[i])%len(letters)]
	}
	return string(out)
}

// podName is "<workload>-<revision>-<suffix>", the workload's name cut to fit. A bare Pod has its own.
func (c claim) podName(kind, owner, revision string) string {
	if kind == kindPod {
		return owner
	}
	return podName(kind, owner, revision, c.suffix())
}

func podName(kind, owner, revision, suffix string) string {
	if kind == kindPod {
		return owner
	}
	name := owner[:min(len(owner), max(maxName-len(revision)-len(suffix)-2, 1))]
	return strings.TrimRight(name, "-.") + "-" + revision + "-" + suffix
}

// identity is the part of an instance that is fixed when the claim is made. Its form is read back
// from running pods by later agents.
type identity struct {
	Slot      Slot      `json:"slot"`
	Revision  string    `json:"revision"`
	Epoch     int64     `json:"epoch"`
	Node      string    `json:"node"`
	Boot      int64     `json:"boot"`
	Claimed   time.Time `json:"claimed"`
	Cause     string    `json:"cause"`
	Commit    Commit    `json:"commit"`
	App       string    `json:"app"`
	Kind      string    `json:"kind"`
	Namespace string    `json:"namespace"`
	Owner     string    `json:"owner"`
	Name      string    `json:"name"`
	UID       types.UID `json:"uid"`
}

// UnmarshalInstance reads the identity of a pod's instance back from its annotation. What the node
// observes (phase, readiness, addresses) is left zero.
func UnmarshalInstance(pod *corev1.Pod) (Instance, error) {
	where := fmt.Sprintf("pod %s/%s: metadata.annotations[%s]", pod.Namespace, pod.Name, AnnotationSlot)
	text, ok := pod.Annotations[AnnotationSlot]
	if !ok {
		return Instance{}, fmt.Errorf("%s: missing, so Pleach did not start this pod", where)
	}
	var id identity
	if err := json.Unmarshal([]byte(text), &id); err != nil {
		return Instance{}, fmt.Errorf("%s: %w", where, err)
	}
	if id.UID != pod.UID || id.Name != pod.Name || id.Namespace != pod.Namespace {
		return Instance{}, fmt.Errorf("%s: names pod %s/%s (uid %s), not this one", where, id.Namespace, id.Name, id.UID)
	}
	return Instance{
		Slot: id.Slot, Revision: id.Revision, Epoch: id.Epoch, Node: id.Node, Boot: id.Boot, Claimed: id.Claimed,
		Cause: id.Cause, Commit: id.Commit, App: id.App, Kind: id.Kind, Namespace: id.Namespace, Owner: id.Owner, Name: id.Name, UID: id.UID,
	}, nil
}

// ObservedInstance is UnmarshalInstance with what the pod's status says.
func ObservedInstance(pod *corev1.Pod) (Instance, error) {
	i, err := UnmarshalInstance(pod)
	if err != nil {
		return i, err
	}
	i.Phase = cmp.Or(pod.Status.Phase, corev1.PodPending)
	i.PodIP = pod.Status.PodIP
	i.Terminating = pod.DeletionTimestamp != nil
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			i.Ready, i.ReadySince = true, c.LastTransitionTime.UTC()
		}
	}
	i.Reason, i.Message = pod.Status.Reason, pod.Status.Message
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		i.Restarts += s.RestartCount
		if i.Reason != "" {
			continue
		}
		switch w, t := s.State.Waiting, s.State.Terminated; {
		case w != nil && w.Reason != "" && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing":
			i.Reason, i.Message = w.Reason, fmt.Sprintf("container %s: %s", s.Name, cmp.Or(w.Message, w.Reason))
		case t != nil && t.ExitCode != 0:
			i.Reason, i.Message = t.Reason, fmt.Sprintf("container %s: exit code %d", s.Name, t.ExitCode)
		}
	}
	return i, nil
}

// newPod builds what is to run, as a Kubernetes controller and the admission plugins would leave it.
func newPod(w *workload, t *Template, i Instance) *corev1.Pod {
	id, err := json.Marshal(identity{
		i.Slot, i.Revision, i.Epoch, i.Node, i.Boot, i.Claimed, i.Cause, i.Commit, i.App, i.Kind, i.Namespace, i.Owner, i.Name, i.UID,
	})
	if err != nil {
		panic(err) // strings and numbers alone, and a year that RFC 3339 can write
	}
	pod := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: kindPod},
		ObjectMeta: *w.podMeta(t).DeepCopy(),
		Spec:       *podSpec(w, t).DeepCopy(),
	}
	pod.Name, pod.GenerateName, pod.Namespace, pod.UID = i.Name, "", i.Namespace, i.UID
	pod.CreationTimestamp = metav1.NewTime(i.Claimed.Truncate(time.Second))
	pod.Generation = 1
	pod.Annotations = with(pod.Annotations, AnnotationSlot, string(id), AnnotationRevision, i.Revision, AnnotationCommit, i.Commit.ID)
	if w.kind != kindPod {
		pod.OwnerReferences = []metav1.OwnerReference{{
			APIVersion: "apps/v1", Kind: w.kind, Name: w.name, UID: w.uid, Controller: new(true), BlockOwnerDeletion: new(true),
		}}
	}
	pod.Spec.NodeName = i.Node
	if pod.Spec.Priority == nil {
		pod.Spec.Priority = new(priority(&pod.Spec))
	}
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending}
	return pod
}

// podMeta is the metadata of a template with the namespace and labels of its pods.
func (w *workload) podMeta(t *Template) *metav1.ObjectMeta {
	meta := t.Spec.ObjectMeta
	meta.Namespace = w.namespace
	if w.kind != kindPod {
		meta.Labels = with(meta.Labels, LabelTemplateHash, t.Revision)
		if w.kind == kindDaemonSet {
			meta.Labels[appsv1.ControllerRevisionHashLabelKey] = t.Revision
		}
	}
	return &meta
}

// podSpec is the pod spec of a template with the tolerations that Kubernetes adds.
func podSpec(w *workload, t *Template) *corev1.PodSpec {
	spec := t.Spec.Spec
	spec.Tolerations = slices.Clone(spec.Tolerations)
	if w.kind == kindDaemonSet {
		for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable, DrainTaint} {
			tolerate(&spec, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute})
		}
		keys := []string{corev1.TaintNodeDiskPressure, corev1.TaintNodeMemoryPressure, corev1.TaintNodePIDPressure, corev1.TaintNodeUnschedulable}
		if spec.HostNetwork {
			keys = append(keys, corev1.TaintNodeNetworkUnavailable)
		}
		for _, key := range keys {
			tolerate(&spec, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule})
		}
		return &spec
	}
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		covered := slices.ContainsFunc(spec.Tolerations, func(t corev1.Toleration) bool {
			return (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "")
		})
		if !covered {
			spec.Tolerations = append(spec.Tolerations, corev1.Toleration{
				Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: new(int64(300)),
			})
		}
	}
	return &spec
}

// tolerate adds a toleration, or replaces one that differs in seconds alone.
func tolerate(spec *corev1.PodSpec, t corev1.Toleration) {
	i := slices.IndexFunc(spec.Tolerations, func(o corev1.Toleration) bool { return o.MatchToleration(&t) })
	if i < 0 {
		spec.Tolerations = append(spec.Tolerations, t)
		return
	}
	spec.Tolerations[i] = t
}

// priority is a pod's priority; the two classes that every cluster has are known by name.
func priority(spec *corev1.PodSpec) int32 {
	switch {
	case spec.Priority != nil:
		return *spec.Priority
	case spec.PriorityClassName == "system-node-critical":
		return 2000001000
	case spec.PriorityClassName == "system-cluster-critical":
		return 2000000000
	}
	return 0
}

func with(m map[string]string, pairs ...string) map[string]string {
	m = maps.Clone(m)
	if m == nil {
		m = map[string]string{}
	}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return m
}
