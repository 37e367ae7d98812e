package reconcile

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// asked is a node of two that has run for a while, and what it is asked for.
func asked(t *testing.T, without rule) (w *world, claim Ask) {
	t.Helper()
	w = newFlock(t, 1, 2).worlds[0]
	w.in.without = without
	w.push(Object{Object: deployment("a", 2, 1, 1)})
	w.in.Accepted["shop"] = Commit{ID: "c1", Level: 1}
	w.in.Documents = []Document{{Node: "n1", Accepted: w.in.Accepted}}
	w.state, _ = Reply(w.state, w.input(), Ask{})
	w.tick(startsFor)
	return w, Ask{Kind: AskClaim, To: "n0", From: "n1", Boot: 7, Slot: Slot{Workload: "uid-web"}, Revision: "a100m00000", Epoch: 1}
}

func (w *world) reply(a Ask) Answer {
	var out Answer
	w.state, out = Reply(w.state, w.input(), a)
	return out
}

func TestRegistrarSaysYesOnce(t *testing.T) {
	other := func(a Ask) Ask { a.From = "n2"; return a }
	for _, c := range []struct {
		name    string
		without rule
		want    bool // a second yes
	}{{"as it is", noRule, false}, {"without the rule", ruleOnce, true}} {
		t.Run(c.name, func(t *testing.T) {
			w, a := asked(t, c.without)
			if got := w.reply(a); !got.Yes {
				t.Fatalf("got %+v", got)
			}
			if got := w.reply(a); !got.Yes {
				t.Errorf("the same question again: %+v", got)
			}
			if got := w.reply(other(a)); got.Yes != c.want {
				t.Errorf("another node: %+v", got)
			}
			w.tick(claimHolds)
			if got := w.reply(other(a)); got.Yes != c.want || !c.want && got.Epoch != 1 {
				t.Errorf("another node, later, with an epoch that was given: %+v", got)
			}
			b := other(a)
			b.Epoch = 2
			if got := w.reply(b); !got.Yes {
				t.Errorf("another node, later, with the next epoch: %+v", got)
			}
		})
	}
}

func TestRegistrarReadsItsDocuments(t *testing.T) {
	w, a := asked(t, noRule)
	runs := Instance{Slot: a.Slot, Revision: a.Revision, Epoch: 3, Node: "n1", UID: "x", Name: "x"}
	w.in.Documents = []Document{{Node: "n1", Accepted: w.in.Accepted, Instances: []Instance{runs}}}
	b := a
	b.From, b.Epoch = "n2", 4
	if got := w.reply(b); got.Yes {
		t.Errorf("beside a live pod: %+v", got)
	}
	b = a
	if got := w.reply(b); got.Yes || got.Epoch != 3 {
		t.Errorf("with an epoch that is over: %+v", got)
	}
}

// TestRegistrarThatHasJustStarted would not know what it said before.
func TestRegistrarThatHasJustStarted(t *testing.T) {
	for without, want := range map[rule]bool{noRule: false, ruleYoung: true} {
		w, a := asked(t, without)
		w.reply(a)
		w.in.Boot++
		a.From = "n2"
		if got := w.reply(a); got.Yes != want {
			t.Errorf("without rule %d: %+v", without, got)
		}
	}
}

func TestOneTokenAtATime(t *testing.T) {
	for without, want := range map[rule]bool{noRule: false, ruleToken: true} {
		w, _ := asked(t, without)
		d := Document{Node: "n1", Accepted: w.in.Accepted}
		for i := range int32(2) {
			d.Instances = append(d.Instances, Instance{
				Slot: Slot{Workload: "uid-web", Ordinal: i}, Revision: "a100m00000", Epoch: 1, Node: "n1", UID: types.UID([]string{"x", "y"}[i]), Ready: true, ReadySince: w.now.Add(-time.Hour),
			})
		}
		w.in.Documents = []Document{d}
		a := Ask{Kind: AskToken, To: "n0", From: "n1", Boot: 7, Slot: d.Instances[0].Slot, UID: d.Instances[0].UID, Level: 1}
		if got := w.reply(a); !got.Yes {
			t.Fatalf("got %+v", got)
		}
		b := a
		b.Slot, b.UID = d.Instances[1].Slot, d.Instances[1].UID
		if got := w.reply(b); got.Yes != want {
			t.Errorf("without rule %d, before the first has changed: %+v", without, got)
		}
		d.Seq, d.Instances = 1, d.Instances[1:]
		w.in.Documents = []Document{d}
		if got := w.reply(b); got.Yes != want {
			t.Errorf("without rule %d, while the first is down: %+v", without, got)
		}
	}
}

