package cgroups

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/e2e/needs"
)

func TestParseMounts(t *testing.T) {
	table := `24 30 0:22 / /proc rw - proc proc rw
40 30 0:35 / /sys/fs/cgroup/cpu,cpuacct rw shared:1 - cgroup cgroup rw,cpu,cpuacct
41 30 0:36 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
42 30 0:37 / /sys/fs/cgroup/uni\040fied rw - cgroup2 cgroup2 rw
43 30 0:37 / /again rw - cgroup2 cgroup2 rw
`
	got, err := parseMounts([]byte(table))
	want := []Hierarchy{
		{Mount: "/sys/fs/cgroup/cpu,cpuacct", Controllers: []string{"cpu", "cpuacct"}},
		{Mount: "/sys/fs/cgroup/systemd", Controllers: []string{"systemd"}},
		{Mount: "/sys/fs/cgroup/uni fied", V2: true},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	if _, err := parseMounts([]byte("24 30 0:22 / /proc rw - proc proc rw\n")); err == nil {
		t.Error("no error without a cgroup mount")
	}
}

func TestPath(t *testing.T) {
	g := On("/pleach", nil)
	for class, want := range map[corev1.PodQOSClass]string{
		corev1.PodQOSGuaranteed: "/pleach/podu", corev1.PodQOSBurstable: "/pleach/burstable/podu", corev1.PodQOSBestEffort: "/pleach/besteffort/podu",
	} {
		if got := g.Path("u", class); got != want {
			t.Errorf("%s: %s; want %s", class, got, want)
		}
	}
	for _, bad := range []string{"/", "/pleach", "/pleach/../etc", "/other/podu", "pleach/podu"} {
		if g.Ensure(bad, Limits{}) == nil || g.Remove(bad) == nil {
			t.Errorf("%q was taken for a pod's group", bad)
		}
	}
}

func TestWeight(t *testing.T) {
	for shares, want := range map[int64]int64{0: 1, 2: 1, 1024: 39, 262144: 10000, 1 << 40: 10000} {
		if got := weight(shares); got != want {
			t.Errorf("%d shares: weight %d; want %d", shares, got, want)
		}
	}
}

// A v2 tree as an ordinary directory: what is written where.
func TestV2Files(t *testing.T) {
	mount := t.TempDir()
	for _, dir := range []string{"", "pleach", "pleach/burstable"} {
		if err := os.MkdirAll(filepath.Join(mount, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(mount, "cgroup.controllers"), []byte("cpuset cpu io memory hugetlb pids\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	g := On("/pleach", []Hierarchy{{Mount: mount, V2: true}})
	if err := g.Ensure("/pleach/burstable/podu", Limits{CPUShares: 1024, CPUQuota: 50_000, Memory: 1 << 20, PIDs: 100}); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"cpu.weight": "39", "cpu.max": "50000 100000", "memory.max": "1048576", "pids.max": "100"} {
		if got, err := os.ReadFile(filepath.Join(mount, "pleach/burstable/podu", file)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", file, got, err, want)
		}
	}
}

func TestKernel(t *testing.T) {
	needs.Root(t)
	root := fmt.Sprintf("/pleach-cgroups-test-%d", os.Getpid())
	g, err := New(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, h := range g.hierarchies {
			if err := removeTree(filepath.Join(h.Mount, root)); err != nil {
				t.Error(err)
			}
		}
	})
	path := g.Path("u", corev1.PodQOSBurstable)
	for range 2 {
		if err := g.Ensure(path, Limits{CPUShares: 512, CPUQuota: 20_000, Memory: 64 << 20, PIDs: 50}); err != nil {
			t.Fatal(err)
		}
	}
	limit := ""
	for _, h := range g.hierarchies {
		if err := os.Mkdir(filepath.Join(h.Mount, path, "container"), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{"memory.limit_in_bytes", "memory.max"} {
			if data, err := os.ReadFile(filepath.Join(h.Mount, path, file)); err == nil {
				limit = strings.TrimSpace(string(data))
			}
		}
	}
	if limit != "67108864" {
		t.Errorf("memory limit %q", limit)
	}
	for range 2 {
		if err := g.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range g.hierarchies {
		if _, err := os.Stat(filepath.Join(h.Mount, path)); err == nil {
			t.Errorf("%s is left below %s", path, h.Mount)
		}
	}
}
