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

func app(name string) map[string]string { return map[string]string{"app": name} }

func termOf(app, key string) corev1.PodAffinityTerm {
	return corev1.PodAffinityTerm{TopologyKey: key, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}}
}

func near(terms ...corev1.PodAffinityTerm) *corev1.PodAffinity {
	return &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms}
}

func apart(terms ...corev1.PodAffinityTerm) *corev1.PodAntiAffinity {
	return &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms}
}

// zoned is two nodes in each of three zones.
func zoned() (out []Node) {
	for i := range 6 {
		n := node(fmt.Sprint("n", i), 4000, 8<<30)
		n.Labels = map[string]string{"host": n.Name, "zone": fmt.Sprint("z", i/2)}
		out = append(out, n)
	}
	return out
}

func zoneOf(node string) string {
	if node == "" {
		return ""
	}
	return fmt.Sprint("z", int(node[1]-'0')/2)
}

func replicas(in *Input, name string, n int, c *Constraints) {
	for i := range n {
		in.Slots = append(in.Slots, Slot{Key: fmt.Sprintf("%s/%d", name, i), Constraints: c, Wave: 1, Requests: Resources{MilliCPU: 100, Pods: 1}})
	}
}

// zones counts a workload's slots by zone; "" for those without a node.
func zones(r Result, name string, n int) map[string]int {
	out := map[string]int{}
	for i := range n {
		a, _ := r.Find(fmt.Sprintf("%s/%d", name, i))
		out[zoneOf(a.Node)]++
	}
	return out
}

func TestPodAffinityWaitsForThePodItNeeds(t *testing.T) {
	in := Input{Nodes: zoned()}
	// The follower is planned first, by its priority, and finds nobody.
	replicas(&in, "web", 3, &Constraints{Labels: app("web"), Affinity: near(termOf("db", "zone"))})
	if a, _ := Plan(in).Find("web/0"); a.Reason != "0/6 nodes are available: 6 node(s) didn't match pod affinity rules." {
		t.Errorf("got %+v", a)
	}
	for i := range in.Slots {
		in.Slots[i].Priority = 10
	}
	replicas(&in, "db", 1, &Constraints{Labels: app("db")})
	r := Plan(in)
	db, _ := r.Find("db/0")
	if got := zones(r, "web", 3); got[zoneOf(db.Node)] != 3 {
		t.Errorf("db is in %s, web in %v", zoneOf(db.Node), got)
	}
}

func TestPodAffinityToItself(t *testing.T) {
	in := Input{Nodes: zoned()}
	replicas(&in, "web", 8, &Constraints{Labels: app("web"), Affinity: near(termOf("web", "zone"))})
	if got := zones(Plan(in), "web", 8); len(got) != 1 || got[""] > 0 {
		t.Errorf("a set that wants to be together is in %v", got)
	}
}

func TestPodAntiAffinityIsSymmetric(t *testing.T) {
	in := Input{Nodes: zoned()}
	replicas(&in, "db", 4, &Constraints{Labels: app("db"), AntiAffinity: apart(termOf("db", "zone"), termOf("web", "host"))})
	r := Plan(in)
	if got := zones(r, "db", 4); !reflect.DeepEqual(got, map[string]int{"z0": 1, "z1": 1, "z2": 1, "": 1}) {
		t.Errorf("got %v", got)
	}
	for i := range 4 {
		if a, _ := r.Find(fmt.Sprint("db/", i)); a.Node == "" && a.Reason != "0/6 nodes are available: 6 node(s) didn't match pod anti-affinity rules." {
			t.Errorf("got %q", a.Reason)
		}
	}
	settle(&in, r)
	replicas(&in, "web", 20, &Constraints{Labels: app("web")}) // has no rule of its own
	r = Plan(in)
	for i := range 20 {
		web, _ := r.Find(fmt.Sprint("web/", i))
		for j := range 4 {
			if db, _ := r.Find(fmt.Sprint("db/", j)); web.Node == "" || db.Node == web.Node {
				t.Errorf("%+v beside %+v", web, db)
			}
		}
	}
	for _, v := range planned(in).Explain("web/0") {
		db := slices.ContainsFunc(r.Assignments, func(a Assignment) bool { return a.Node == v.Node && a.Key[:2] == "db" })
		if db != slices.Equal(v.Reasons, []string{"node(s) didn't satisfy existing pods anti-affinity rules"}) {
			t.Errorf("%+v, runs db: %v", v, db)
		}
	}
}

func planned(in Input) *Planner {
	p := NewPlanner(in)
	p.Plan()
	return p
}

