// Package examples_test holds the examples to what README.md says of them.
package examples_test

import (
	"os"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"

	"github.com/pleachdev/pleach/gitsync/manifest"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
)

// apps reads the list of apps from README.md, as a user would copy it.
func apps(t *testing.T) []v1alpha1.App {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(readme), "```yaml\n")
	block, _, _ = strings.Cut(block, "```")
	var cluster v1alpha1.Cluster
	if err := yaml.UnmarshalStrict([]byte(block), &cluster); err != nil {
		t.Fatalf("README.md: %v", err)
	}
	return cluster.Spec.Apps
}

func TestExamplesAreValid(t *testing.T) {
	cluster := &v1alpha1.Cluster{Spec: v1alpha1.ClusterSpec{Version: manifest.Versions[len(manifest.Versions)-1], Apps: apps(t)}}
	covered := make(map[string]bool)
	for _, app := range cluster.Spec.Apps {
		dir, _, _ := strings.Cut(app.Path, "/")
		covered[dir] = true
		result := manifest.Load(os.DirFS("."), cluster, app)
		for _, problem := range append(result.Errors, result.Warnings...) {
			t.Error(problem)
		}
		if len(result.Objects) == 0 {
			t.Errorf("%s: no objects", app.Name)
		}
	}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if entry.IsDir() && !covered[entry.Name()] {
			t.Errorf("README.md does not list the folder %s", entry.Name())
		}
	}
}

func TestShopUsesItsGeneratedConfigMap(t *testing.T) {
	cluster := &v1alpha1.Cluster{Spec: v1alpha1.ClusterSpec{Version: 1, Apps: apps(t)}}
	for _, app := range cluster.Spec.Apps {
		if app.Name != "shop" {
			continue
		}
		var generated, used string
		for _, object := range manifest.Load(os.DirFS("."), cluster, app).Objects {
			switch o := object.Object.(type) {
			case *appsv1.Deployment:
				used = o.Spec.Template.Spec.Containers[0].EnvFrom[0].ConfigMapRef.Name
				if o.Name != "production-shop" || *o.Spec.Replicas != 3 || o.Spec.Template.Spec.Containers[0].Resources.Limits.Memory().String() != "256Mi" {
					t.Errorf("the overlay did not change the Deployment: %s, %d replicas", o.Name, *o.Spec.Replicas)
				}
			default:
				generated = o.GetName()
			}
		}
		if used == "" || used != generated {
			t.Errorf("the pods use ConfigMap %q, want the generated %q", used, generated)
		}
		return
	}
	t.Fatal("README.md does not list the app shop")
}