// TestATokenCountsPodsInSight is a registrar whose agent has just started, and that has an old document of a node
// which the others hold for gone: by it, a slot that stops first now has a ready pod still.
func TestATokenCountsPodsInSight(t *testing.T) {
	for without, want := range map[rule]bool{noRule: false, ruleSight: true} {
		w, _ := asked(t, without)
		w.in.Nodes = append(w.in.Nodes, Node{Node: testNode("n2", "4", "8Gi"), Failed: true})
		pod := func(ordinal int32, node string, epoch int64, uid types.UID) Instance {
			return Instance{
				Slot: Slot{Workload: "uid-web", Ordinal: ordinal}, Revision: "a100m00000", Epoch: epoch, Node: node, UID: uid, Ready: true, ReadySince: w.now.Add(-time.Hour),
			}
		}
		stops := pod(0, "n1", 2, "y")
		stops.Terminating, stops.Ready = true, false
		w.in.Documents = []Document{
			{Node: "n1", Accepted: w.in.Accepted, Instances: []Instance{stops, pod(1, "n1", 1, "z")}},
			{Node: "n2", Accepted: w.in.Accepted, Instances: []Instance{pod(0, "n2", 1, "x")}},
		}
		if got := w.reply(Ask{Kind: AskToken, To: "n0", From: "n1", Boot: 7, Slot: Slot{Workload: "uid-web", Ordinal: 1}, UID: "z", Level: 1}); got.Yes != want {
			t.Errorf("without rule %d: %+v", without, got)
		}
	}
}

// TestAnAnswerIsOverBeforeItsPromise asks the same again and again, as a node does that waits for something
// else meanwhile: while it may act on a yes, nobody else gets one.
func TestAnAnswerIsOverBeforeItsPromise(t *testing.T) {
	for _, kind := range []AskKind{AskClaim, AskToken} {
		for without, want := range map[rule]bool{noRule: false, ruleAgain: true} {
			w, a := asked(t, without)
			if kind == AskToken {
				runs := Instance{Slot: a.Slot, Revision: a.Revision, Epoch: 1, Node: "n1", UID: "x", Ready: true, ReadySince: w.now}
				next := runs
				next.Slot.Ordinal, next.UID = 1, "y"
				w.in.Documents = []Document{{Node: "n1", Accepted: w.in.Accepted, Instances: []Instance{runs, next}}}
				a = Ask{Kind: kind, To: "n0", From: "n1", Boot: 7, Slot: runs.Slot, UID: "x", Level: 1}
			}
			b := a
			b.From = "n2"
			if kind == AskToken {
				b.Slot.Ordinal, b.UID = 1, "y"
			} else {
				b.Epoch = 2
			}
			var until time.Time
			both, other := false, false
			for range 100 {
				if !until.IsZero() && w.reply(b).Yes {
					other = true
					both = both || w.now.Before(until)
				}
				if w.reply(a).Yes {
					until = w.now.Add(2 * AnswerHolds) // by a clock of half the speed
				}
				w.tick(100 * time.Millisecond)
			}
			if both != want {
				t.Errorf("%s, without rule %d: two may act at once: %v", kind, without, both)
			}
			if kind == AskToken && without == noRule && !other {
				t.Error("who never uses its token keeps it from the others")
			}
		}
	}
}

