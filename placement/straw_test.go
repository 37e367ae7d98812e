package placement

import (
	"fmt"
	"math"
	"testing"
)

func TestLog2(t *testing.T) {
	for _, x := range []uint64{1, 2, 3, 7, 255, 1 << 20, 1<<33 + 12345, 1 << 63, math.MaxUint64} {
		got, want := float64(log2(x))/(1<<logBits), math.Log2(float64(x))
		if math.Abs(got-want) > 1e-5 {
			t.Errorf("log2(%d) = %f, want %f", x, got, want)
		}
	}
	for x := uint64(1); x < 1<<62; x += x/3 + 1 {
		if log2(x) > log2(x+1) {
			t.Fatalf("log2 falls at %d", x)
		}
	}
}

func TestAtLeastMissesNoTicket(t *testing.T) {
	for x := uint64(1); x < 1<<63; x += x/7 + 1 {
		for _, w := range []int64{1, 3, 1000, 14 << 16, 1 << 20} {
			c := cost(x, w)
			if low := atLeast(c, w); low >= x {
				t.Fatalf("atLeast(cost(%d), %d) = %d", x, w, low)
			}
			if low := atLeast(c, w); x > 1<<40 && low < x/100*80 {
				t.Fatalf("atLeast(cost(%d), %d) = %d is far below", x, w, low)
			}
			if other := atLeast(c, 2*w); other > 0 && cost(other, 2*w) < c {
				t.Fatalf("atLeast of twice the weight of %d is %d, which costs less", x, other)
			}
		}
	}
}

// TestDrawsFollowWeights compares how often a node of each weight comes first with its share of the
// weights, and how often a node comes among the first four.
func TestDrawsFollowWeights(t *testing.T) {
	const slots = 60000
	weights := []int64{1000, 1000, 2000, 4000, 8000, 8000, 16000, 4000}
	var total int64
	in := Input{}
	for i, w := range weights {
		total += w
		in.Nodes = append(in.Nodes, Node{Name: fmt.Sprint("node-", i), Weight: w, Allocatable: Resources{MilliCPU: 1 << 50, Memory: 1 << 50, Pods: 1 << 50}})
	}
	for i := range slots {
		in.Slots = append(in.Slots, Slot{Key: fmt.Sprintf("3f2a-%d/%d", i/7, i%7), Requests: Resources{Pods: 1}})
	}
	first := map[string]int{}
	for _, a := range Plan(in).Assignments { // loads never reach one step: rendezvous order decides
		first[a.Node]++
	}
	for i, w := range weights {
		want := float64(slots) * float64(w) / float64(total)
		got := float64(first[in.Nodes[i].Name])
		if math.Abs(got-want) > 6*math.Sqrt(want) {
			t.Errorf("node of weight %d comes first %v times, want %.0f", w, got, want)
		}
	}
}

// TestDrawsSpreadEvenly fills many equal nodes and looks at the spread of the counts.
func TestDrawsSpreadEvenly(t *testing.T) {
	const nodes, slots = 500, 100000
	in := Input{}
	for i := range nodes {
		in.Nodes = append(in.Nodes, Node{Name: fmt.Sprintf("node-%05d", i), Weight: 1, Allocatable: Resources{Pods: 1 << 50}})
	}
	for i := range slots {
		in.Slots = append(in.Slots, Slot{Key: fmt.Sprintf("%d/%d", i/20, i%20), Requests: Resources{Pods: 1}})
	}
	count := map[string]int{}
	for _, a := range Plan(in).Assignments {
		count[a.Node]++
	}
	const mean = float64(slots) / nodes
	chi := 0.0
	for _, n := range in.Nodes {
		d := float64(count[n.Name]) - mean
		chi += d * d / mean
	}
	// 499 degrees of freedom: 633 is passed once in 20,000.
	if chi > 633 {
		t.Errorf("chi² = %.0f over %d nodes", chi, nodes)
	}
}
