package placement

import (
	"fmt"
	"math/rand"
	"slices"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// flock makes a mixed flock: machines of 4 to 64 cores in three zones, half of them with ssd, one in
// twenty tainted; workloads of several sizes, a fifth of which ask for ssd. It is 80 % full.
func flock(nodes, slots int, seed int64) Input { return filled(nodes, slots, seed, 80) }

func filled(nodes, slots int, seed, percent int64) Input {
	r := rand.New(rand.NewSource(seed))
	var in Input
	var cores int64
	for i := range nodes {
		c := []int64{4, 4, 4, 8, 8, 8, 16, 16, 32, 64}[r.Intn(10)]
		n := Node{
			Name:        fmt.Sprintf("node-%05d", i),
			Labels:      map[string]string{corev1.LabelTopologyZone: fmt.Sprint("z", i%3), "disk": []string{"ssd", "hdd"}[r.Intn(2)]},
			Allocatable: Resources{MilliCPU: c * 1000, Memory: c << 32, EphemeralStorage: 100 << 30, Pods: 110},
		}
		if r.Intn(20) == 0 {
			n.Taints = []corev1.Taint{{Key: "dedicated", Value: "db", Effect: corev1.TaintEffectNoSchedule}}
		} else {
			cores += c * 1000
		}
		in.Nodes = append(in.Nodes, n)
	}
	mean := cores * percent / 100 / int64(slots)
	for i := 0; i < slots; {
		replicas := 1 + r.Intn(16)
		c := &Constraints{}
		if r.Intn(5) == 0 {
			c.NodeSelector = map[string]string{"disk": "ssd"}
		}
		cpu := max(1, mean*[]int64{25, 50, 100, 225}[r.Intn(4)]/100)
		for j := 0; j < replicas && i < slots; j++ {
			in.Slots = append(in.Slots, Slot{
				Key: fmt.Sprintf("w%d/%d", i-j, j), Constraints: c, Wave: 1,
				Requests: Resources{MilliCPU: cpu, Memory: cpu << 21, Pods: 1},
			})
			i++
		}
	}
	return in
}

// settle makes the plan's assignments the incumbents of the next.
func settle(in *Input, r Result) {
	for i := range in.Slots {
		a, _ := r.Find(in.Slots[i].Key)
		in.Slots[i].Incumbent, in.Slots[i].Claimed, in.Slots[i].Wave = a.Node, a.Node != "", 0
	}
}

// cpuTime is what this process has used of the processors, whoever else is on the machine.
func cpuTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// balance returns the mean and the 99th percentile of the nodes' shares of CPU in permille, tainted
// nodes aside, and the number of slots without a node.
func balance(in Input, where func(key string) string) (mean, p99 int64, open int) {
	used := map[string]int64{}
	for _, s := range in.Slots {
		n := where(s.Key)
		if n == "" {
			open++
		}
		used[n] += s.Requests.MilliCPU
	}
	var shares []int64
	for _, n := range in.Nodes {
		if len(n.Taints) == 0 {
			s := used[n.Name] * 1000 / n.Allocatable.MilliCPU
			shares = append(shares, s)
			mean += s
		}
	}
	slices.Sort(shares)
	return mean / int64(len(shares)), shares[len(shares)*99/100], open
}

// BenchmarkPlan plans a mixed flock from nothing, and beside it in the manner of the Kubernetes
// scheduler.
func BenchmarkPlan(b *testing.B) {
	for _, size := range []struct {
		nodes, slots int
		percent      int64
	}{{1, 100, 60}, {100, 2000, 80}, {5000, 100000, 80}, {5000, 100000, 90}} {
		in := filled(size.nodes, size.slots, 1, size.percent)
		report := func(b *testing.B, start time.Duration, where func(string) string) {
			b.ReportMetric((cpuTime(b)-start).Seconds()/float64(b.N), "cpu-s/op")
			mean, p99, open := balance(in, where)
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
				at = sampling(in)
			}
			report(b, start, func(key string) string { return at[key] })
		})
	}
}

