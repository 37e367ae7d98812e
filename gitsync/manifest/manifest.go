// Package manifest turns the files of one app into typed Kubernetes objects: it renders plain YAML
// and kustomizations in memory, decodes strictly, defaults and validates as Kubernetes does, and
// reports everything that is wrong at once.
package manifest

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/reconcile"
)

// Object is one object of an app as this commit has it.
type Object struct {
	Source reconcile.Source
	// Object is defaulted and validated as a creation. apiVersion, kind and namespace are set; uid,
	// generation and creationTimestamp are not, since they depend on history.
	Object reconcile.K8sObject
	// Digest is the hash of the object as rendered, before defaulting: equal digests mean that
	// nobody changed the object. Spec is the same without metadata and status.
	Digest, Spec string
	// Revision and Template are set for kinds that carry a pod template, and for Pods.
	Revision string
	Template *corev1.PodTemplateSpec
	// Held is set when a field that the object's user relies on is not supported yet.
	Held bool
}
