package gate

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// without takes a rule out.
func without(t *testing.T, name string) {
	left := map[string]rule{
		"awake": awake, "calm": calm, "hold-down": heldDown, "planned": notPlanned, "own check": unanswered, "refused": notRefused, "majority": majority,
		"flaps count": heldDown, "misses": unanswered,
	}
	instead := map[string]rule{
		"flaps count": func(t *step, p *peer, at time.Time) bool {
			q := *p
			q.flaps = nil
			return heldDown(t, &q, at)
		},
		"misses": func(t *step, p *peer, at time.Time) bool {
			q := *p
			q.signs = false
			return unanswered(t, &q, at)
		},
	}
	before, quorum, many := rules, enough, tooMany
	t.Cleanup(func() { rules, enough, tooMany = before, quorum, many })
	if name == "witnesses" {
		enough = func(_, _ int) bool { return true }
		return
	}
	if name == "one at least" {
		tooMany = func(vanished, all int) bool { return vanished > all/5 }
		return
	}
	if left[name] == nil {
		t.Fatalf("no rule %q", name)
	}
	rules = slices.DeleteFunc(slices.Clone(rules), func(r rule) bool { return reflect.ValueOf(r).Pointer() == reflect.ValueOf(left[name]).Pointer() })
	if r := instead[name]; r != nil {
		rules = append(rules, r)
	}
}

