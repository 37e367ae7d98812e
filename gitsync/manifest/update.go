package manifest

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/pleachdev/pleach/reconcile"
)

// ValidateUpdate is what Kubernetes would say to the change of an accepted object: immutable selectors,
// immutable ConfigMaps, the spec of a bare Pod. Both objects are of one kind and name, and defaulted;
// neither is changed. The problems carry the source of the new object, without a field's line.
func ValidateUpdate(new, old reconcile.K8sObject, src reconcile.Source) []Problem {
	gvk := new.GetObjectKind().GroupVersionKind()
	k, ok := kinds[gvk]
	if !ok || old.GetObjectKind().GroupVersionKind() != gvk {
		return []Problem{{App: src.App, Path: src.Path, Line: src.Line, Object: Name(new), Reason: fmt.Sprintf("cannot replace %s", Name(old))}}
	}
	var problems []Problem
	for _, e := range validateUpdate(k, new, old) {
		p := fieldProblem(e)
		p.App, p.Path, p.Line, p.Object = src.App, src.Path, src.Line, Name(new)
		p.Reason += "; to change it all the same, delete the object in one commit and add it in the next"
		problems = append(problems, p)
	}
	return problems
}

func validateUpdate(k kind, new, old reconcile.K8sObject) (errs field.ErrorList) {
	defer recovered(&errs)
	o, _ := old.DeepCopyObject().(reconcile.K8sObject) // a copy has the type of its original
	n, _ := new.DeepCopyObject().(reconcile.K8sObject)
	// What an API server keeps from the old object: history gives the new one its values later.
	n.SetUID(o.GetUID())
	n.SetCreationTimestamp(o.GetCreationTimestamp())
	n.SetGeneration(o.GetGeneration())
	n.SetResourceVersion("1")
	o.SetResourceVersion("1")
	in, err := internal(n.DeepCopyObject())
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	was, err := internal(o.DeepCopyObject())
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	return merge(k.update(in, was), scheme.ValidateUpdate(context.Background(), map[string]bool{}, n, o))
}
