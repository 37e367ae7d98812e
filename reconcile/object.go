package reconcile

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Commit is a place in the followed history of the config repository.
type Commit struct {
	ID string `json:"id"` // full hex object id
	// Level is the commit's generation number: 1 for a root, else one more than the largest of its
	// parents. It is a function of the commit alone and grows along every descent, so that for two
	// accepted commits of one branch "later" means the larger Level on every node.
	Level int64 `json:"level"`
	// Time is the committer's date in UTC. It is shown to people; no decision reads it.
	Time time.Time `json:"time,omitzero"`
}

// Source is where a person wrote an object.
type Source struct {
	App  string `json:"app"`
	Path string `json:"path"` // slash separated, from the repository's root
	Line int    `json:"line"` // of the document's first line, from 1; 0 when unknown
}

// Template is one rendering of a workload's pod template.
type Template struct {
	// Revision is the hash of the template as it was rendered, before defaulting and mutation:
	// an agent upgrade or a policy commit does not change it. 10 characters of [0-9a-z].
	Revision string                 `json:"revision"`
	Commit   Commit                 `json:"commit"` // that brought this rendering
	Spec     corev1.PodTemplateSpec `json:"spec"`   // defaulted and mutated
}

// K8sObject is a typed Kubernetes object with metadata.
type K8sObject interface {
	metav1.Object
	runtime.Object
}

// Object is one admitted object. It is shared between packages and never changed.
type Object struct {
	Source Source
	// Commit is the accepted commit that last changed the object's content.
	Commit Commit
	// Object is defaulted, mutated and validated. Its apiVersion and kind are set; metadata carries
	// uid (UUIDv5 of cluster, kind, namespace, name and the commit that brought it), generation
	// (counts the changes of spec in history), creationTimestamp and namespace.
	Object K8sObject
	// Templates holds the renderings of the pod template, newest first: the current one and up to
	// revisionHistoryLimit earlier ones. Empty for kinds without pods; a bare Pod has exactly one.
	Templates []Template
}

// same reports whether o is known to be what b is.
func (o Object) same(b Object) bool {
	return o.Object == b.Object && o.Source == b.Source && o.Commit == b.Commit && len(o.Templates) == len(b.Templates) &&
		(len(o.Templates) == 0 || &o.Templates[0] == &b.Templates[0])
}
