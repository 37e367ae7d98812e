package placement_test

import (
	"fmt"
	"math/rand"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/pleachdev/pleach/e2e/shapes"
	. "github.com/pleachdev/pleach/placement"
)

// What this package's own tests need of shapes, which imports placement, comes to them this way.
var _ = func() bool {
	Mixed, Settle, Balance = shapes.Mixed, shapes.Settle, shapes.Balance
	return true
}()

// cpuTime is what this process has used of the processors, whoever else is on the machine.
func cpuTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPlan plans a mixed flock from nothing, and beside it in the manner of the Kubernetes
// scheduler.
func BenchmarkPlan(b *testing.B) {
	for _, size := range []struct {
		nodes, slots int
		percent      int64
	}{{1, 100, 60}, {100, 2000, 80}, {5000, 100000, 80}, {5000, 100000, 90}} {
		in := shapes.Mixed(size.nodes, size.slots, 1, size.percent)
		report := func(b *testing.B, start time.Duration, where func(string) string) {
			b.ReportMetric((cpuTime(b)-start).Seconds()/float64(b.N), "cpu-s/op")
			mean, p99, open := shapes.Balance(in, where)
			b.ReportMetric(float64(open), "unplaced")
			b.ReportMetric(float64(p99)/float64(mean), "p99/mean")
		}
		name := fmt.Sprintf("nodes=%d,slots=%d,full=%d", size.nodes, size.slots, size.percent)
		b.Run("pleach/"+name, func(b *testing.B) {
			var r Result
			start := cpuTime(b)
			for b.Loop() {
				r = Plan(in)
			}
			report(b, start, func(key string) string { a, _ := r.Find(key); return a.Node })
		})
		b.Run("sampling/"+name, func(b *testing.B) {
			var at map[string]string
			start := cpuTime(b)
			for b.Loop() {
				at = shapes.Sampling(in)
			}
			report(b, start, func(key string) string { return at[key] })
		})
	}
}

// BenchmarkNodeLost plans again after one of 5,000 nodes is gone, another each time.
func BenchmarkNodeLost(b *testing.B) {
	in := shapes.Mixed(5000, 100000, 1, 80)
	shapes.Settle(&in, Plan(in))
	p := NewPlanner(in)
	p.Plan()
	r := rand.New(rand.NewSource(1))
	var took []time.Duration
	for b.Loop() {
		n := in.Nodes[r.Intn(len(in.Nodes))]
		n.Gone = true
		start := time.Now()
		p.Update(Change{Nodes: []Node{n}})
		p.Plan()
		took = append(took, time.Since(start))
		b.StopTimer()
		n.Gone = false
		p.Update(Change{Nodes: []Node{n}})
		b.StartTimer()
	}
	percentiles(b, took)
}

// BenchmarkDocumentChanged plans again after one workload of 8 slots has come.
func BenchmarkDocumentChanged(b *testing.B) {
	in := shapes.Mixed(5000, 100000, 1, 80)
	shapes.Settle(&in, Plan(in))
	p := NewPlanner(in)
	p.Plan()
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		c := &Constraints{Labels: map[string]string{"app": fmt.Sprint("new", i)}}
		var change Change
		for j := range 8 {
			change.Slots = append(change.Slots, Slot{Key: fmt.Sprintf("new%d/%d", i, j), Constraints: c, Wave: 1, Requests: Resources{MilliCPU: 100, Pods: 1}})
		}
		start := time.Now()
		p.Update(change)
		p.Plan()
		took = append(took, time.Since(start))
		b.StopTimer()
		back := Change{}
		for _, s := range change.Slots {
			back.Without = append(back.Without, s.Key)
		}
		p.Update(back)
		b.StartTimer()
	}
	percentiles(b, took)
}

func percentiles(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}

// BenchmarkSchedulerPerf measures the planner's share of what scheduler_perf measures: Kubernetes writes
// every binding to its API server besides, which is most of its time.
func BenchmarkSchedulerPerf(b *testing.B) {
	for _, c := range shapes.Cases {
		b.Run(c.Name, func(b *testing.B) {
			in := c.Make()
			slots, placed := 0, 0
			for i := range in.Slots {
				if !in.Slots[i].Claimed {
					slots++
				}
			}
			p := NewPlanner(in)
			start := cpuTime(b)
			var out []Assignment
			for b.Loop() {
				out = p.Plan()
			}
			for _, a := range out {
				if a.Node != "" || a.Nominated != "" {
					placed++
				}
			}
			b.ReportMetric(float64(slots*b.N)/(cpuTime(b)-start).Seconds(), "slots/cpu-s")
			b.ReportMetric(c.Floor, "kubernetes-floor/s")
			b.ReportMetric(float64(slots-placed), "unplaced")
		})
	}
}
