package containerd

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// BenchmarkPod runs and removes pods one after the other.
func BenchmarkPod(b *testing.B) {
	if !inNamespace(b) {
		return
	}
	cgroup := fmt.Sprintf("/pleach-test-%d", os.Getpid())
	b.Cleanup(func() { removeCgroups(b, cgroup) })
	_, _, cri, _ := bringUp(b)
	var total [3]time.Duration
	i := 0
	for b.Loop() {
		p := newPod(b, cri, fmt.Sprintf("pod-%d", i), cgroup)
		for part, took := range p.start() {
			total[part] += took
		}
		b.StopTimer()
		p.remove()
		b.StartTimer()
		i++
	}
	for part, name := range []string{"sandbox-ms", "create-ms", "start-ms"} {
		b.ReportMetric(float64(total[part].Milliseconds())/float64(i), name)
	}
}

// BenchmarkIdle says what the runtime's processes cost when idle with ten pods: the proportional set
// size of the daemon, of one shim and of one pause process, in KiB, and the CPU time of the daemon
// and of all shims, in parts of a core.
func BenchmarkIdle(b *testing.B) {
	if !inNamespace(b) {
		return
	}
	cgroup := fmt.Sprintf("/pleach-test-%d", os.Getpid())
	b.Cleanup(func() { removeCgroups(b, cgroup) })
	s, _, cri, _ := bringUp(b)
	const pods = 10
	for i := range pods {
		newPod(b, cri, fmt.Sprintf("pod-%d", i), cgroup).start()
	}
	proc, err := find(newPaths(s.Dir))
	if err != nil || proc == nil {
		b.Fatalf("daemon: %v, %v", proc, err)
	}
	defer proc.close()
	shimPIDs := startedFrom(newPaths(s.Dir).bin)
	time.Sleep(2 * time.Second) // until the last start is over
	daemonCPU, shimCPU := cpu(b, proc.pid), cpu(b, shimPIDs...)
	began := time.Now()
	for b.Loop() {
		time.Sleep(10 * time.Second) // what the starts allocated is collected and given back
	}
	idle := time.Since(began)
	b.ReportMetric(100*float64(cpu(b, proc.pid)-daemonCPU)/float64(idle), "daemon-%cpu")
	b.ReportMetric(100*float64(cpu(b, shimPIDs...)-shimCPU)/float64(idle), "shims-%cpu")
	daemonPSS, _ := pss(b, proc.pid)
	var shims, pauses float64
	for _, pid := range shimPIDs {
		kib, _ := pss(b, pid)
		shims += kib
	}
	for _, pid := range descendants(slices.Clone(shimPIDs)) {
		if kib, name := pss(b, pid); name == "pause" {
			pauses += kib
		}
	}
	b.ReportMetric(daemonPSS, "daemon-KiB")
	b.ReportMetric(shims/pods, "shim-KiB")
	b.ReportMetric(pauses/pods, "pause-KiB")
	b.ReportMetric(float64(len(shimPIDs)), "shims")
}

// cpu is the CPU time that processes have used.
func cpu(t testing.TB, pids ...int) time.Duration {
	t.Helper()
	var total time.Duration
	for _, pid := range pids {
		// the scheduler's own count, in nanoseconds, is finer than the ticks of stat
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				continue // the thread ended
			}
			var ns int64
			if _, err := fmt.Sscan(string(b), &ns); err != nil {
				t.Fatal(err)
			}
			total += time.Duration(ns)
		}
	}
	return total
}

func pss(t testing.TB, pid int) (kib float64, name string) {
	t.Helper()
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		t.Fatal(err)
	}
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(rollup)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			if _, err := fmt.Sscan(rest, &kib); err != nil {
				t.Fatal(err)
			}
		}
	}
	return kib, strings.TrimSpace(string(comm))
}
