package manifest

import (
	"fmt"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	sjson "sigs.k8s.io/json"

	"github.com/pleachdev/pleach/reconcile"
)

// decoded is what one file holds, without its place in the repository.
type decoded struct {
	objects          []Object
	errors, warnings []Problem
}

// decodeFile decodes the documents of one file. Objects without a namespace get the one given.
// Nothing that data holds makes it panic.
func decodeFile(data []byte, namespace string) *decoded {
	d := &decoded{}
	docs, problems := parseDocuments(data)
	d.errors = append(d.errors, problems...)
	for _, doc := range docs {
		d.document(doc, namespace)
		if len(d.objects) > MaxObjects {
			d.errors = append(d.errors, Problem{Reason: tooMany})
			return d
		}
	}
	return d
}

func (d *decoded) document(doc *value, namespace string) {
	if doc.kind != objectValue {
		d.errors = append(d.errors, Problem{Line: doc.line, Reason: fmt.Sprintf("want an object with apiVersion and kind, got %s", doc)})
		return
	}
	if doc.str("apiVersion") == "v1" && doc.str("kind") == "List" {
		items := doc.get("items")
		if items == nil || items.kind != listValue {
			d.errors = append(d.errors, Problem{Line: doc.line, Object: "v1 List", Field: "items", Reason: "want a list of objects"})
			return
		}
		for _, item := range items.items {
			d.document(item, namespace)
		}
		return
	}
	o, errs, warnings := decodeObject(doc, namespace)
	d.warnings = append(d.warnings, warnings...)
	switch {
	case len(errs) > 0:
		d.errors = append(d.errors, errs...)
	case o != nil:
		d.objects = append(d.objects, *o)
	}
}

// decodeObject gives an object, or errors, or neither when its kind is not supported yet; a warning says so.
func decodeObject(doc *value, namespace string) (o *Object, errs, warnings []Problem) {
	meta := doc.get("metadata")
	gv, err := schema.ParseGroupVersion(doc.str("apiVersion"))
	if err != nil {
		return nil, []Problem{{Line: doc.locate("apiVersion"), Field: "apiVersion", Reason: err.Error()}}, nil
	}
	for _, f := range []string{"apiVersion", "kind"} {
		if doc.str(f) == "" {
			return nil, []Problem{{Line: doc.locate(f), Field: f, Reason: "required: every object names its apiVersion and kind"}}, nil
		}
	}
	gvk := gv.WithKind(doc.str("kind"))
	k, accepted := kinds[gvk]

	ns := meta.str("namespace")
	if ns == "" && k.namespaced {
		ns = namespace
	}
	name := objectName(gvk, ns, meta.str("name"))
	problem := func(p Problem) Problem {
		p.Object = name
		if p.Line == 0 {
			p.Line = doc.locate(p.Field)
		}
		return p
	}
	if !accepted {
		p := problem(checkKind(gvk))
		if p.Held {
			return nil, nil, []Problem{p}
		}
		p.Line = doc.locate("kind")
		return nil, []Problem{p}, nil
	}

	obj := k.new()
	for _, p := range checkShape(reflect.TypeOf(obj).Elem(), doc) {
		errs = append(errs, problem(p))
	}
	if len(errs) > 0 {
		return nil, errs, nil
	}
	strict, err := sjson.UnmarshalStrict(doc.appendJSON(nil), obj)
	if err != nil {
		strict = append(strict, err)
	}
	for _, err := range strict {
		errs = append(errs, problem(Problem{Reason: err.Error()}))
	}
	if len(errs) > 0 {
		return nil, errs, nil
	}

	if obj.GetGenerateName() != "" {
		return nil, []Problem{problem(Problem{Field: "metadata.generateName", Reason: "an object in Git needs a fixed name: write metadata.name"})}, nil
	}
	for _, f := range clearServerFields(obj) {
		warnings = append(warnings, problem(Problem{Field: f, Reason: "set by Pleach; what the file says is left out"}))
	}
	obj.SetNamespace(ns)
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	if s, ok := obj.(*corev1.Secret); ok {
		foldStringData(s)
	}

	o = &Object{Object: obj}
	for _, p := range checkSupport(obj) {
		o.Held = o.Held || p.Held
		warnings = append(warnings, problem(p))
	}
	o.Source.Line = doc.line
	o.Digest, o.Spec = digests(obj)
	if k.template != nil {
		o.Revision = Revision(k.template(obj))
	}
	for _, e := range validateCreate(k, obj) {
		errs = append(errs, problem(fieldProblem(e)))
	}
	if k.template != nil {
		o.Template = k.template(obj)
	}
	if len(errs) > 0 {
		return nil, errs, warnings
	}
	return o, nil, warnings
}

// objectName is how messages name an object: "apps/v1 Deployment default/web".
func objectName(gvk schema.GroupVersionKind, namespace, name string) string {
	s := gvk.GroupVersion().String() + " " + gvk.Kind
	switch {
	case name == "":
		return s
	case namespace == "":
		return s + " " + name
	}
	return s + " " + namespace + "/" + name
}

func fieldProblem(e *field.Error) Problem {
	p := Problem{Field: e.Field, Reason: e.ErrorBody()}
	if p.Field == "<nil>" {
		p.Field = ""
	}
	return p
}

// clearServerFields takes out what only an API server sets and returns the fields that were set.
// An empty creationTimestamp or status, as kubectl create --dry-run prints it, is not worth a word.
func clearServerFields(o reconcile.K8sObject) (set []string) {
	note := func(name string, isSet bool) {
		if isSet {
			set = append(set, "metadata."+name)
		}
	}
	note("uid", o.GetUID() != "")
	note("resourceVersion", o.GetResourceVersion() != "")
	note("generation", o.GetGeneration() != 0)
	created := o.GetCreationTimestamp()
	note("creationTimestamp", !created.IsZero())
	note("deletionTimestamp", o.GetDeletionTimestamp() != nil)
	note("deletionGracePeriodSeconds", o.GetDeletionGracePeriodSeconds() != nil)
	note("managedFields", len(o.GetManagedFields()) > 0)
	note("selfLink", o.GetSelfLink() != "")
	o.SetUID("")
	o.SetResourceVersion("")
	o.SetGeneration(0)
	o.SetCreationTimestamp(metav1.Time{})
	o.SetDeletionTimestamp(nil)
	o.SetDeletionGracePeriodSeconds(nil)
	o.SetManagedFields(nil)
	o.SetSelfLink("")
	if status := reflect.ValueOf(o).Elem().FieldByName("Status"); status.IsValid() {
		status.SetZero()
	}
	return set
}
