package placement

import (
	"fmt"
	"math/rand"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// flock makes a mixed flock: machines of 4 to 64 cores in three zones, half of them with ssd, one in
// twenty tainted; workloads of several sizes, a fifth of which ask for ssd.
func flock(nodes, slots int, seed int64) Input {
	r := rand.New(rand.NewSource(seed))
	var in Input
	var cores int64
	for i := range nodes {
		c := []int64{4, 4, 4, 8, 8, 8, 16, 16, 32, 64}[r.Intn(10)]
		n := Node{
			Name:        fmt.Sprintf("node-%05d", i),
			Labels:      map[string]string{"topology.kubernetes.io/zone": fmt.Sprint("z", i%3), "disk": []string{"ssd", "hdd"}[r.Intn(2)]},
			Allocatable: Resources{MilliCPU: c * 1000, Memory: c << 32, EphemeralStorage: 100 << 30, Pods: 110},
		}
		if r.Intn(20) == 0 {
			n.Taints = []corev1.Taint{{Key: "dedicated", Value: "db", Effect: corev1.TaintEffectNoSchedule}}
		} else {
			cores += c * 1000
		}
		in.Nodes = append(in.Nodes, n)
	}
	// Filled to 80 % on average.
	mean := cores * 8 / 10 / int64(slots)
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

func BenchmarkPlan(b *testing.B) {
	for _, size := range []struct{ nodes, slots int }{{1, 100}, {100, 2000}, {5000, 100000}} {
		b.Run(fmt.Sprintf("nodes=%d,slots=%d", size.nodes, size.slots), func(b *testing.B) {
			in := flock(size.nodes, size.slots, 1)
			open := 0
			for b.Loop() {
				open = 0
				for _, a := range Plan(in).Assignments {
					if a.Node == "" {
						open++
					}
				}
			}
			b.ReportMetric(float64(open), "unplaced")
		})
	}
}

// BenchmarkPlanNodeLost plans again after one of 5,000 nodes is gone.
func BenchmarkPlanNodeLost(b *testing.B) {
	in := flock(5000, 100000, 1)
	settle(&in, Plan(in))
	in.Nodes[17].Gone = true
	for b.Loop() {
		Plan(in)
	}
}

// settle makes the plan's assignments the incumbents of the next.
func settle(in *Input, r Result) {
	for i := range in.Slots {
		a, _ := r.Find(in.Slots[i].Key)
		in.Slots[i].Incumbent, in.Slots[i].Claimed, in.Slots[i].Wave = a.Node, a.Node != "", 0
	}
}
