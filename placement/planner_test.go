package placement

import (
	"fmt"
	"math/rand"
	"reflect"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// crowd makes a small flock whose pods have rules of every kind about each other.
func crowd(r *rand.Rand, nodes, workloads int) Input {
	pick := func(from ...string) string { return from[r.Intn(len(from))] }
	in := Input{Namespaces: map[string]map[string]string{"a": {"team": "red"}, "b": {"team": "blue"}, "c": {}}}
	for i := range nodes {
		in.Nodes = append(in.Nodes, crowdNode(r, fmt.Sprint("n", i)))
	}
	selector := func() *metav1.LabelSelector {
		switch r.Intn(8) {
		case 0:
			return nil
		case 1:
			return &metav1.LabelSelector{}
		case 2:
			return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpNotIn, Values: []string{pick("x", "y", "z")}}}}
		case 3:
			return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpIn, Values: []string{"x", "y"}}}}
		}
		return &metav1.LabelSelector{MatchLabels: map[string]string{"app": pick("x", "y", "z")}}
	}
	key := func() string { return pick("zone", "zone", "rack", "host") }
	term := func() corev1.PodAffinityTerm {
		t := corev1.PodAffinityTerm{LabelSelector: selector(), TopologyKey: key()}
		switch r.Intn(5) {
		case 0:
			t.Namespaces = []string{"a", "b"}
		case 1:
			t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": pick("red", "blue")}}
		case 2:
			t.NamespaceSelector = &metav1.LabelSelector{}
		}
		if r.Intn(5) == 0 {
			t.MatchLabelKeys = []string{"rev"}
		} else if r.Intn(8) == 0 {
			t.MismatchLabelKeys = []string{"rev"}
		}
		return t
	}
	for w := range workloads {
		c := &Constraints{Namespace: pick("a", "b", "c"), Labels: map[string]string{"app": pick("x", "y", "z"), "rev": pick("1", "2")}}
		if r.Intn(4) == 0 {
			c.NodeSelector = map[string]string{"disk": "ssd"}
		}
		if r.Intn(4) == 0 {
			c.Tolerations = []corev1.Toleration{{Key: "dedicated", Operator: corev1.TolerationOpExists}}
		}
		if r.Intn(4) == 0 {
			c.Affinity = &corev1.PodAffinity{}
			for range 1 + r.Intn(2) {
				c.Affinity.RequiredDuringSchedulingIgnoredDuringExecution = append(c.Affinity.RequiredDuringSchedulingIgnoredDuringExecution, term())
			}
		}
		if r.Intn(3) == 0 {
			c.AntiAffinity = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term()}}
		}
		if r.Intn(5) == 0 {
			c.AntiAffinity = &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: int32(1 + r.Intn(100)), PodAffinityTerm: term()}}}
		}
		for range r.Intn(3) {
			s := corev1.TopologySpreadConstraint{
				MaxSkew: int32(1 + r.Intn(2)), TopologyKey: key(), LabelSelector: selector(),
				WhenUnsatisfiable: []corev1.UnsatisfiableConstraintAction{corev1.DoNotSchedule, corev1.ScheduleAnyway}[r.Intn(2)],
			}
			if r.Intn(4) == 0 {
				s.MinDomains = new(int32(1 + r.Intn(4)))
			}
			if r.Intn(3) == 0 {
				s.NodeAffinityPolicy = new([]corev1.NodeInclusionPolicy{corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore}[r.Intn(2)])
			}
			if r.Intn(3) == 0 {
				s.NodeTaintsPolicy = new([]corev1.NodeInclusionPolicy{corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore}[r.Intn(2)])
			}
			if r.Intn(3) == 0 {
				s.MatchLabelKeys = []string{"rev"}
			}
			c.Spread = append(c.Spread, s)
		}
		if r.Intn(5) == 0 {
			c.HostPorts = []HostPort{{pick("0.0.0.0", "10.0.0.1", "10.0.0.2"), corev1.ProtocolTCP, int32(80 + r.Intn(2))}}
		}
		c.NeverPreempts = r.Intn(5) == 0
		request := Resources{MilliCPU: int64(100 + 300*r.Intn(4)), Memory: 1 << 20, Pods: 1}
		if r.Intn(10) == 0 {
			request.Extended = map[corev1.ResourceName]int64{"example.com/gpu": 1}
		}
		priority := int32(r.Intn(3) * 100)
		for i := range 1 + r.Intn(6) {
			in.Slots = append(in.Slots, Slot{Key: fmt.Sprintf("w%d/%d", w, i), Constraints: c, Requests: request, Priority: priority, Wave: 1 + w%2})
		}
	}
	return in
}

