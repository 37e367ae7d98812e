package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/manifest"
	"github.com/pleachdev/pleach/reconcile"
)

// objectChange is an object that is not the same in both states.
type objectChange struct {
	Change string        `json:"change"` // added, changed or removed
	Object string        `json:"object"` // "apps/v1 Deployment default/web"
	App    string        `json:"app,omitempty"`
	Path   string        `json:"path,omitempty"`
	Line   int           `json:"line,omitempty"`
	Fields []fieldChange `json:"fields,omitempty"` // of a changed one
}

// fieldChange is a field with its value in JSON before and after; "" where it is not there.
type fieldChange struct {
	Path string `json:"path"` // "spec.template.spec.containers[web].image"
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

// What a change may be.
const (
	added   = "added"
	changed = "changed"
	removed = "removed"
)

// compareStates lists what differs, by kind, namespace and name. before is nil when there is nothing.
func compareStates(before, after *gitsync.Accepted) ([]objectChange, error) {
	was, err := objectsOf(before)
	if err != nil {
		return nil, err
	}
	is, err := objectsOf(after)
	if err != nil {
		return nil, err
	}
	names := maps.Clone(was)
	maps.Copy(names, is)
	out := []objectChange{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		old, now := was[name], is[name]
		c := objectChange{Object: name, Change: changed}
		switch {
		case old.content == nil:
			c.Change = added
		case now.content == nil:
			c.Change, now = removed, old
		default:
			if old.commit != "" && old.commit == now.commit {
				continue // nobody changed it
			}
			a, err := old.content()
			if err != nil {
				return nil, err
			}
			b, err := now.content()
			if err != nil {
				return nil, err
			}
			if c.Fields = differences(nil, "", a, b, now.secret); len(c.Fields) == 0 {
				continue
			}
		}
		c.App, c.Path, c.Line = now.source.App, now.source.Path, now.source.Line
		out = append(out, c)
	}
	return out, nil
}

// compared is one object of a state.
type compared struct {
	source  reconcile.Source
	commit  string // that changed it last; "" when unknown
	content func() (map[string]any, error)
	secret  bool // its data is not shown
}

func objectsOf(a *gitsync.Accepted) (map[string]compared, error) {
	all := map[string]compared{}
	if a == nil {
		return all, nil
	}
	add := func(o reconcile.K8sObject, source reconcile.Source, commit string) {
		all[manifest.Name(o)] = compared{
			source: source, commit: commit, secret: o.GetObjectKind().GroupVersionKind().Kind == "Secret",
			content: func() (map[string]any, error) { return content(o) },
		}
	}
	for _, o := range a.Objects() {
		add(o.Object, o.Source, string(o.Object.GetUID())+o.Commit.ID)
	}
	for _, n := range a.Nodes {
		n = n.DeepCopy()
		n.APIVersion, n.Kind, n.Status.Allocatable = "v1", "Node", nil
		add(n, reconcile.Source{App: gitsync.ClusterUnit, Path: "nodes/" + n.Name + ".yaml"}, "")
	}
	spec, err := json.Marshal(a.Cluster.Spec)
	if err != nil {
		return nil, err
	}
	all["pleach.dev/v1alpha1 Cluster "+a.Cluster.Name] = compared{
		source: reconcile.Source{App: gitsync.ClusterUnit, Path: "pleach.yaml"},
		content: func() (map[string]any, error) {
			var c map[string]any
			return c, json.Unmarshal(append(append([]byte(`{"spec":`), spec...), '}'), &c)
		},
	}
	return all, nil
}

// content is an object without what Pleach itself has filled in.
func content(o reconcile.K8sObject) (map[string]any, error) {
	all, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", manifest.Name(o), err)
	}
	delete(all, "status")
	if meta, ok := all["metadata"].(map[string]any); ok {
		for _, name := range []string{"uid", "generation", "creationTimestamp"} {
			delete(meta, name)
		}
	}
	return all, nil
}

// differences lists the fields that differ. Elements of lists that have names are told apart by
// them, as kubectl does for containers, ports and variables.
func differences(out []fieldChange, path string, a, b any, hidden bool) []fieldChange {
	if reflect.DeepEqual(a, b) {
		return out
	}
	x, y := fields(a), fields(b)
	if x == nil || y == nil {
		c := fieldChange{Path: path, From: shown(a), To: shown(b)}
		if hidden {
			c.From, c.To = concealed(a), concealed(b)
		}
		return append(out, c)
	}
	keys := maps.Clone(x)
	maps.Copy(keys, y)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		below := path + key
		if path != "" && !strings.HasPrefix(key, "[") {
			below = path + "." + key
		}
		out = differences(out, below, x[key], y[key], hidden && (path != "" || key == "data" || key == "stringData"))
	}
	return out
}

// fields are the parts of a value by name; nil when it has none.
func fields(v any) map[string]any {
	switch v := v.(type) {
	case map[string]any:
		return v
	case []any:
		parts := make(map[string]any, len(v))
		for i, e := range v {
			key := fmt.Sprintf("[%d]", i)
			if m, ok := e.(map[string]any); ok {
				if name, ok := m["name"].(string); ok {
					key = "[" + name + "]"
				}
			}
			if _, twice := parts[key]; twice {
				return nil
			}
			parts[key] = e
		}
		return parts
	}
	return nil
}

// shown is a value as it is printed: JSON, cut where nobody would read on.
func shown(v any) string {
	if v == nil {
		return ""
	}
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	const longest = 120
	if len(text) > longest {
		return strings.ToValidUTF8(string(text[:longest]), "") + "…"
	}
	return string(text)
}

func concealed(v any) string {
	if v == nil {
		return ""
	}
	return "(hidden)"
}
