package reconcile

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Slot is a place that a workload wants filled.
type Slot struct {
	Workload types.UID `json:"workload"`
	// Ordinal counts from 0. A DaemonSet's slots are told apart by Node instead.
	Ordinal int32  `json:"ordinal"`
	Node    string `json:"node,omitempty"`
}

// Instance is one pod that fills a slot. What identifies it (Slot, Revision, Epoch, Node, Boot,
// Claimed) is fixed when the claim is made; the rest is what its node last observed.
type Instance struct {
	Slot     Slot      `json:"slot"`
	Revision string    `json:"revision"`
	Epoch    int64     `json:"epoch"` // grows by one each time the slot is given to a node again
	Node     string    `json:"node"`
	Boot     int64     `json:"boot"`    // the node's boot counter when it claimed
	Claimed  time.Time `json:"claimed"` // UTC, whole microseconds
	Cause    string    `json:"cause"`   // the commit, or "<node>/<boot>" lost, that opened the slot
	// Commit is the accepted commit for which the pod was started.
	Commit Commit `json:"commit"`
	// App is the entry of spec.apps that the workload belongs to.
	App string `json:"app"`

	Kind      string    `json:"kind"` // of the workload
	Namespace string    `json:"namespace"`
	Owner     string    `json:"owner"` // the workload's name
	Name      string    `json:"name"`  // of the pod
	UID       types.UID `json:"uid"`   // of the pod

	Phase      corev1.PodPhase `json:"phase"`
	Ready      bool            `json:"ready"`
	ReadySince time.Time       `json:"readySince,omitzero"`
	PodIP      string          `json:"podIP,omitempty"`
	Restarts   int32           `json:"restarts,omitempty"`
	// Terminating is set from the moment the node has decided to stop the pod.
	Terminating bool   `json:"terminating,omitempty"`
	Reason      string `json:"reason,omitempty"`  // as kubectl's STATUS column: CrashLoopBackOff, ImagePullBackOff …
	Message     string `json:"message,omitempty"` // one sentence for people
}

// Document is what a node says of itself. Only that node writes it.
type Document struct {
	Node string `json:"node"`
	Boot int64  `json:"boot"` // boot counter, kept on the node's disk
	Seq  int64  `json:"seq"`  // grows within a boot
	// Accepted maps an app to its accepted commit; the key "pleach.dev" is the cluster's own files
	// (pleach.yaml, trust, nodes, policies).
	Accepted map[string]Commit `json:"accepted"`
	Head     Commit            `json:"head"`     // the newest head that the node has verified
	Versions []int32           `json:"versions"` // values of spec.version that the agent can do

	// Capacity is what the machine has, Allocatable what of it pods may ask for.
	Capacity    corev1.ResourceList    `json:"capacity,omitempty"`
	Allocatable corev1.ResourceList    `json:"allocatable"`
	Addresses   []corev1.NodeAddress   `json:"addresses,omitempty"`
	Conditions  []corev1.NodeCondition `json:"conditions,omitempty"`
	NodeInfo    corev1.NodeSystemInfo  `json:"nodeInfo,omitzero"`
	Instances   []Instance             `json:"instances"` // sorted by namespace, name
	Releases    []Release              `json:"releases,omitempty"`
	Declines    []Decline              `json:"declines,omitempty"`
	// BackBy is when the node means to be back, of an agent that was asked to end; zero while it runs.
	BackBy time.Time `json:"backBy,omitzero"`
}

// Release says that a node gave a slot up; it stays in the document for 10 minutes.
type Release struct {
	Slot     Slot      `json:"slot"`
	Revision string    `json:"revision"`
	Epoch    int64     `json:"epoch"`
	By       string    `json:"by"` // the commit or decision that released it
	At       time.Time `json:"at"`
}

// Decline says that a node refused to run a slot that the plan gave it.
type Decline struct {
	Slot     Slot      `json:"slot"`
	Revision string    `json:"revision"`
	Reason   string    `json:"reason"`
	At       time.Time `json:"at"`
}

// WorkloadStatus is what is known of one workload, the same on every node that has the same inputs.
type WorkloadStatus struct {
	Source     Source    `json:"source"`
	Kind       string    `json:"kind"`
	Namespace  string    `json:"namespace"`
	Name       string    `json:"name"`
	UID        types.UID `json:"uid"`
	Generation int64     `json:"generation"`
	Commit     Commit    `json:"commit"`
	Revision   string    `json:"revision"`

	Desired    int32              `json:"desired"`
	Current    int32              `json:"current"` // pods that exist and are not terminating
	Updated    int32              `json:"updated"` // of them, at Revision
	Ready      int32              `json:"ready"`
	Available  int32              `json:"available"`            // ready for minReadySeconds
	Conditions []metav1.Condition `json:"conditions,omitempty"` // Available, Progressing, ReplicaFailure by Kubernetes' reasons
	// Waiting says per slot why it is not at Revision and ready, sorted by slot. Empty when complete.
	Waiting []SlotReason `json:"waiting,omitempty"`
}

// SlotReason says why a slot is as it is.
type SlotReason struct {
	Slot   Slot   `json:"slot"`
	Node   string `json:"node,omitempty"`
	Pod    string `json:"pod,omitempty"`
	Reason string `json:"reason"` // "0/1 nodes are available: 1 Insufficient cpu.", "waits for slot 2 to be ready" …
}