// TestTraces lives the traces of the gate, and each again without the rule that makes it end well.
func TestTraces(t *testing.T) {
	for _, x := range []struct {
		name, rule string
		nodes      int
		live       func(f *flock)
		want       string // who holds whom for gone at the end
		without    string // the same when the rule is left out
	}{
		{"a dead node", "one at least", 3, func(f *flock) {
			f.dead["n2"] = true
			f.run(serf + HoldDown + 200*time.Millisecond)
		}, "n0>n2 n1>n2", ""},
		{"back before the hold-down has passed", "hold-down", 3, func(f *flock) {
			f.dead["n2"] = true
			f.run(serf + HoldDown - 200*time.Millisecond)
		}, "", "n0>n2 n1>n2"},
		{"membership alone says that a node failed", "own check", 2, func(f *flock) {
			f.tell("n0", Members{Failed: []string{"n1"}})
			f.run(time.Minute)
		}, "", "n0>n1"},
		{"one node alone does not reach another", "witnesses", 5, func(f *flock) {
			f.cut = func(a, b string) bool { return a+b == "n1n4" || a+b == "n4n1" }
			f.tell("n1", Members{Failed: []string{"n4"}})
			f.run(time.Minute)
		}, "", "n1>n4"},
		{"an agent that is away for four minutes, and its host answers", "refused", 2, func(f *flock) {
			f.refuses["n1"] = true
			f.run(4 * time.Minute)
		}, "", "n0>n1"},
		{"an agent that is away for longer", "", 3, func(f *flock) {
			f.refuses["n2"] = true
			f.run(RefusesFor + serf + 10*time.Second)
		}, "n0>n2 n1>n2", ""},
		{"an agent that is stopped before its machine", "", 3, func(f *flock) {
			f.refuses["n2"] = true
			f.tell("n0", Broken{"n2"})
			f.run(10 * time.Second)
			f.dead["n2"] = true
			f.run(20 * time.Second)
		}, "n0>n2 n1>n2", ""},
		{"an agent that is away, and one check in ten is lost", "misses", 3, func(f *flock) {
			f.refuses["n2"] = true
			f.run(20 * time.Second)
			for range 15 {
				f.lost = true
				f.run(3 * time.Second)
				f.lost = false
				f.run(12 * time.Second)
			}
		}, "", "n0>n2 n1>n2"},
		{"a node that is late itself", "awake", 2, func(f *flock) {
			f.lag = 2 * time.Second
			f.cut = func(_, _ string) bool { return true }
			f.run(time.Minute)
		}, "", "n0>n1"},
		{"a planned restart", "planned", 3, func(f *flock) {
			for _, n := range []string{"n0", "n1"} {
				f.tell(n, Planned{"n2", f.now.Add(time.Minute)})
			}
			f.dead["n2"] = true
			f.run(50 * time.Second)
		}, "", "n0>n2 n1>n2"},
		{"a planned restart that takes longer", "", 3, func(f *flock) {
			for _, n := range []string{"n0", "n1"} {
				f.tell(n, Planned{"n2", f.now.Add(time.Minute)})
			}
			f.dead["n2"] = true
			f.run(70 * time.Second)
		}, "n0>n2 n1>n2", ""},
		{"a storm", "calm", 9, func(f *flock) {
			f.dead["n7"], f.dead["n8"] = true, true
			f.run(serf + StormWithin - time.Second)
		}, "", "n0>n7 n0>n8 n1>n7 n1>n8 n2>n7 n2>n8 n3>n7 n3>n8 n4>n7 n4>n8 n5>n7 n5>n8 n6>n7 n6>n8"},
		{"after a storm", "", 4, func(f *flock) {
			f.dead["n2"], f.dead["n3"] = true, true
			f.run(serf + StormWithin + 12*time.Second)
		}, "n0>n2 n0>n3 n1>n2 n1>n3", ""},
		{"a storm that a commit releases", "", 4, func(f *flock) {
			f.dead["n2"], f.dead["n3"] = true, true
			f.run(serf + 5*time.Second)
			f.tell("n0", Release{})
			f.run(10 * time.Second)
		}, "n0>n2 n0>n3", ""},
		{"a split 1 against 2", "majority", 3, func(f *flock) {
			f.cut = func(a, b string) bool { return (a == "n0") != (b == "n0") }
			f.run(5 * time.Minute)
		}, "n1>n0 n2>n0", "n0>n1 n0>n2 n1>n0 n2>n0"},
		{"a split 2 against 2", "majority", 4, func(f *flock) {
			f.cut = func(a, b string) bool { return (a < "n2") != (b < "n2") }
			f.run(5 * time.Minute)
		}, "n0>n2 n0>n3 n1>n2 n1>n3", "n0>n2 n0>n3 n1>n2 n1>n3 n2>n0 n2>n1 n3>n0 n3>n1"},
		{"a split that heals", "", 3, func(f *flock) {
			f.cut = func(a, b string) bool { return (a == "n0") != (b == "n0") }
			f.run(time.Minute)
			f.cut = func(_, _ string) bool { return false }
			f.run(time.Second)
		}, "", ""},
		{"a node that comes and goes", "flaps count", 3, func(f *flock) {
			for range 3 {
				f.dead["n2"] = true
				f.run(serf + time.Second)
				f.dead["n2"] = false
				f.run(10 * time.Second)
			}
			f.dead["n2"] = true
			f.run(serf + HoldDown<<3 - time.Second)
		}, "", "n0>n2 n1>n2"},
		{"a node that comes and goes, at last", "", 3, func(f *flock) {
			for range 3 {
				f.dead["n2"] = true
				f.run(serf + time.Second)
				f.dead["n2"] = false
				f.run(10 * time.Second)
			}
			f.dead["n2"] = true
			f.run(serf + HoldDown<<3 + time.Second)
		}, "n0>n2 n1>n2", ""},
		{"a node that reaches no witness either", "", 3, func(f *flock) {
			f.cut = func(a, b string) bool { return a == "n0" || b == "n0" }
			f.tell("n0", Members{Failed: []string{"n2"}})
			f.run(serf - 500*time.Millisecond)
		}, "", ""},
		{"a witness that has just died", "", 5, func(f *flock) {
			w := (&step{State: f.gates["n0"]}).byHash("n4")[0]
			f.dead["n4"] = true
			f.run(serf + HoldDown - 2*time.Second)
			f.refuses[w] = true
			f.run(20 * time.Second)
			f.refuses[w] = false
			f.run(20 * time.Second)
		}, "n0>n4 n1>n4 n2>n4 n3>n4", ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			f := newFlock(t, x.nodes)
			x.live(f)
			if got := f.holds(); got != x.want {
				t.Errorf("got %q, want %q", got, x.want)
			}
		})
		if x.rule == "" {
			continue
		}
		t.Run(x.name+", without "+x.rule, func(t *testing.T) {
			without(t, x.rule)
			f := newFlock(t, x.nodes)
			x.live(f)
			if got := f.holds(); got != x.without {
				t.Errorf("got %q, want %q", got, x.without)
			}
		})
	}
}