// TestTurns: the second best node waits from when it first saw the slot open, and not for one that declined.
func TestTurns(t *testing.T) {
	for _, c := range []struct {
		name    string
		after   time.Duration
		decline bool
		without rule
		waits   bool // for n1
	}{
		{"at once", 0, false, noRule, true},
		{"at once, without ranks", 0, false, ruleRank, false},
		{"in turn", rankDelay, false, noRule, false},
		{"in turn, when each plan begins the wait again", rankDelay, false, ruleOpen, true},
		{"the first declined", 0, true, noRule, false},
		{"the first declined, and is waited for", 0, true, ruleDecline, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, _ := asked(t, c.without)
			w.push(Object{Object: deployment("a", 8, 1, 1)})
			d := Document{Node: "n1", Accepted: w.in.Accepted}
			for i := range int32(8) {
				if c.decline {
					d.Declines = append(d.Declines, Decline{Slot: Slot{Workload: "uid-web", Ordinal: i}, Revision: "a100m00000", At: w.now})
				}
			}
			w.in.Documents = []Document{d}
			var got Decision
			w.state, got = Step(w.state, w.input())
			for from := w.now; w.now.Sub(from) < c.after; {
				w.tick(time.Second)
				w.state, got = Step(w.state, w.input())
			}
			second, waits := 0, 0
			for _, s := range got.Slots {
				if len(s.Candidates) > 0 && s.Candidates[0] == "n1" {
					second++
					if s.Reason == "node n1 is to start it" {
						waits++
					}
				}
			}
			if second == 0 || waits != 0 && waits != second || waits > 0 != c.waits {
				t.Errorf("%d of %d slots wait", waits, second)
			}
		})
	}
}

// TestClaimsGoOutTogether: what is planned between two of them would be planned from a part.
func TestClaimsGoOutTogether(t *testing.T) {
	for without, apart := range map[rule]bool{noRule: false, ruleWhole: true} {
		w, _ := asked(t, without)
		w.push(Object{Object: deployment("a", 8, 1, 1)})
		w.in.Documents = []Document{{Node: "n1", Accepted: w.in.Accepted}}
		d := w.decide(w.input())
		if len(d.Asks) == 0 || len(d.Actions) > 0 != apart {
			t.Errorf("without rule %d: asks %v, actions %v", without, d.Asks, d.Actions)
		}
	}
}

// TestAfterAReboot: what is on the disk waits for the others' documents, and does not run again when its
// slot went on elsewhere.
func TestAfterAReboot(t *testing.T) {
	for _, c := range []struct {
		name    string
		heard   bool
		epoch   int64 // of another node's release
		without rule
		resumes bool
		stops   bool
	}{
		{"before the others are heard", false, 0, noRule, false, false},
		{"before the others are heard, without the rule", false, 0, ruleHeard, true, false},
		{"heard", true, 0, noRule, true, false},
		{"the slot went on", true, 2, noRule, false, true},
		{"the slot went on, without the rule", true, 2, ruleEpoch, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newFlock(t, 1, 2).worlds[0]
			w.in.without = c.without
			w.push(Object{Object: deployment("a", 1, 1, 0)})
			m := Instance{Slot: Slot{Workload: "uid-web"}, Revision: "a100m00000", Epoch: 1, Node: "n0", UID: "mine", Name: "mine", Kind: kindDeployment, App: "shop"}
			d := Document{Node: "n1", Accepted: w.in.Accepted}
			if c.epoch > 0 {
				d.Releases = []Release{{Slot: m.Slot, Epoch: c.epoch, At: w.now}}
			}
			in := w.input()
			in.Found, in.Documents = []types.UID{m.UID}, []Document{{Node: "n0", Boot: 7, Accepted: in.Accepted, Instances: []Instance{m}}}
			if c.heard {
				in.Documents = append(in.Documents, d)
			}
			_, got := Step(State{}, in)
			if resumes := len(got.Resume) > 0; resumes != c.resumes {
				t.Errorf("resumes %v", got.Resume)
			}
			if stops := len(got.Actions) > 0; stops != c.stops {
				t.Errorf("actions %v", got.Actions)
			}
		})
	}
}
