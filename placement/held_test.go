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

// TestWhatIsReplacedWhereItIsCountsOnce plans beside pods that are replaced by others on their nodes, at each
// stage of that: every new slot has the same candidates. It has others when they are counted as they stand.
func TestWhatIsReplacedWhereItIsCountsOnce(t *testing.T) {
	const old = 12
	need := Resources{MilliCPU: 1000, Memory: 1 << 30, Pods: 1}
	plan := func(add func(in *Input, node, key string)) string {
		var in Input
		for i := range 7 {
			in.Nodes = append(in.Nodes, node(fmt.Sprint("n", i), 16_000, 64<<30))
		}
		for i := range 30 {
			in.Slots = append(in.Slots, Slot{Key: fmt.Sprint("w/", i), Requests: need, Wave: 1})
		}
		for i := range old {
			add(&in, fmt.Sprint("n", i%5), fmt.Sprint("old/", i))
		}
		out := ""
		for _, a := range Plan(in).Assignments {
			if a.Key[0] == 'w' {
				out += fmt.Sprintln(a.Key, a.Candidates)
			}
		}
		return out
	}
	runs := func(in *Input, node, key string) {
		in.Slots = append(in.Slots, Slot{Key: key, Requests: need, Incumbent: node, Claimed: true})
	}
	want := plan(runs)
	for _, c := range []struct {
		name string
		add  func(in *Input, node, key string)
		same bool
	}{
		{"the new one is wanted beside it", func(in *Input, node, key string) {
			runs(in, node, key)
			in.Slots = append(in.Slots, Slot{Key: key + "+", Requests: need, Incumbent: node, Beside: true})
		}, true},
		{"and runs", func(in *Input, node, key string) {
			runs(in, node, key)
			in.Held = append(in.Held, Held{Node: node, Requests: need})
		}, true},
		{"it ends first", func(in *Input, node, _ string) {
			in.Held = append(in.Held, Held{Node: node, Requests: need, Leaving: true, Returns: true})
		}, true},
		{"and has ended", func(in *Input, node, key string) {
			in.Slots = append(in.Slots, Slot{Key: key, Requests: need, Incumbent: node})
		}, true},
		{"counted beside it", func(in *Input, node, key string) {
			runs(in, node, key)
			in.Slots = append(in.Slots, Slot{Key: key + "+", Requests: need, Incumbent: node})
		}, false},
		{"not counted while it ends", func(in *Input, node, _ string) {
			in.Held = append(in.Held, Held{Node: node, Requests: need, Leaving: true})
		}, false},
		{"placed with the new ones", func(in *Input, node, key string) {
			in.Slots = append(in.Slots, Slot{Key: key, Requests: need, Incumbent: node, Wave: 1})
		}, false},
	} {
		if got := plan(c.add); (got == want) != c.same {
			t.Errorf("%s: the same plan: %t, want %t", c.name, got == want, c.same)
		}
	}
}