func crowdNode(r *rand.Rand, name string) Node {
	n := Node{Name: name, Labels: map[string]string{"host": name}, Allocatable: Resources{MilliCPU: int64(1000 + r.Intn(3)*1000), Memory: 1 << 40, EphemeralStorage: 1 << 40, Pods: 20}}
	if r.Intn(8) > 0 {
		n.Labels["zone"] = fmt.Sprint("z", r.Intn(3))
	}
	if r.Intn(4) > 0 {
		n.Labels["rack"] = fmt.Sprint("r", r.Intn(4))
	}
	if r.Intn(2) == 0 {
		n.Labels["disk"] = "ssd"
	}
	if r.Intn(5) == 0 {
		n.Taints = []corev1.Taint{{Key: "dedicated", Value: "db", Effect: []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute, corev1.TaintEffectPreferNoSchedule}[r.Intn(3)]}}
	}
	if r.Intn(4) == 0 {
		n.Allocatable.Extended = map[corev1.ResourceName]int64{"example.com/gpu": 2}
	}
	n.Unschedulable, n.Gone = r.Intn(10) == 0, r.Intn(10) == 0
	return n
}

// carryOut starts what a plan places, ends what it preempts, and settles some of it.
func carryOut(r *rand.Rand, in *Input, plan Result) {
	for i := range in.Slots {
		s := &in.Slots[i]
		a, _ := plan.Find(s.Key)
		switch {
		case a.PreemptedBy != "" && r.Intn(2) == 0:
			in.Held = append(in.Held, Held{Node: s.Incumbent, Requests: s.Requests, Constraints: s.Constraints, Priority: s.Priority, Leaving: r.Intn(4) > 0})
			s.Claimed = false
		case a.Node != "" && r.Intn(3) > 0:
			s.Incumbent, s.Claimed = a.Node, true
		}
		if r.Intn(3) == 0 {
			s.Wave = 0
		}
	}
	for len(in.Held) > 5 {
		in.Held = in.Held[1:]
	}
}