func TestSpread(t *testing.T) {
	spread := func(when corev1.UnsatisfiableConstraintAction, minDomains int32) *Constraints {
		return &Constraints{Labels: app("web"), Spread: []corev1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: when, LabelSelector: &metav1.LabelSelector{MatchLabels: app("web")}, MinDomains: &minDomains,
		}}}
	}
	for _, c := range []struct {
		name       string
		when       corev1.UnsatisfiableConstraintAction
		minDomains int32
		change     func(*Input)
		want       map[string]int
	}{
		{"even", corev1.DoNotSchedule, 1, nil, map[string]int{"z0": 3, "z1": 3, "z2": 3}},
		{"even when soft", corev1.ScheduleAnyway, 1, nil, map[string]int{"z0": 3, "z1": 3, "z2": 3}},
		{"too few domains", corev1.DoNotSchedule, 4, nil, map[string]int{"z0": 1, "z1": 1, "z2": 1, "": 6}},
		{"a zone that is cordoned counts", corev1.DoNotSchedule, 1, func(in *Input) {
			in.Nodes[0].Unschedulable, in.Nodes[1].Unschedulable = true, true
		}, map[string]int{"z1": 1, "z2": 1, "": 7}},
		{"soft goes on without it", corev1.ScheduleAnyway, 1, func(in *Input) {
			in.Nodes[0].Unschedulable, in.Nodes[1].Unschedulable = true, true
		}, map[string]int{"z1": 5, "z2": 4}},
		{"a zone that is gone does not count", corev1.DoNotSchedule, 1, func(in *Input) {
			in.Nodes[0].Gone, in.Nodes[1].Gone = true, true
		}, map[string]int{"z1": 5, "z2": 4}},
		{"a terminating pod does not count", corev1.DoNotSchedule, 1, func(in *Input) {
			in.Held = append(in.Held, Held{Node: "n0", Constraints: in.Slots[0].Constraints, Leaving: true}, Held{Node: "n0", Constraints: in.Slots[0].Constraints, Leaving: true})
		}, map[string]int{"z0": 3, "z1": 3, "z2": 3}},
		{"an older pod does", corev1.DoNotSchedule, 1, func(in *Input) {
			in.Held = append(in.Held, Held{Node: "n0", Constraints: in.Slots[0].Constraints}, Held{Node: "n0", Constraints: in.Slots[0].Constraints})
		}, map[string]int{"z0": 2, "z1": 4, "z2": 3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := Input{Nodes: zoned()}
			replicas(&in, "web", 9, spread(c.when, c.minDomains))
			if c.change != nil {
				c.change(&in)
			}
			got := zones(Plan(in), "web", 9)
			// Which of two zones gets the odd one is up to the hash.
			if c.want[""] == 0 && got["z1"]+got["z2"] == c.want["z1"]+c.want["z2"] && max(got["z1"], got["z2"]) == max(c.want["z1"], c.want["z2"]) {
				got["z1"], got["z2"] = c.want["z1"], c.want["z2"]
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestPreferredAffinity(t *testing.T) {
	in := Input{Nodes: zoned()}
	in.Slots = []Slot{{Key: "db/0", Constraints: &Constraints{Labels: app("db")}, Incumbent: "n3", Claimed: true}}
	weighted := func(weight int32) []corev1.WeightedPodAffinityTerm {
		return []corev1.WeightedPodAffinityTerm{{Weight: weight, PodAffinityTerm: termOf("db", "zone")}}
	}
	replicas(&in, "web", 3, &Constraints{Labels: app("web"), Affinity: &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: weighted(10)}})
	replicas(&in, "batch", 3, &Constraints{Labels: app("batch"), AntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: weighted(10)}})
	r := Plan(in)
	if got := zones(r, "web", 3); got["z1"] != 3 {
		t.Errorf("pods that like db's zone are in %v", got)
	}
	if got := zones(r, "batch", 3); got["z1"] != 0 {
		t.Errorf("pods that avoid db's zone are in %v", got)
	}
	// The pods that run have preferences about a new one too.
	settle(&in, r)
	in.Slots = slices.DeleteFunc(in.Slots, func(s Slot) bool { return s.Key[:2] == "db" || s.Key[0] == 'b' })
	replicas(&in, "db", 1, &Constraints{Labels: app("db")})
	if got := zones(Plan(in), "db", 1); got["z1"] != 1 {
		t.Errorf("db is in %v, and those who like it in z1", got)
	}
}

func TestHostPorts(t *testing.T) {
	in := Input{Nodes: zoned()}
	spec := corev1.PodSpec{Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{ContainerPort: 8080, HostPort: 80}}}}}
	replicas(&in, "web", 7, ConstraintsOf(&metav1.ObjectMeta{}, &spec))
	used := map[string]bool{}
	for _, a := range Plan(in).Assignments {
		if a.Node == "" && a.Reason != "0/6 nodes are available: 6 node(s) didn't have free ports for the requested pod ports." {
			t.Errorf("got %q", a.Reason)
		}
		if used[a.Node] {
			t.Errorf("two pods have the port on %q", a.Node)
		}
		used[a.Node] = true
	}
	always := corev1.ContainerRestartPolicyAlways
	spec = corev1.PodSpec{
		HostNetwork:    true,
		InitContainers: []corev1.Container{{Ports: []corev1.ContainerPort{{ContainerPort: 1}}}, {RestartPolicy: &always, Ports: []corev1.ContainerPort{{ContainerPort: 2, Protocol: corev1.ProtocolUDP}}}},
		Containers:     []corev1.Container{{Ports: []corev1.ContainerPort{{ContainerPort: 3, HostIP: "10.0.0.1"}}}},
	}
	want := []HostPort{{"0.0.0.0", corev1.ProtocolUDP, 2}, {"10.0.0.1", corev1.ProtocolTCP, 3}}
	if got := ConstraintsOf(&metav1.ObjectMeta{}, &spec).HostPorts; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestPreemption(t *testing.T) {
	slot := func(key string, cpu int64, priority int32, node string) Slot {
		return Slot{Key: key, Requests: Resources{MilliCPU: cpu, Pods: 1}, Priority: priority, Incumbent: node, Claimed: node != ""}
	}
	never := &Constraints{NeverPreempts: true}
	for _, c := range []struct {
		name  string
		slots []Slot
		held  []Held
		node  string   // of the slot "high"
		waits string   // for room on it
		ends  []string // slots that are preempted
	}{
		{"room elsewhere", []Slot{slot("a", 1000, 0, "n0"), slot("high", 1000, 5, "")}, nil, "n1", "", nil},
		{"the lower priority ends", []Slot{slot("a", 1000, 2, "n0"), slot("b", 1000, 1, "n1"), slot("high", 600, 5, "")}, nil, "", "n1", []string{"b"}},
		{"equals stay", []Slot{slot("a", 1000, 5, "n0"), slot("b", 1000, 5, "n1"), slot("high", 600, 5, "")}, nil, "", "", nil},
		{"as few as possible", []Slot{slot("a", 300, 0, "n0"), slot("b", 300, 0, "n0"), slot("c", 300, 0, "n0"), slot("d", 800, 9, "n1"), slot("high", 400, 5, "")}, nil, "", "n0", []string{"c"}},
		{"the more important is put back first", []Slot{slot("a", 500, 1, "n0"), slot("b", 500, 2, "n0"), slot("d", 800, 9, "n1"), slot("high", 400, 5, "")}, nil, "", "n0", []string{"a"}},
		{"two of low priority rather than one of higher", []Slot{slot("a", 500, 1, "n0"), slot("b", 500, 1, "n0"), slot("c", 1000, 2, "n1"), slot("high", 1000, 5, "")}, nil, "", "n0", []string{"a", "b"}},
		{"what is leaving is waited for", []Slot{slot("a", 1000, 0, "n1"), slot("high", 1000, 5, "")}, []Held{{Node: "n0", Requests: Resources{MilliCPU: 1000}, Leaving: true}}, "", "n0", nil},
		{"what does not run yet yields at no cost", []Slot{slot("a", 1000, 0, "n1"), {Key: "b", Requests: Resources{MilliCPU: 1000}, Wave: 1}, {Key: "high", Requests: Resources{MilliCPU: 1000}, Priority: 5, Wave: 2}}, nil, "n0", "", nil},
		{"preemptionPolicy Never", []Slot{slot("a", 1000, 0, "n0"), slot("b", 1000, 0, "n1"), {Key: "high", Requests: Resources{MilliCPU: 600}, Priority: 5, Constraints: never}}, nil, "", "", nil},
		{"its own node", []Slot{slot("a", 1000, 1, "n0"), slot("b", 1000, 1, "n1"), {Key: "high", Requests: Resources{MilliCPU: 600}, Priority: 5, Node: "n0"}}, nil, "", "n0", []string{"a"}},
		{"too large for any node", []Slot{slot("a", 1000, 0, "n0"), slot("high", 2000, 5, "")}, nil, "", "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := Input{Nodes: []Node{node("n0", 1000, 1<<30), node("n1", 1000, 1<<30)}, Slots: c.slots, Held: c.held}
			r := Plan(in)
			high, _ := r.Find("high")
			if high.Node != c.node || high.Nominated != c.waits {
				t.Errorf("got %+v", high)
			}
			var ends []string
			for _, a := range r.Assignments {
				if a.PreemptedBy != "" {
					ends = append(ends, a.Key)
					if a.PreemptedBy != "high" || a.Node != "" || a.Reason != "preempted by high" {
						t.Errorf("got %+v", a)
					}
				}
			}
			if !slices.Equal(ends, c.ends) {
				t.Errorf("preempted %v, want %v", ends, c.ends)
			}
			// Carried out, it comes to rest: what was preempted ends, and what had no node has one.
			for step, leaving := range []bool{true, false} {
				in.Held = nil
				for i := range in.Slots {
					s := &in.Slots[i]
					if slices.Contains(c.ends, s.Key) {
						s.Claimed = false
						if leaving {
							in.Held = append(in.Held, Held{Node: s.Incumbent, Requests: s.Requests, Priority: s.Priority, Leaving: true})
						}
					}
				}
				r = Plan(in)
				if again := slices.IndexFunc(r.Assignments, func(a Assignment) bool { return a.PreemptedBy != "" }); again >= 0 && len(c.ends) > 0 {
					t.Errorf("step %d: preempted once more: %+v", step, r.Assignments[again])
				}
			}
			if high, _ = r.Find("high"); len(c.ends) > 0 && high.Node != c.waits {
				t.Errorf("in the end: %+v", high)
			}
		})
	}
}

