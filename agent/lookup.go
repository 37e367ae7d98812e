package agent

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/state"
)

// lookup finds the objects that pods refer to in what is accepted.
type lookup struct {
	store *state.Store
	node  string
}

// ConfigMap returns nil where the accepted state has none of that name.
func (l lookup) ConfigMap(namespace, name string) *corev1.ConfigMap {
	return find[*corev1.ConfigMap](l.store, namespace, name)
}

// Secret returns nil where the accepted state has none of that name.
func (l lookup) Secret(namespace, name string) *corev1.Secret {
	return find[*corev1.Secret](l.store, namespace, name)
}

// Node returns this node as it is enrolled, or nil.
func (l lookup) Node() *corev1.Node {
	if a := l.store.Snapshot().Accepted(); a != nil {
		for _, n := range a.Nodes {
			if n.Name == l.node {
				return n
			}
		}
	}
	return nil
}

func find[T reconcile.K8sObject](store *state.Store, namespace, name string) T {
	var none T
	a := store.Snapshot().Accepted()
	if a == nil {
		return none
	}
	for _, app := range a.Apps {
		for _, o := range app.Objects {
			if found, ok := o.Object.(T); ok && found.GetNamespace() == namespace && found.GetName() == name {
				return found
			}
		}
	}
	return none
}
