package manifest

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/tools/txtar"
)

// A folder of examples without pleach.yaml, in the shapes that public examples have.
const examples = `
-- web/kustomization.yaml --
resources: [web.yaml, service.yaml, hpa.yaml]
-- web/web.yaml --
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "example.org/web:1"}]}
-- web/service.yaml --
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
-- web/hpa.yaml --
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}
-- data/db/db.yaml --
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
-- data/db/more/config.json --
{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "db"}}
-- docs/README.md --
no manifests here
`

func TestValidateWithoutCluster(t *testing.T) {
	rep := Validate(treeOf(txtar.Parse([]byte(examples))))
	if !rep.OK() || rep.Cluster != nil {
		t.Errorf("got %+v", rep)
	}
	var got []string
	for _, a := range rep.Apps {
		for _, o := range a.Result.Objects {
			got = append(got, a.App.Path+": "+Name(o.Object))
		}
		for _, p := range a.Result.Warnings {
			got = append(got, a.App.Path+": held "+p.Object)
		}
	}
	want := []string{
		"data/db: v1 ConfigMap default/db",
		"data/db: held apps/v1 StatefulSet db",
		"web: apps/v1 Deployment default/web",
		"web: held autoscaling/v2 HorizontalPodAutoscaler web",
		"web: held v1 Service web",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestValidateCluster(t *testing.T) {
	ar, err := txtar.ParseFile("testdata/cluster/good.txtar")
	if err != nil {
		t.Fatal(err)
	}
	tree := treeOf(ar)
	tree["apps/web/web.yaml"] = &fstest.MapFile{Data: []byte(webYAML)}
	tree["apps/db/config.yaml"] = &fstest.MapFile{Data: []byte(configYAML)}
	rep := Validate(tree)
	if !rep.OK() || rep.Cluster == nil || len(rep.Apps) != 2 || rep.Apps[1].Result.Objects[0].Object.GetNamespace() != "data" {
		t.Errorf("got %+v", rep)
	}

	// Everything that is wrong is found at once: a policy, an app, the signers.
	tree["policies/images.rego"] = &fstest.MapFile{Data: []byte("package pleach.admission\n\ndeny contains m if {\n\tm := http.send({})\n}\n")}
	tree["apps/web/web.yaml"] = &fstest.MapFile{Data: []byte("kind: x\n")}
	delete(tree, "trust/allowed_signers")
	rep = Validate(tree)
	var all []string
	for _, p := range rep.Problems {
		all = append(all, p.Error())
	}
	for _, a := range rep.Apps {
		for _, p := range a.Result.Errors {
			all = append(all, p.Error())
		}
	}
	text := strings.Join(all, "\n")
	for _, want := range []string{"policies/images.rego:4: http.send is not available", "apps/web/web.yaml:1: apiVersion", "trust/allowed_signers: "} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if rep.OK() {
		t.Error("OK in spite of errors")
	}
}
