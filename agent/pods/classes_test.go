package pods

import (
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/agent/cgroups"
)

func TestWeighClasses(t *testing.T) {
	mount := t.TempDir()
	if err := os.Mkdir(filepath.Join(mount, "pleach"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(mount, "cgroup.controllers"), []byte("cpu\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	m := New(Config{Dir: t.TempDir(), CgroupRoot: "/pleach"})
	m.groups = cgroups.On("/pleach", []cgroups.Hierarchy{{Mount: mount, V2: true}})
	weights := map[corev1.PodQOSClass]int64{}
	check := func(when, burstable string) {
		t.Helper()
		m.weighClasses(weights)
		for class, want := range map[string]string{"burstable": burstable, "besteffort": "1"} {
			got, err := os.ReadFile(filepath.Join(mount, "pleach", class, "cpu.weight"))
			if err != nil || string(got) != want {
				t.Errorf("%s: %s weighs %q, %v; want %s", when, class, got, err, want)
			}
		}
	}
	start := func(name string, requests, limits corev1.ResourceList) {
		t.Helper()
		err := m.Start(&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name)},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{
				Name: "app", Image: "box", Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits},
			}}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	core := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Mi")}

	check("no pods", "1")
	start("best", nil, nil)
	start("guaranteed", core, core)
	check("none of them Burstable", "1")
	start("one", core, nil)
	check("one core", "39")
	start("two", core, nil)
	check("two cores", "79")
	m.forget("one")
	check("one has gone", "39")
}
