package manifest

import (
	"strings"
	"testing"
)

const podYAML = `apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  terminationGracePeriodSeconds: 5
  containers:
  - {name: p, image: "example.org/p:1"}
`

const configYAML = `apiVersion: v1
kind: ConfigMap
metadata: {name: c}
immutable: true
data: {a: b}
`

const daemonYAML = `apiVersion: apps/v1
kind: DaemonSet
metadata: {name: d}
spec:
  selector: {matchLabels: {app: d}}
  template:
    metadata: {labels: {app: d}}
    spec:
      containers:
      - {name: d, image: "example.org/d:1"}
`

func TestValidateUpdate(t *testing.T) {
	tests := []struct {
		name, text, old, new string
		want                 string // field of the only problem, "" for none
	}{
		{"nothing", webYAML, "", "", ""},
		{"an image", webYAML, "web:1", "web:2", ""},
		{"replicas", webYAML, "replicas: 3", "replicas: 4", ""},
		{"a selector", webYAML, "app: web", "app: shop", "spec.selector"},
		{"a DaemonSet's image", daemonYAML, "d:1", "d:2", ""},
		{"a DaemonSet's labels", daemonYAML, "name: d}", "name: d, labels: {a: b}}", ""},
		{"a DaemonSet's selector", daemonYAML, "app: d", "app: e", "spec.selector"},
		{"a Pod's image", podYAML, "p:1", "p:2", ""},
		{"a Pod's grace", podYAML, "Seconds: 5", "Seconds: 6", "spec"},
		{"a Pod's label", podYAML, "name: p}", "name: p, labels: {a: b}}", ""},
		{"an immutable ConfigMap", configYAML, "a: b", "a: c", "data"},
		{"immutability taken back", configYAML, "immutable: true", "immutable: false", "immutable"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			was, is := loadOne(t, tt.text), loadOne(t, strings.ReplaceAll(tt.text, tt.old, tt.new))
			if tt.old == "" {
				is = was
			}
			problems := ValidateUpdate(is.Object, was.Object, is.Source)
			switch {
			case tt.want == "" && len(problems) > 0:
				t.Errorf("got %v", problems)
			case tt.want == "":
			case len(problems) != 1 || problems[0].Field != tt.want:
				t.Errorf("got %v, want one of %s", problems, tt.want)
			case problems[0].Path != "app/a.yaml" || problems[0].Line == 0 || problems[0].Object == "":
				t.Errorf("no place in %+v", problems[0])
			}
		})
	}
	web, pod := loadOne(t, webYAML), loadOne(t, podYAML)
	if p := ValidateUpdate(web.Object, pod.Object, web.Source); len(p) != 1 {
		t.Errorf("a Pod became a Deployment: %v", p)
	}
}
