package placement

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/e2e/needs"
)

func node(name string, cpu, memory int64) Node {
	return Node{Name: name, Allocatable: Resources{MilliCPU: cpu, Memory: memory, EphemeralStorage: 1 << 40, Pods: 110}}
}

func TestPlanReasons(t *testing.T) {
	small, big := node("a", 1000, 1<<30), node("b", 4000, 8<<30)
	tainted := node("c", 8000, 8<<30)
	tainted.Taints = []corev1.Taint{{Key: "dedicated", Value: "db", Effect: corev1.TaintEffectNoSchedule}}
	cordoned := node("d", 8000, 8<<30)
	cordoned.Unschedulable = true
	gone := node("e", 8000, 8<<30)
	gone.Gone = true
	full := node("f", 8000, 8<<30)
	full.Allocatable.Pods = 0
	ssd := &Constraints{NodeSelector: map[string]string{"disk": "ssd"}}
	tolerant := &Constraints{Tolerations: []corev1.Toleration{{Key: "dedicated", Operator: corev1.TolerationOpExists}}}

	for _, c := range []struct {
		name  string
		nodes []Node
		slot  Slot
		node  string
		want  string
	}{
		{"fits", []Node{small, big}, Slot{Requests: Resources{MilliCPU: 2000, Pods: 1}}, "b", ""},
		{"no nodes", nil, Slot{}, "", "no nodes available to schedule pods"},
		{"too big", []Node{small, big}, Slot{Requests: Resources{MilliCPU: 9000, Memory: 2 << 30, Pods: 1}}, "", "0/2 nodes are available: 1 Insufficient memory, 2 Insufficient cpu."},
		{"selector", []Node{small, big}, Slot{Constraints: ssd}, "", "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."},
		{"taint", []Node{small, tainted}, Slot{Requests: Resources{MilliCPU: 2000}}, "", "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {dedicated: db}."},
		{"toleration", []Node{small, tainted}, Slot{Requests: Resources{MilliCPU: 2000}, Constraints: tolerant}, "c", ""},
		{"cordoned and gone", []Node{cordoned, gone}, Slot{}, "", "0/2 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/unreachable: }, 1 node(s) were unschedulable."},
		{"pods", []Node{full}, Slot{Requests: Resources{Pods: 1}}, "", "0/1 nodes are available: 1 Too many pods."},
		{"extended", []Node{small}, Slot{Requests: Resources{Extended: map[corev1.ResourceName]int64{"example.com/gpu": 1}}}, "", "0/1 nodes are available: 1 Insufficient example.com/gpu."},
		{"fixed", []Node{small, big}, Slot{Node: "a", Requests: Resources{MilliCPU: 2000}}, "", "0/1 nodes are available: 1 Insufficient cpu."},
		{"fixed fits", []Node{small, big}, Slot{Node: "a", Requests: Resources{MilliCPU: 500}}, "a", ""},
		{"returns", []Node{small, big, node("g", 64000, 64<<30)}, Slot{Incumbent: "a", Requests: Resources{MilliCPU: 500}}, "a", ""},
		{"cordon stays", []Node{big, cordoned}, Slot{Incumbent: "d", Claimed: true}, "d", ""},
		{"cordon does not return", []Node{big, cordoned}, Slot{Incumbent: "d"}, "b", ""},
		{"gone moves", []Node{big, gone}, Slot{Incumbent: "e", Claimed: true}, "b", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.slot.Key = "w/0"
			a, ok := Plan(Input{Nodes: c.nodes, Slots: []Slot{c.slot}}).Find("w/0")
			if !ok || a.Node != c.node || a.Reason != c.want {
				t.Errorf("got %q %q, want %q %q", a.Node, a.Reason, c.node, c.want)
			}
			if a.Node != "" && a.Candidates[0] != a.Node {
				t.Errorf("candidates %v do not begin with %s", a.Candidates, a.Node)
			}
		})
	}
}

func TestPlanHeldTakesRoom(t *testing.T) {
	in := Input{
		Nodes: []Node{node("a", 1000, 1<<30)},
		Slots: []Slot{{Key: "w/0", Requests: Resources{MilliCPU: 600}}},
		Held:  []Held{{Node: "a", Requests: Resources{MilliCPU: 500}}},
	}
	if a, _ := Plan(in).Find("w/0"); a.Reason != "0/1 nodes are available: 1 Insufficient cpu." {
		t.Errorf("got %+v", a)
	}
}

func TestPlanPriorityGoesFirst(t *testing.T) {
	in := Input{Nodes: []Node{node("a", 1000, 1<<30)}}
	for i := range 20 {
		in.Slots = append(in.Slots, Slot{Key: fmt.Sprint("w/", i), Requests: Resources{MilliCPU: 600}, Priority: int32(i)})
	}
	if a, _ := Plan(in).Find("w/19"); a.Node != "a" {
		t.Errorf("the slot of the highest priority got %+v", a)
	}
}