// TestPodRulesDoNotDependOnOrder shuffles flocks with all kinds of rules.
func TestPodRulesDoNotDependOnOrder(t *testing.T) {
	for seed := range int64(20) {
		r := rand.New(rand.NewSource(seed))
		in := crowd(r, 12, 20)
		carryOut(r, &in, Plan(in))
		want := Plan(in)
		for range 3 {
			r.Shuffle(len(in.Nodes), func(i, j int) { in.Nodes[i], in.Nodes[j] = in.Nodes[j], in.Nodes[i] })
			r.Shuffle(len(in.Slots), func(i, j int) { in.Slots[i], in.Slots[j] = in.Slots[j], in.Slots[i] })
			r.Shuffle(len(in.Held), func(i, j int) { in.Held[i], in.Held[j] = in.Held[j], in.Held[i] })
			if !reflect.DeepEqual(Plan(in), want) {
				t.Fatalf("seed %d: the plan depends on the order of its input", seed)
			}
		}
	}
}

// TestPodRulesDoNotDependOnProgress carries plans with affinity and hard spreading out in part: the
// target of what is still open must not change.
func TestPodRulesDoNotDependOnProgress(t *testing.T) {
	for seed := range int64(20) {
		r := rand.New(rand.NewSource(seed))
		in := crowd(r, 12, 20)
		for i := range in.Slots {
			in.Slots[i].Priority = 0
		}
		want := Plan(in)
		for _, share := range []float64{0.2, 0.5, 0.8} {
			part := in
			part.Slots = slices.Clone(in.Slots)
			for i := range part.Slots {
				if a, _ := want.Find(part.Slots[i].Key); a.Node != "" && r.Float64() < share {
					part.Slots[i].Incumbent, part.Slots[i].Claimed = a.Node, true
				}
			}
			for i, a := range Plan(part).Assignments {
				if a.Node != want.Assignments[i].Node {
					t.Fatalf("seed %d, %.0f %% claimed: %s moved from %q to %q", seed, 100*share, a.Key, want.Assignments[i].Node, a.Node)
				}
			}
		}
	}
}