// TestEndpoints: they leave with membership's word, not before and not later, and stay while the host answers.
func TestEndpoints(t *testing.T) {
	f := newFlock(t, 3)
	at := [2]string{"n0", "n2"}
	f.dead["n2"] = true
	f.run(serf - 200*time.Millisecond)
	if f.off[at] {
		t.Error("left before membership said anything")
	}
	f.run(400 * time.Millisecond)
	if !f.off[at] || f.holds() != "" {
		t.Error("did not leave when membership said failed")
	}
	f.dead["n2"] = false
	f.run(time.Second)
	if f.off[at] {
		t.Error("did not return")
	}

	f.refuses["n2"] = true
	f.tell("n0", Broken{"n2"})
	for range 60 {
		f.run(time.Second)
		if f.off[at] {
			t.Fatal("left although the host answers")
		}
	}
}

// TestVoid: a node that was gone counts again when it has handed over a document itself, and membership
// agrees; neither alone is enough.
func TestVoid(t *testing.T) {
	f := newFlock(t, 3)
	f.dead["n2"] = true
	f.run(20 * time.Second)
	step := func(e Event) []Effect {
		s, effects := Step(*f.gates["n0"], e, f.now)
		f.gates["n0"] = &s
		return effects
	}
	gone := func(want bool, when string) {
		t.Helper()
		if got := f.gates["n0"].View("n2", f.now); got.Gone != want || got.EndpointsOff != want {
			t.Errorf("%s: %+v", when, got)
		}
	}
	gone(true, "dead")
	if got := step(HandedOver{"n2"}); len(got) != 1 || reflect.TypeOf(got[0]) != reflect.TypeFor[Gone]() {
		t.Errorf("a document of a node that failed: %v; want it void again", got)
	}
	step(Members{Alive: []string{"n2"}})
	gone(true, "alive by membership")
	step(Checked{"n2", Answered})
	gone(true, "answers a check")
	if got := step(HandedOver{"n2"}); !reflect.DeepEqual(got, []Effect{Back{"n2"}, EndpointsOn{"n2"}}) {
		t.Errorf("handed over: %v", got)
	}
	gone(false, "handed over its document")
}

func TestWitness(t *testing.T) {
	s := NewState("n0", nil, start)
	var got []Effect
	step := func(e Event, after time.Duration) []Effect {
		s, got = Step(s, e, start.Add(after))
		return got
	}
	step(Enrolled{[]string{"n0", "n1", "n2", "n3"}}, 0)
	step(Members{Alive: []string{"n1", "n2", "n3"}}, 0)
	for _, x := range []struct {
		name  string
		event Event
		after time.Duration
		want  []Effect
	}{
		{"asked", Asked{"n1", "n3"}, time.Second, []Effect{Check{"n3"}}},
		{"asked by another meanwhile", Asked{"n2", "n3"}, time.Second, nil},
		{"the check's result", Checked{"n3", Refused}, 2 * time.Second, []Effect{Reply{"n1", "n3", Refused}, Reply{"n2", "n3", Refused}}},
		{"asked again at once", Asked{"n1", "n3"}, 3 * time.Second, []Effect{Reply{"n1", "n3", Refused}}},
		{"asked again later", Asked{"n1", "n3"}, 5 * time.Second, []Effect{Check{"n3"}}},
		{"no result at all", Tick{}, 10 * time.Second, []Effect{Reply{"n1", "n3", NoAnswer}}},
		{"about nobody", Asked{"n1", "n9"}, 10 * time.Second, []Effect{Reply{"n1", "n9", Unknown}}},
		{"by nobody", Asked{"n9", "n3"}, 10 * time.Second, []Effect{Reply{"n9", "n3", Unknown}}},
	} {
		if got := step(x.event, x.after); !reflect.DeepEqual(got, x.want) {
			t.Errorf("%s: got %v, want %v", x.name, got, x.want)
		}
	}
	if v := s.View("n3", start.Add(10*time.Second)); v.Gone || v.EndpointsOff || !v.Stable {
		t.Errorf("a witness believes %+v for having been asked", v)
	}
}