func TestPlanPrefers(t *testing.T) {
	in := Input{}
	for i := range 50 {
		n := node(fmt.Sprint("n", i), 4000, 8<<30)
		if i == 33 {
			n.Labels = map[string]string{"disk": "ssd"}
		}
		if i%2 == 0 {
			n.Taints = []corev1.Taint{{Key: "old", Effect: corev1.TaintEffectPreferNoSchedule}}
		}
		in.Nodes = append(in.Nodes, n)
	}
	ssd := &Constraints{Preferred: []corev1.PreferredSchedulingTerm{{Weight: 1, Preference: corev1.NodeSelectorTerm{
		MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: corev1.NodeSelectorOpIn, Values: []string{"ssd"}}},
	}}}}
	in.Slots = []Slot{
		{Key: "ssd", Constraints: ssd, Requests: Resources{MilliCPU: 3000}, Priority: 1},
		{Key: "ssd too", Constraints: ssd, Requests: Resources{MilliCPU: 3000}},
	}
	r := Plan(in)
	if a, _ := r.Find("ssd"); a.Node != "n33" {
		t.Errorf("got %+v", a)
	}
	// The preferred node is full: the next best is one without the taint, n<odd>.
	if a, _ := r.Find("ssd too"); a.Node == "" || a.Node == "n33" || (a.Node[len(a.Node)-1]-'0')%2 == 0 {
		t.Errorf("got %+v", a)
	}
}

func TestPlanOrderDoesNotMatter(t *testing.T) {
	in := flock(60, 1500, 3)
	settled := Plan(in)
	settle(&in, settled)
	in.Nodes[3].Gone = true
	for i := range in.Slots {
		switch i % 7 {
		case 0:
			in.Slots[i].Wave, in.Slots[i].Claimed = 1+i%3, i%2 == 0
		case 1:
			in.Held = append(in.Held, Held{Node: in.Slots[i].Incumbent, Requests: in.Slots[i].Requests})
		}
	}
	want := Plan(in)
	r := rand.New(rand.NewSource(1))
	for range 5 {
		r.Shuffle(len(in.Nodes), func(i, j int) { in.Nodes[i], in.Nodes[j] = in.Nodes[j], in.Nodes[i] })
		r.Shuffle(len(in.Slots), func(i, j int) { in.Slots[i], in.Slots[j] = in.Slots[j], in.Slots[i] })
		r.Shuffle(len(in.Held), func(i, j int) { in.Held[i], in.Held[j] = in.Held[j], in.Held[i] })
		if !reflect.DeepEqual(Plan(in), want) {
			t.Fatal("the plan depends on the order of its input")
		}
	}
}

func TestPlanMovesOnlyWhatIsLost(t *testing.T) {
	in := flock(200, 4000, 5)
	before := Plan(in)
	settle(&in, before)
	gone := in.Nodes[11].Name
	in.Nodes[11].Gone = true
	in.Nodes = append(in.Nodes, node("newcomer", 64000, 256<<30))
	after := Plan(in)
	lost, moved := 0, 0
	for i, a := range before.Assignments {
		if a.Node == gone {
			lost++
		}
		if after.Assignments[i].Node != a.Node {
			moved++
		}
	}
	if lost == 0 || moved != lost {
		t.Errorf("%d slots moved, %d were lost", moved, lost)
	}
}

func TestPlanNeverOvercommits(t *testing.T) {
	for seed := range int64(20) {
		in := flock(30, 600, seed)
		for i := range in.Slots {
			in.Slots[i].Requests.MilliCPU += in.Slots[i].Requests.MilliCPU / 4 // somewhat more than fits
		}
		free := map[string]Resources{}
		nodes := map[string]*Node{}
		for i := range in.Nodes {
			free[in.Nodes[i].Name], nodes[in.Nodes[i].Name] = in.Nodes[i].Allocatable, &in.Nodes[i]
		}
		slots := map[string]Slot{}
		for _, s := range in.Slots {
			slots[s.Key] = s
		}
		open := []Slot{}
		for _, a := range Plan(in).Assignments {
			s := slots[a.Key]
			if a.Node == "" {
				open = append(open, s)
				continue
			}
			if why := s.Constraints.Admits(nodes[a.Node]); why != "" {
				t.Fatalf("seed %d: %s on %s: %s", seed, a.Key, a.Node, why)
			}
			if why := s.Requests.Fits(free[a.Node]); why != nil {
				t.Fatalf("seed %d: %s on %s: %v", seed, a.Key, a.Node, why)
			}
			free[a.Node] = free[a.Node].Sub(s.Requests)
		}
		for _, s := range open {
			for name, f := range free {
				if s.Constraints.Admits(nodes[name]) == "" && s.Requests.Fits(f) == nil {
					t.Fatalf("seed %d: %s is unschedulable but fits on %s", seed, s.Key, name)
				}
			}
		}
	}
}

