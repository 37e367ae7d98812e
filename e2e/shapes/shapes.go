// Package shapes makes the flocks that planning is tested and measured with: the same for the tests of
// placement and for the benchmarks.
package shapes

import (
	"fmt"
	"math/rand"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/placement"
)

// Mixed makes a mixed flock: machines of 4 to 64 cores in three zones, half of them with ssd, one in
// twenty tainted; workloads of several sizes, a fifth of which ask for ssd. The slots ask for that
// many percent of the processors. A slot's key is "<workload>/<ordinal>".
func Mixed(nodes, slots int, seed, percent int64) placement.Input {
	r := rand.New(rand.NewSource(seed))
	var in placement.Input
	var cores int64
	for i := range nodes {
		c := []int64{4, 4, 4, 8, 8, 8, 16, 16, 32, 64}[r.Intn(10)]
		n := placement.Node{
			Name:        fmt.Sprintf("node-%05d", i),
			Labels:      map[string]string{corev1.LabelTopologyZone: fmt.Sprint("z", i%3), "disk": []string{"ssd", "hdd"}[r.Intn(2)]},
			Allocatable: placement.Resources{MilliCPU: c * 1000, Memory: c << 32, EphemeralStorage: 100 << 30, Pods: 110},
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
		c := &placement.Constraints{}
		if r.Intn(5) == 0 {
			c.NodeSelector = map[string]string{"disk": "ssd"}
		}
		cpu := max(1, mean*[]int64{25, 50, 100, 225}[r.Intn(4)]/100)
		for j := 0; j < replicas && i < slots; j++ {
			in.Slots = append(in.Slots, placement.Slot{
				Key: fmt.Sprintf("w%d/%d", i-j, j), Constraints: c, Wave: 1,
				Requests: placement.Resources{MilliCPU: cpu, Memory: cpu << 21, Pods: 1},
			})
			i++
		}
	}
	return in
}

// Settle makes the plan's assignments the incumbents of the next.
func Settle(in *placement.Input, r placement.Result) {
	for i := range in.Slots {
		a, _ := r.Find(in.Slots[i].Key)
		in.Slots[i].Incumbent, in.Slots[i].Claimed, in.Slots[i].Wave = a.Node, a.Node != "", 0
	}
}

// Balance returns the mean and the 99th percentile of the nodes' shares of CPU in permille, tainted
// nodes aside, and the number of slots without a node.
func Balance(in placement.Input, where func(key string) string) (mean, p99 int64, open int) {
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

// Sampling places slots one after the other as the Kubernetes scheduler does: it filters nodes from
// where it last stopped until it has found a tenth of 5,000 (all of 100) that are feasible, scores
// them by LeastAllocated, and takes the best, one of them at random among equals.
func Sampling(in placement.Input) map[string]string {
	r := rand.New(rand.NewSource(1))
	free := make([]placement.Resources, len(in.Nodes))
	for i := range in.Nodes {
		free[i] = in.Nodes[i].Allocatable
	}
	want := len(in.Nodes)
	if want >= 100 {
		want = max(100, want*max(5, 50-want/125)/100)
	}
	verdicts := map[string][]bool{} // of nodes by rules, computed once for the sake of fairness
	known := map[*placement.Constraints][]bool{}
	out := make(map[string]string, len(in.Slots))
	next := 0
	for i := range in.Slots {
		s := &in.Slots[i]
		admits, ok := known[s.Constraints]
		if !ok {
			rules := fmt.Sprint(s.Constraints.NodeSelector, s.Constraints.Required, s.Constraints.Preferred, s.Constraints.Tolerations)
			if admits, ok = verdicts[rules]; !ok {
				admits = make([]bool, len(in.Nodes))
				for n := range in.Nodes {
					admits[n] = s.Constraints.Admits(&in.Nodes[n]) == ""
				}
				verdicts[rules] = admits
			}
			known[s.Constraints] = admits
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
