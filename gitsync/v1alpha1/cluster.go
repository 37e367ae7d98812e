// Package v1alpha1 holds the kinds that Pleach adds to Kubernetes' own: the API group pleach.dev.
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Group, version and the file that holds the one Cluster object of a config repository.
const (
	APIVersion  = "pleach.dev/v1alpha1"
	ClusterKind = "Cluster"
	ClusterFile = "pleach.yaml"
)

// Annotations and labels of ours.
const (
	NodeKeyAnnotation  = "pleach.dev/node-key"  // on a Node: ssh-ed25519 public key; two, separated by a comma, during rotation
	TokenKeyAnnotation = "pleach.dev/token-key" // on a Node: PEM-free base64 PKIX P-256 public key, for ServiceAccount tokens
	AddressAnnotation  = "pleach.dev/address"   // on a Node: host[:port] where to join, optional
	// ReleaseMovesAnnotation is on the Cluster. A commit that gives it another value than before says that
	// slots may move although many nodes vanished at once; the value is for people, such as the time.
	ReleaseMovesAnnotation = "pleach.dev/release-moves"
)

// Cluster is the object in pleach.yaml.
type Cluster struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec ClusterSpec `json:"spec"`
}

// ClusterSpec says what a config repository contains and by which rules it is read.
type ClusterSpec struct {
	// Version selects planner, renderer, defaults and validation for the whole flock.
	Version int32 `json:"version"`
	// PodCIDR is the range from which "pleach node add" takes each node's podCIDR.
	PodCIDR     string `json:"podCIDR"`
	ServiceCIDR string `json:"serviceCIDR,omitempty"`
	// Network says how pods of different nodes reach each other.
	Network Network `json:"network,omitzero"`
	// Apps are the units of failure, in any order; names are unique.
	Apps   []App  `json:"apps"`
	Status Status `json:"status,omitzero"`
}

// Values of [Network.Transport].
const (
	TransportDirect = "direct" // routes; all nodes are on one link
	TransportVXLAN  = "vxlan"  // UDP between the nodes' addresses
)

// Network says how pods of different nodes reach each other.
type Network struct {
	Transport string `json:"transport,omitempty"` // "direct" when empty
	// MTU of pods, in bytes; when 0, what each node's own link carries, less what the transport adds.
	MTU   int32 `json:"mtu,omitempty"`
	VXLAN VXLAN `json:"vxlan,omitzero"`
}

// VXLAN is the tunnel of [TransportVXLAN].
type VXLAN struct {
	Port int32 `json:"port,omitempty"` // UDP; 4789 when 0
	VNI  int32 `json:"vni,omitempty"`  // 1 to 16777215; 1 when 0
}

// App is one folder of manifests: plain YAML files, or a kustomization.
type App struct {
	Name string `json:"name"` // DNS label
	Path string `json:"path"` // from the repository's root
	// Namespace is given to namespaced objects that name none; "default" when empty.
	Namespace string `json:"namespace,omitempty"`
}

// Status says where observed state is written.
type Status struct {
	Branch string `json:"branch,omitempty"` // "pleach/status" when empty
	Remote string `json:"remote,omitempty"` // the config repository's remote when empty
	// PushesPerMinute bounds the pushes of the whole flock; 6 when 0.
	PushesPerMinute int32 `json:"pushesPerMinute,omitempty"`
}