// sampling places slots one after the other as the Kubernetes scheduler does: it filters nodes from
// where it last stopped until it has found a tenth of 5,000 (all of 100) that are feasible, scores
// them by LeastAllocated, and takes the best, one of them at random among equals.
func sampling(in Input) map[string]string {
	r := rand.New(rand.NewSource(1))
	free := make([]Resources, len(in.Nodes))
	for i := range in.Nodes {
		free[i] = in.Nodes[i].Allocatable
	}
	want := len(in.Nodes)
	if want >= 100 {
		want = max(100, want*max(5, 50-want/125)/100)
	}
	verdicts := map[string][]bool{} // of nodes by rules, computed once for the sake of fairness
	out := make(map[string]string, len(in.Slots))
	next := 0
	for i := range in.Slots {
		s := &in.Slots[i]
		rules := s.Constraints.nodeRules()
		admits, ok := verdicts[rules]
		if !ok {
			admits = make([]bool, len(in.Nodes))
			for n := range in.Nodes {
				admits[n] = s.Constraints.Admits(&in.Nodes[n]) == ""
			}
			verdicts[rules] = admits
		}
		best, top, ties, found := -1, int64(-1), 0, 0
		for k := 0; k < len(in.Nodes) && found < want; k++ {
			n := next
			next = (next + 1) % len(in.Nodes)
			f := &free[n]
			if !admits[n] || f.Pods < 1 || f.MilliCPU < s.Requests.MilliCPU || f.Memory < s.Requests.Memory {
				continue
			}
			found++
			a := &in.Nodes[n].Allocatable
			score := ((f.MilliCPU-s.Requests.MilliCPU)*100/a.MilliCPU + (f.Memory-s.Requests.Memory)*100/a.Memory) / 2
			switch {
			case score > top:
				best, top, ties = n, score, 1
			case score == top:
				if ties++; r.Intn(ties) == 0 {
					best = n
				}
			}
		}
		if best >= 0 {
			free[best] = free[best].Sub(s.Requests)
			out[s.Key] = in.Nodes[best].Name
		}
	}
	return out
}

// BenchmarkNodeLost plans again after one of 5,000 nodes is gone, another each time.
func BenchmarkNodeLost(b *testing.B) {
	in := flock(5000, 100000, 1)
	settle(&in, Plan(in))
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
	in := flock(5000, 100000, 1)
	settle(&in, Plan(in))
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

// perfCase is a shape of Kubernetes' scheduler_perf: 5,000 nodes, pods that run, pods to place.
type perfCase struct {
	name  string
	floor float64 // pods/s that Kubernetes' CI asks of its scheduler at least
	make  func() Input
}

// perfFlock is scheduler_perf's: nodes of 4 cores and 32 GiB in three zones, and pods of 100m and 500Mi.
func perfFlock(nodes, zones int) Input {
	var in Input
	for i := range nodes {
		name := fmt.Sprintf("node-%05d", i)
		in.Nodes = append(in.Nodes, Node{
			Name: name, Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelTopologyZone: fmt.Sprint("zone", i%zones)},
			Allocatable: Resources{MilliCPU: 4000, Memory: 32 << 30, EphemeralStorage: 100 << 30, Pods: 110},
		})
	}
	return in
}

func perfPods(in *Input, name string, n int, c *Constraints, cpu int64, priority int32) {
	for i := range n {
		in.Slots = append(in.Slots, Slot{
			Key: fmt.Sprintf("%s/%d", name, i), Constraints: c, Wave: 1, Priority: priority,
			Requests: Resources{MilliCPU: cpu, Memory: 500 << 20, Pods: 1},
		})
	}
}

func perfTerm(key, color string) []corev1.PodAffinityTerm {
	return []corev1.PodAffinityTerm{{TopologyKey: key, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"color": color}}}}
}