// TestPlanDoesNotDependOnProgress carries a plan of two commits out in part, in any order, and plans
// again: the target of what is still open must not change.
func TestPlanDoesNotDependOnProgress(t *testing.T) {
	in := flock(100, 2000, 9)
	for i := range in.Slots {
		in.Slots[i].Wave = 1 + i%2
	}
	want := Plan(in)
	r := rand.New(rand.NewSource(2))
	for _, share := range []float64{0.1, 0.5, 0.9} {
		part := in
		part.Slots = slices.Clone(in.Slots)
		for i := range part.Slots {
			a, _ := want.Find(part.Slots[i].Key)
			if r.Float64() < share && a.Node != "" {
				part.Slots[i].Incumbent, part.Slots[i].Claimed = a.Node, true
				if r.Intn(20) == 0 && len(a.Candidates) > 1 {
					part.Slots[i].Incumbent = a.Candidates[1] // the first declined
				}
			}
		}
		for i, a := range Plan(part).Assignments {
			if !a.Kept && a.Node != want.Assignments[i].Node {
				t.Fatalf("%.0f %% claimed: %s moved from %s to %s", 100*share, a.Key, want.Assignments[i].Node, a.Node)
			}
		}
	}
}

// TestPlanMovesOnlyWhatIsLostInTheMidstOfCommits loses a node while two commits are carried out in
// part: nothing else moves, and what is still open goes where it was to go.
func TestPlanMovesOnlyWhatIsLostInTheMidstOfCommits(t *testing.T) {
	in := flock(200, 4000, 6)
	settle(&in, Plan(in))
	more := flock(200, 800, 7).Slots
	for i := range more {
		more[i].Key, more[i].Wave = "new "+more[i].Key, 1+i%2
		more[i].Requests.MilliCPU /= 8
	}
	in.Slots = append(in.Slots, more...)
	begun := Plan(in)
	gone := in.Nodes[11].Name
	in.Nodes[11].Gone = true
	lost := 0
	for i := range in.Slots {
		s := &in.Slots[i]
		if s.Wave == 0 && s.Incumbent == gone {
			s.Claimed, s.Wave = false, 3
			lost++
		}
	}
	want := Plan(in)
	r := rand.New(rand.NewSource(8))
	for _, share := range []float64{0, 0.5, 0.9} {
		part := in
		part.Slots = slices.Clone(in.Slots)
		for i := range part.Slots {
			s := &part.Slots[i]
			a, _ := want.Find(s.Key)
			if s.Wave > 0 && a.Node != "" && r.Float64() < share {
				s.Incumbent, s.Claimed = a.Node, true
			}
		}
		moved := 0
		for i, a := range Plan(part).Assignments {
			if a.Node != want.Assignments[i].Node {
				t.Fatalf("%.0f %% claimed: %s goes to %q, not %q", 100*share, a.Key, a.Node, want.Assignments[i].Node)
			}
			if before, _ := begun.Find(a.Key); before.Kept && before.Node != a.Node {
				moved++
			}
		}
		if lost == 0 || moved != lost {
			t.Errorf("%.0f %% claimed: %d slots moved, %d were lost", 100*share, moved, lost)
		}
	}
}

// TestPlanIsPinned holds the plan itself. Nodes of different builds plan the same clusters side by side,
// so the plan may change only together with spec.version.
func TestPlanIsPinned(t *testing.T) {
	plain := flock(40, 400, 7)
	for i := range plain.Slots {
		plain.Slots[i].Priority, plain.Slots[i].Wave = int32(i%3), 1+i%2
	}
	r := rand.New(rand.NewSource(7))
	ruled := crowd(r, 20, 40)
	carryOut(r, &ruled, Plan(ruled))
	for _, c := range []struct {
		name string
		in   Input
		want string
	}{
		{"plain", plain, "d82185c6260936a940d5ff73dd6ba5403f6ac65753217b9e420ca612e34e25f2"},
		{"with rules about other pods", ruled, "a46c6654eaa4f3d262f49d9cc25fc9f6eec797cc8313b4fcdf8d486fe2cfd3d2"},
	} {
		h := sha256.New()
		for _, a := range Plan(c.in).Assignments {
			fmt.Fprintln(h, a.Key, a.Node, a.Candidates, a.Reason)
		}
		if got := hex.EncodeToString(h.Sum(nil)); got != c.want {
			t.Errorf("%s: the plan's digest is %s, want %s", c.name, got, c.want)
		}
	}
}

// TestPlanIsTheSameOnARM64 runs the pinned plans on the other architecture, in an emulator.
func TestPlanIsTheSameOnARM64(t *testing.T) {
	const emulator = "qemu-aarch64-static"
	if os.Getenv("PLEACH_TESTS") != "arm64" {
		t.Skip("skipped: compiles for arm64 and emulates it, for minutes; make test-arm64 runs it")
	}
	needs.Command(t, emulator)
	binary := filepath.Join(t.TempDir(), "placement.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", binary, ".")
	build.Env = append(os.Environ(), "GOARCH=arm64", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), emulator, binary, "-test.run", "^(TestPlanIsPinned|TestLog2)$", "-test.v").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestPlanIsPinned") {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestPlanLoadsEvenly(t *testing.T) {
	in := flock(1000, 20000, 4)
	r := Plan(in)
	mean, p99, open := Balance(in, func(key string) string { a, _ := r.Find(key); return a.Node })
	if p99*100 > mean*110 || open > 0 {
		t.Errorf("p99 of the share is %d ‰, the mean %d ‰, %d slots have no node", p99, mean, open)
	}
}
