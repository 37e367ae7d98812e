package placement

import (
	"fmt"
	"testing"
)

// TestHeldRoomDoesNotChoose plans with the pods of a removed workload still there and already gone: as
// long as all fits, every slot has the same candidates.
func TestHeldRoomDoesNotChoose(t *testing.T) {
	var in Input
	for i := range 7 {
		in.Nodes = append(in.Nodes, node(fmt.Sprint("n", i), 16_000, 64<<30))
	}
	for i := range 30 {
		in.Slots = append(in.Slots, Slot{Key: fmt.Sprint("w/", i), Requests: Resources{MilliCPU: 300, Memory: 1 << 28, Pods: 1}})
	}
	after := Plan(in)
	for i := range 9 {
		in.Held = append(in.Held, Held{Node: fmt.Sprint("n", i%3), Requests: Resources{MilliCPU: 1000, Memory: 1 << 30, Pods: 1}, Leaving: i%2 == 0})
	}
	before := Plan(in)
	for i, a := range before.Assignments {
		if fmt.Sprint(a) != fmt.Sprint(after.Assignments[i]) {
			t.Errorf("%s: %v beside what leaves, %v after it", a.Key, a.Candidates, after.Assignments[i].Candidates)
		}
	}
	in.Held[0].Requests.MilliCPU = 15_900
	for _, a := range Plan(in).Assignments {
		if a.Node == "n0" {
			t.Errorf("%s goes to n0, which is full until what it holds has left", a.Key)
		}
	}
}