// TestRestart: what a node remembers counts as if no time had passed without it; one that forgot
// takes all enrolled for stable members.
func TestRestart(t *testing.T) {
	f := newFlock(t, 5)
	f.dead["n4"] = true
	f.run(7 * time.Minute)
	saved := f.gates["n0"].Durable(f.now)
	data, err := json.Marshal(saved)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"saved":"2026-01-02T03:12:05Z","seen":{"n1":"2026-01-02T03:12:05Z","n2":"2026-01-02T03:12:05Z","n3":"2026-01-02T03:12:05Z","n4":"2026-01-02T03:05:11Z"},"gone":["n4"]}`
	if string(data) != want {
		t.Errorf("got  %s\nwant %s", data, want)
	}
	names := append([]string{"new"}, f.names...)
	slices.Sort(names)
	views := func(left *Durable, after time.Duration) string {
		s := NewState("n0", left, f.now.Add(time.Hour))
		s, effects := Step(s, Enrolled{names}, f.now.Add(time.Hour))
		if left != nil && !reflect.DeepEqual(effects[0], Gone{"n4", "it was held for gone before this agent started"}) {
			t.Errorf("after a restart: %v; want n4 gone", effects)
		}
		s, _ = Step(s, Members{Alive: []string{"n1"}}, f.now.Add(time.Hour+after))
		var out []string
		for _, name := range names {
			v := s.View(name, f.now.Add(time.Hour+after))
			out = append(out, fmt.Sprintf("%s:%v/%v", name, v.Stable, v.Gone))
		}
		return strings.Join(out, " ")
	}
	var left Durable
	if err := json.Unmarshal(data, &left); err != nil {
		t.Fatal(err)
	}
	if got, want := views(&left, time.Second), "n0:true/false n1:true/false n2:true/false n3:true/false n4:true/true new:false/false"; got != want {
		t.Errorf("remembered: got %s, want %s", got, want)
	}
	if got, want := views(&left, 4*time.Minute), "n0:true/false n1:true/false n2:true/false n3:true/false n4:false/true new:false/false"; got != want {
		t.Errorf("some minutes later: got %s, want %s", got, want)
	}
	if got, want := views(nil, time.Second), "n0:true/false n1:true/false n2:true/false n3:true/false n4:true/false new:true/false"; got != want {
		t.Errorf("forgot: got %s, want %s", got, want)
	}
}

// TestNeverHeardOf: an enrolled node that membership never speaks of has failed.
func TestNeverHeardOf(t *testing.T) {
	f := newFlock(t, 4)
	f.dead["new"] = true
	f.names = append(f.names, "new")
	s := NewState("new", nil, f.now)
	f.gates["new"] = &s
	for _, n := range f.names {
		f.tell(n, Enrolled{f.names})
	}
	f.run(JoinFor + HoldDown + time.Second)
	if got, want := f.holds(), "n0>new n1>new n2>new n3>new"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if why := f.gates["n0"].Frozen(f.now); why != "" {
		t.Errorf("frozen: %s", why)
	}
}

// TestQuietFlock: nothing is kept of nodes that are alive, and nothing wakes for them.
func TestQuietFlock(t *testing.T) {
	f := newFlock(t, 5)
	f.dead["n4"] = true
	f.run(7 * time.Second)
	f.dead["n4"] = false
	f.run(11 * time.Minute)
	f.tell("n0", Tick{})
	if s := f.gates["n0"]; len(s.peers) != 0 || !s.Wake().IsZero() {
		t.Errorf("%d entries, wake at %v", len(s.peers), s.Wake())
	}
}
