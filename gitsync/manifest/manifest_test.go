package manifest

import (
	"testing"
	"testing/fstest"

	"github.com/pleachdev/pleach/gitsync/v1alpha1"
)

const webYAML = `# the shop's front
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 3
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      containers:
      - name: web
        image: example.org/web:1
        resources:
          requests: {cpu: 100m}
`

func cluster() *v1alpha1.Cluster {
	c := &v1alpha1.Cluster{}
	c.Spec.Version = 1
	return c
}

func TestLoadPlain(t *testing.T) {
	tree := fstest.MapFS{"apps/web/web.yaml": {Data: []byte(webYAML)}, "apps/web/README.md": {Data: []byte("# web")}}
	r := Load(tree, cluster(), v1alpha1.App{Name: "web", Path: "apps/web"})
	for _, p := range append(r.Errors, r.Warnings...) {
		t.Error(p)
	}
	if len(r.Objects) != 1 {
		t.Fatalf("objects: %v", r.Objects)
	}
	o := r.Objects[0]
	if o.Source.Line != 2 || o.Source.Path != "apps/web/web.yaml" || len(o.Revision) != 10 || o.Object.GetNamespace() != "default" {
		t.Errorf("got %+v", o)
	}
	if o.Template.Spec.RestartPolicy != "Always" {
		t.Error("the template is not defaulted")
	}
	if !r.Trace.Unchanged(tree) {
		t.Error("the trace of an unchanged tree says changed")
	}
}