// perfRun settles the first pods, so that only the measured ones are open.
func perfRun(in Input) Input {
	settle(&in, Plan(in))
	return in
}

var perfCases = []perfCase{
	{"Basic", 680, func() Input {
		in := perfFlock(5000, 3)
		perfPods(&in, "init", 1000, &Constraints{}, 100, 0)
		in = perfRun(in)
		perfPods(&in, "pod", 10000, &Constraints{}, 100, 0)
		return in
	}},
	{"PodAffinity", 35, func() Input {
		in := perfFlock(5000, 1)
		c := &Constraints{Labels: map[string]string{"color": "blue"}, Affinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: perfTerm(corev1.LabelTopologyZone, "blue")}}
		perfPods(&in, "init", 5000, c, 100, 0)
		in = perfRun(in)
		perfPods(&in, "pod", 5000, c, 100, 0)
		return in
	}},
	{"PodAntiAffinity", 60, func() Input {
		in := perfFlock(5000, 3)
		c := &Constraints{Labels: map[string]string{"color": "green"}, AntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: perfTerm(corev1.LabelHostname, "green")}}
		perfPods(&in, "init", 1000, c, 100, 0)
		in = perfRun(in)
		perfPods(&in, "pod", 2000, c, 100, 0)
		return in
	}},
	{"PreferredPodAffinity", 90, func() Input {
		in := perfFlock(5000, 3)
		c := &Constraints{Labels: map[string]string{"color": "red"}, Affinity: &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 1, PodAffinityTerm: perfTerm(corev1.LabelHostname, "red")[0]}}}}
		perfPods(&in, "init", 5000, c, 100, 0)
		in = perfRun(in)
		perfPods(&in, "pod", 5000, c, 100, 0)
		return in
	}},
	{"TopologySpreading", 460, func() Input {
		in := perfFlock(5000, 3)
		c := &Constraints{Labels: map[string]string{"color": "blue"}, Spread: []corev1.TopologySpreadConstraint{{
			MaxSkew: 5, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"color": "blue"}},
		}}}
		perfPods(&in, "init", 5000, &Constraints{}, 100, 0)
		in = perfRun(in)
		perfPods(&in, "pod", 5000, c, 100, 0)
		return in
	}},
	{"PreferredTopologySpreading", 340, func() Input {
		in := perfFlock(5000, 3)
		c := &Constraints{Labels: map[string]string{"color": "blue"}, Spread: []corev1.TopologySpreadConstraint{{
			MaxSkew: 5, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"color": "blue"}},
		}}}
		perfPods(&in, "init", 5000, &Constraints{}, 100, 0)
		in = perfRun(in)
		perfPods(&in, "pod", 5000, c, 100, 0)
		return in
	}},
	{"Preemption", 570, func() Input {
		in := perfFlock(5000, 3)
		perfPods(&in, "init", 20000, &Constraints{}, 900, 0)
		in = perfRun(in)
		perfPods(&in, "pod", 5000, &Constraints{}, 3000, 10)
		return in
	}},
	{"UnschedulableChurn", 590, func() Input {
		in := perfFlock(5000, 3)
		perfPods(&in, "churn", 5000, &Constraints{}, 9000, 10)
		perfPods(&in, "pod", 10000, &Constraints{}, 100, 0)
		return in
	}},
}

// BenchmarkSchedulerPerf measures the planner's share of what scheduler_perf measures: Kubernetes writes
// every binding to its API server besides, which is most of its time.
func BenchmarkSchedulerPerf(b *testing.B) {
	for _, c := range perfCases {
		b.Run(c.name, func(b *testing.B) {
			in := c.make()
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
			b.ReportMetric(c.floor, "kubernetes-floor/s")
			b.ReportMetric(float64(slots-placed), "unplaced")
		})
	}
}