// TestPlannerPlansAsFromNothing changes a flock at random, and compares what the planner makes of each
// change with a plan of the whole.
func TestPlannerPlansAsFromNothing(t *testing.T) {
	preempted, open := 0, 0
	for seed := range int64(60) {
		r := rand.New(rand.NewSource(seed))
		in := crowd(r, 12, 25)
		p := NewPlanner(in)
		p.Plan()
		for round := range 12 {
			want := Plan(in)
			if got := p.Result(); !reflect.DeepEqual(got, want) {
				for i, a := range want.Assignments {
					if i < len(got.Assignments) && !reflect.DeepEqual(got.Assignments[i], a) {
						t.Fatalf("seed %d, round %d: got\n%+v, from nothing\n%+v", seed, round, got.Assignments[i], a)
					}
				}
				t.Fatalf("seed %d, round %d: got %d assignments, want %d", seed, round, len(got.Assignments), len(want.Assignments))
			}
			for _, a := range want.Assignments {
				if a.PreemptedBy != "" {
					preempted++
				} else if a.Node == "" {
					open++
				}
			}

			before := slices.Clone(in.Slots)
			var c Change
			if round%2 == 0 {
				carryOut(r, &in, want)
				for i := range in.Slots {
					in.Slots[i].Beside = !in.Slots[i].Claimed && r.Intn(4) == 0
				}
				for i := range in.Held {
					in.Held[i].Returns = in.Held[i].Leaving && r.Intn(2) == 0
				}
			}
			if r.Intn(2) == 0 {
				i := r.Intn(len(in.Nodes))
				n := crowdNode(r, in.Nodes[i].Name)
				if r.Intn(2) == 0 { // the most frequent change
					n = in.Nodes[i]
					n.Gone = !n.Gone
				}
				in.Nodes[i] = n
				c.Nodes = append(c.Nodes, n)
			}
			if r.Intn(10) == 0 {
				n := crowdNode(r, fmt.Sprint("new", round))
				in.Nodes = append(in.Nodes, n)
				c.Nodes = append(c.Nodes, n)
			}
			if r.Intn(10) == 0 {
				at := r.Intn(len(in.Nodes))
				if left := in.Nodes[at].Name; !slices.ContainsFunc(c.Nodes, func(n Node) bool { return n.Name == left }) {
					c.Left = append(c.Left, left)
					in.Nodes = slices.Delete(in.Nodes, at, at+1)
				}
			}
			if r.Intn(2) == 0 {
				at := r.Intn(len(in.Slots))
				c.Without = append(c.Without, in.Slots[at].Key)
				in.Slots = slices.Delete(in.Slots, at, at+1)
				before = slices.DeleteFunc(before, func(s Slot) bool { return s.Key == c.Without[0] })
			}
			if r.Intn(3) == 0 {
				more := crowd(r, 0, 1).Slots
				for i := range more {
					more[i].Key = fmt.Sprintf("more%d/%d", round, i)
				}
				in.Slots = append(in.Slots, more...)
			}
			for i, s := range in.Slots {
				if i >= len(before) || !reflect.DeepEqual(s, before[i]) {
					c.Slots = append(c.Slots, s)
				}
			}
			c.Held = map[string][]Held{"": in.Held}
			if len(in.Held) > 2 {
				c.Held = map[string][]Held{"": in.Held[:2], "more": in.Held[2:]}
			} else if r.Intn(2) == 0 {
				c.Held["more"] = nil
			} else {
				c.Held["more"], c.Held[""] = in.Held, nil
			}
			if r.Intn(6) == 0 {
				in.Namespaces = map[string]map[string]string{"a": {"team": in.Namespaces["b"]["team"]}, "b": {"team": in.Namespaces["a"]["team"]}, "c": {}}
				c.Namespaces = in.Namespaces
			}
			p.Update(c)
			if r.Intn(4) == 0 {
				p.Plan() // planning twice changes nothing
			}
			p.Plan()
		}
	}
	if preempted < 20 || open < 100 {
		t.Errorf("%d slots were preempted and %d found no node: the generator tests little", preempted, open)
	}
}

// TestPlannerTellsWhatChanges compares the assignments that Plan returns with the whole plan.
func TestPlannerTellsWhatChanges(t *testing.T) {
	in := flock(60, 1000, 3)
	settle(&in, Plan(in))
	p := NewPlanner(in)
	if got := p.Plan(); len(got) != 0 {
		t.Fatalf("%d slots are open in a settled flock, such as %+v", len(got), got[0])
	}
	gone := in.Nodes[5]
	gone.Gone = true
	p.Update(Change{Nodes: []Node{gone}})
	moved := p.Plan()
	all := p.Result()
	for _, a := range moved {
		if whole, _ := all.Find(a.Key); !reflect.DeepEqual(whole, a) {
			t.Errorf("got %+v, the whole plan has %+v", a, whole)
		}
	}
	for i := range in.Slots {
		a, _ := all.Find(in.Slots[i].Key)
		lost := in.Slots[i].Incumbent == gone.Name
		told := slices.ContainsFunc(moved, func(m Assignment) bool { return m.Key == a.Key })
		if lost != told || lost == a.Kept {
			t.Fatalf("%+v: lost %v, told %v", a, lost, told)
		}
	}
}