// TestNothingJoinsWhatRunsElsewhereThanPlanned claims slots anywhere, as nodes with another view of the
// flock may have: what is still open heeds where they are.
func TestNothingJoinsWhatRunsElsewhereThanPlanned(t *testing.T) {
	placed := 0
	for seed := range int64(30) {
		r := rand.New(rand.NewSource(seed))
		in := crowd(r, 12, 20)
		for i := range in.Slots {
			if r.Intn(2) == 0 {
				in.Slots[i].Incumbent, in.Slots[i].Claimed = fmt.Sprint("n", r.Intn(12)), true
			}
		}
		p := planned(in)
		for _, a := range p.Result().Assignments {
			if a.Node == "" || a.Kept {
				continue
			}
			placed++
			s, n := &p.slots[p.byKey[a.Key]], p.byName[a.Node]
			p.pull(p.byKey[a.Key])
			why := s.kind.blocked(n)
			if !p.portsFree(s.kind, n) || why == reasonAntiAffinity || why == reasonShunned {
				t.Fatalf("seed %d: %s is planned on %s: %q", seed, a.Key, a.Node, why)
			}
			p.put(p.byKey[a.Key], n)
		}
	}
	if placed < 200 {
		t.Errorf("%d slots were placed: the generator tests little", placed)
	}
}
