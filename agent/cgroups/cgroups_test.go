package cgroups

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
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

func TestHandedDown(t *testing.T) {
	got := handedDown("cpuset cpu io memory hugetlb pids rdma misc\n")
	if want := []string{"memory", "io", "hugetlb", "cpu", "pids", "cpuset"}; !slices.Equal(got, want) {
		t.Errorf("got %v; want %v", got, want)
	}
	if got := handedDown("hugetlb\n"); !slices.Equal(got, []string{"hugetlb"}) {
		t.Errorf("of hugetlb alone: %v", got)
	}
}

func TestWeighV2(t *testing.T) {
	mount := t.TempDir()
	writeFiles(t, mount, map[string]string{"cgroup.controllers": "cpu memory", "pleach/.keep": ""})
	g := On("/pleach", []Hierarchy{{Mount: mount, V2: true}})
	for class, want := range map[corev1.PodQOSClass]string{corev1.PodQOSBurstable: "39", corev1.PodQOSBestEffort: "39"} {
		if err := g.Weigh(class, 1024); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(mount, "pleach", strings.ToLower(string(class)), "cpu.weight")
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", class, got, err, want)
		}
	}
	if err := g.Weigh(corev1.PodQOSGuaranteed, 1024); err == nil {
		t.Error("Guaranteed pods have no group in common, and were weighed")
	}
}

func TestSwapLimits(t *testing.T) {
	mount := t.TempDir()
	g := On("/pleach", []Hierarchy{{Mount: mount, V2: true}})
	if g.SwapLimits() {
		t.Error("swap can be limited without a file for it")
	}
	writeFiles(t, mount, map[string]string{"pleach/memory.swap.max": "max"})
	if !g.SwapLimits() {
		t.Error("swap cannot be limited, says SwapLimits, but there is a file for it")
	}
}

// What bounds the pods is the tightest limit on the way to them, in whatever hierarchy.
func TestBounds(t *testing.T) {
	const v1Unlimited = "9223372036854771712"
	for _, try := range []struct {
		name   string
		v1, v2 map[string]string // below the mounts; nil where there is no such hierarchy
		want   Bounds
	}{
		{"v2, the root of the tree", nil, map[string]string{"cgroup.procs": ""}, Bounds{}},
		{"v2, no limits", nil, map[string]string{"a/memory.max": "max", "a/cpu.max": "max 100000", "a/pods/memory.max": "max"}, Bounds{}},
		{
			"v2, above", nil,
			map[string]string{"a/memory.max": "1000", "a/cpu.max": "150000 100000", "a/pods/memory.max": "max", "a/pods/cpu.max": "max 100000"},
			Bounds{1500, 1000},
		},
		{
			"v2, below the root", nil,
			map[string]string{"memory.max": "3000", "a/memory.max": "2000", "a/pods/memory.max": "1000", "a/pods/cpu.max": "20000 40000"},
			Bounds{500, 1000},
		},
		{"v2, elsewhere", nil, map[string]string{"b/memory.max": "1000", "a/agent/memory.max": "1000", "a/pods/memory.max": "2000"}, Bounds{0, 2000}},
		{
			"v1",
			map[string]string{"memory.limit_in_bytes": "5000", "a/memory.limit_in_bytes": v1Unlimited, "cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000", "a/cpu.cfs_quota_us": "-1", "a/cpu.cfs_period_us": "100000"},
			nil,
			Bounds{500, 5000},
		},
		{
			"hybrid",
			map[string]string{"a/memory.limit_in_bytes": "5000"},
			map[string]string{"a/cgroup.procs": ""},
			Bounds{0, 5000},
		},
	} {
		t.Run(try.name, func(t *testing.T) {
			var hierarchies []Hierarchy
			if try.v1 != nil {
				h := Hierarchy{Mount: t.TempDir(), Controllers: []string{"cpu", "cpuacct", "memory"}}
				writeFiles(t, h.Mount, try.v1)
				hierarchies = append(hierarchies, h)
			}
			if try.v2 != nil {
				h := Hierarchy{Mount: t.TempDir(), V2: true}
				writeFiles(t, h.Mount, try.v2)
				hierarchies = append(hierarchies, h)
			}
			if got := On("/a/pods", hierarchies).Bounds(); got != try.want {
				t.Errorf("got %+v; want %+v", got, try.want)
			}
		})
	}
}

func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content+"\n"), 0o644); err != nil {
			t.Fatal(err)
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
	// What a runtime left behind that was killed in the midst of making a container.
	orphan := exec.CommandContext(t.Context(), "sleep", "600")
	if err := orphan.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- orphan.Wait() }()
	for _, h := range g.hierarchies {
		err := os.WriteFile(filepath.Join(h.Mount, path, "container", "cgroup.procs"), []byte(strconv.Itoa(orphan.Process.Pid)), 0o644)
		if err != nil && !errors.Is(err, syscall.ENOSPC) { // a cpuset that nobody has given processors
			t.Fatal(err)
		}
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
	if err := <-ended; err == nil || err.Error() != "signal: killed" {
		t.Errorf("what was left in the group ended with: %v", err)
	}
}
