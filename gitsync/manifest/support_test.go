package manifest

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Every struct that an accepted kind reaches is listed, with each of its fields, so that an upgrade of
// k8s.io/api cannot bring a field that is ignored in silence.
func TestEveryFieldHasARule(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var walk func(typ reflect.Type, path string)
	walk = func(typ reflect.Type, path string) {
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			walk(typ.Elem(), path)
			return
		case reflect.Struct:
		default:
			return
		}
		if seen[typ] || reflect.PointerTo(typ).Implements(reflect.TypeFor[json.Unmarshaler]()) {
			return
		}
		seen[typ] = true
		rules, listed := supported[typ]
		if !listed && !whole[typ] {
			t.Errorf("%s (%s): the struct stands in neither supported nor whole", path, typ)
			return
		}
		for f := range typ.Fields() {
			name := jsonName(f)
			if !f.IsExported() || name == "-" || name == "status" {
				continue
			}
			r, ok := rules[name]
			if listed && !ok && name != "" {
				t.Errorf("%s.%s (%s): no rule", path, name, typ)
			}
			if r.support == honoured {
				walk(f.Type, path+"."+name)
			}
		}
		for name := range rules {
			if _, ok := jsonFields(typ)[name]; !ok {
				t.Errorf("%s has a rule for %q, which it does not have", typ, name)
			}
		}
	}
	for gvk, k := range kinds {
		walk(reflect.TypeOf(k.new()), gvk.Kind)
	}
	for typ := range supported {
		if !seen[typ] {
			t.Errorf("%s is never reached", typ)
		}
	}
}

func TestCheckKind(t *testing.T) {
	tests := []struct {
		gvk, want string
		held      bool
	}{
		{"v1/Service", "not supported yet", true},
		{"apps/v1/StatefulSet", "not supported yet", true},
		{"networking.k8s.io/v1/Ingress", "not supported yet", true},
		{"policy/v1/PodDisruptionBudget", "not supported yet", true},
		{"rbac.authorization.k8s.io/v1beta1/ClusterRole", "write apiVersion: rbac.authorization.k8s.io/v1", false},
		{"apiextensions.k8s.io/v1/CustomResourceDefinition", "not supported yet", true},
		{"apps/v1beta1/Deployment", "write apiVersion: apps/v1", false},
		{"extensions/v1beta1/DaemonSet", "write apiVersion: apps/v1", false},
		{"v1/Node", "nodes/<name>.yaml", false},
		{"kustomize.config.k8s.io/v1beta1/Kustomization", "an app of its own", false},
		{"pleach.dev/v1alpha1/Cluster", "pleach.yaml", false},
		{"example.org/v1/Deployment", "unknown", false},
		{"v1/Deploymint", "unknown", false},
	}
	for _, tt := range tests {
		parts := strings.Split(tt.gvk, "/")
		gvk := schema.GroupVersionKind{Version: parts[len(parts)-2], Kind: parts[len(parts)-1]}
		if len(parts) == 3 {
			gvk.Group = parts[0]
		}
		if p := checkKind(gvk); p.Held != tt.held || !strings.Contains(p.Reason, tt.want) {
			t.Errorf("%s: got %+v, want %q, held %v", tt.gvk, p, tt.want, tt.held)
		}
	}
}

// Held and reported fields are found where they are written, the others pass.
func TestCheckSupport(t *testing.T) {
	tests := []struct {
		spec           string
		held, reported []string
	}{
		{spec: `containers: [{name: a, image: b}]`},
		{spec: `{containers: [{name: a, image: b}], schedulerName: default-scheduler, hostUsers: true, os: {name: linux}}`},
		{
			spec: `{containers: [{name: a, image: b, ports: [{containerPort: 80, hostPort: 80}]}], hostUsers: false}`,
			held: []string{"spec.hostUsers"},
		},
		{
			spec:     `{containers: [{name: a, image: b, resources: {limits: {cpu: 1, nvidia.com/gpu: 1}, requests: {ephemeral-storage: 1Gi}}}]}`,
			held:     []string{"spec.containers[0].resources.limits[nvidia.com/gpu]"},
			reported: []string{"spec.containers[0].resources.requests[ephemeral-storage]"},
		},
		{
			spec: `{initContainers: [{name: s, image: b, restartPolicy: Always}, {name: t, image: b, restartPolicy: Never}], containers: [{name: a, image: b, restartPolicy: Always}]}`,
			held: []string{"spec.containers[0].restartPolicy", "spec.initContainers[1].restartPolicy"},
		},
		{
			spec: `{containers: [{name: a, image: b, livenessProbe: {grpc: {port: 1}}}], volumes: [{name: v, persistentVolumeClaim: {claimName: c}}, {name: w, emptyDir: {medium: Memory}}]}`,
			held: []string{"spec.volumes[0].persistentVolumeClaim"},
		},
		{
			spec: `{containers: [{name: a, image: b}], volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: t}}]}}]}`,
			held: []string{"spec.volumes[0].projected.sources[0].serviceAccountToken"},
		},
		{
			spec:     `{containers: [{name: a, image: b}], serviceAccountName: s, automountServiceAccountToken: false, enableServiceLinks: false}`,
			reported: []string{"spec.automountServiceAccountToken", "spec.enableServiceLinks", "spec.serviceAccountName"},
		},
		{
			spec: `{containers: [{name: a, image: b}], preemptionPolicy: Never, affinity: {podAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, podAffinityTerm: {topologyKey: k}}]}, podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: k}]}, nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, preference: {}}]}}}`,
		},
		{
			spec:     `{containers: [{name: a, image: b}], priorityClassName: c, topologySpreadConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: ScheduleAnyway}, {maxSkew: 1, topologyKey: z, whenUnsatisfiable: DoNotSchedule, minDomains: 2, nodeTaintsPolicy: Honor, matchLabelKeys: [pod-template-hash]}]}`,
			reported: []string{"spec.priorityClassName"},
		},
	}
	for _, tt := range tests {
		docs, problems := parseDocuments([]byte("spec: " + wrap(tt.spec)))
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		pod := &corev1.Pod{}
		if err := json.Unmarshal(docs[0].appendJSON(nil), pod); err != nil {
			t.Fatal(err)
		}
		var gotHeld, gotReported []string
		for _, p := range checkSupport(pod) {
			if p.Held {
				gotHeld = append(gotHeld, p.Field)
			} else {
				gotReported = append(gotReported, p.Field)
			}
		}
		slices.Sort(gotHeld)
		slices.Sort(gotReported)
		if !slices.Equal(gotHeld, tt.held) || !slices.Equal(gotReported, tt.reported) {
			t.Errorf("%s\ngot held %q, reported %q\nwant     %q,          %q", tt.spec, gotHeld, gotReported, tt.held, tt.reported)
		}
	}
}

func wrap(spec string) string {
	if strings.HasPrefix(spec, "{") {
		return spec
	}
	return "{" + spec + "}"
}
