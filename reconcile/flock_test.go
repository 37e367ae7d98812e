package reconcile

import (
	"fmt"
	"math/rand"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// flock is several worlds whose documents reach each other late, in order, and whose commits arrive
// at different moments.
type flock struct {
	t       *testing.T
	r       *rand.Rand
	worlds  []*world
	pending []delivery
	dead    map[string]bool
	said    map[int]string // what each node published last
	asked   map[Ask]bool   // questions under way
	late    time.Duration  // documents, at most
}

type delivery struct {
	at   time.Time
	to   int
	from string
	act  func(*world)
}

func newFlock(t *testing.T, seed int64, nodes int) *flock {
	f := &flock{t: t, r: rand.New(rand.NewSource(seed)), dead: map[string]bool{}, said: map[int]string{}, asked: map[Ask]bool{}, late: 800 * time.Millisecond}
	var enrolled []Node
	for i := range nodes {
		enrolled = append(enrolled, Node{Node: testNode(fmt.Sprint("n", i), "4", "8Gi"), Stable: true})
	}
	for i := range nodes {
		w := newWorld(t)
		w.in.Self, w.in.Nodes = enrolled[i].Node.Name, slices.Clone(enrolled)
		f.worlds = append(f.worlds, w)
	}
	for i := range f.worlds {
		f.publish(i)
	}
	return f
}

// later delivers in order for each pair of nodes.
func (f *flock) later(to int, from string, most time.Duration, act func(*world)) {
	at := f.worlds[to].now.Add(time.Duration(f.r.Int63n(int64(most))))
	for _, d := range f.pending {
		if d.to == to && d.from == from && d.at.After(at) {
			at = d.at
		}
	}
	f.pending = append(f.pending, delivery{at, to, from, act})
}

func (f *flock) publish(i int) {
	doc := f.worlds[i].input().Documents[0]
	for j := range f.worlds {
		if j == i {
			continue
		}
		f.later(j, doc.Node, f.late, func(w *world) {
			w.in.Documents = slices.DeleteFunc(w.in.Documents, func(d Document) bool { return d.Node == doc.Node })
			w.in.Documents = append(w.in.Documents, doc)
		})
	}
}

// ask carries a question to its node and the answer back.
func (f *flock) ask(i int, a Ask) {
	at := f.worlds[i].now
	for j, o := range f.worlds {
		if o.in.Self == a.To && !f.asked[a] {
			f.asked[a] = true
			f.later(j, "call of "+a.From, 100*time.Millisecond, func(o *world) {
				answer := Answer{Ask: a, Unreachable: true}
				if !f.dead[a.To] {
					o.state, answer = Reply(o.state, o.input(), a)
				}
				f.later(i, "answer of "+a.To, 100*time.Millisecond, func(w *world) {
					delete(f.asked, a)
					answer.At = at
					w.in.Answers = append(w.in.Answers, answer)
				})
			})
		}
	}
}

func (f *flock) push(objects ...Object) {
	for i := range f.worlds {
		f.later(i, "git", 3*time.Second, func(w *world) { w.push(objects...) })
	}
}

func (f *flock) kill(i int) {
	name := f.worlds[i].in.Self
	f.dead[name] = true
	f.worlds[i].pods = nil
	for j := range f.worlds {
		f.later(j, "death of "+name, 3*time.Second, func(w *world) {
			for k := range w.in.Nodes {
				if w.in.Nodes[k].Node.Name == name {
					w.in.Nodes[k].Gone = true
				}
			}
		})
	}
}

func (f *flock) run(total time.Duration, check func()) {
	f.t.Helper()
	const tick = 200 * time.Millisecond
	for range total / tick {
		for i, w := range f.worlds {
			due := slices.DeleteFunc(slices.Clone(f.pending), func(d delivery) bool { return d.to != i || d.at.After(w.now) })
			f.pending = slices.DeleteFunc(f.pending, func(d delivery) bool { return d.to == i && !d.at.After(w.now) })
			for _, d := range due {
				d.act(w)
			}
			if f.dead[w.in.Self] {
				w.now = w.now.Add(tick)
				continue
			}
			w.step()
			w.in.Answers = nil
			for _, a := range w.last.Asks {
				f.ask(i, a)
			}
			w.tick(tick)
			if doc := fmt.Sprint(w.input().Documents[0]); f.said[i] != doc {
				f.said[i] = doc
				f.publish(i)
			}
		}
		if check != nil {
			check()
		}
	}
}

// pods returns the pods that are not terminating on living nodes.
func (f *flock) pods() (out []Instance) {
	for _, w := range f.worlds {
		for _, p := range w.pods {
			if !p.i.Terminating && !f.dead[w.in.Self] {
				out = append(out, p.i)
			}
		}
	}
	return out
}

func (f *flock) story() string {
	var lines []string
	for _, w := range f.worlds {
		for _, l := range w.log {
			lines = append(lines, l+" ("+w.in.Self+")")
		}
	}
	slices.Sort(lines)
	for _, w := range f.worlds {
		for _, s := range w.last.Slots {
			lines = append(lines, fmt.Sprintf("%s sees %s/%d: %s: %s", w.in.Self, s.Owner, s.Slot.Ordinal, s.Rule, s.Reason))
		}
	}
	out := ""
	for _, l := range lines {
		out += l + "\n"
	}
	return out
}

// once fails unless every slot of the Deployment runs exactly once, ready, at the revision.
func (f *flock) once(replicas int, revision string) {
	f.t.Helper()
	count := map[Slot]int{}
	for _, p := range f.pods() {
		if !p.Ready || p.Revision != revision {
			f.t.Fatalf("%s on %s: ready=%v at %s, want %s\n%s", p.Name, p.Node, p.Ready, p.Revision, revision, f.story())
		}
		count[p.Slot]++
	}
	for slot, n := range count {
		if n != 1 {
			f.t.Fatalf("slot %v runs %d times\n%s", slot, n, f.story())
		}
	}
	if len(count) != replicas {
		f.t.Fatalf("%d slots run, want %d\n%s", len(count), replicas, f.story())
	}
}

func TestFlockRollsWithinBounds(t *testing.T) {
	for seed := range seeds(1, 8) {
		f := newFlock(t, seed, 3)
		surge, unavailable := int32(f.r.Intn(3)), int32(f.r.Intn(3))
		if surge+unavailable == 0 {
			unavailable = 1
		}
		const replicas = 6
		object := func(image string) Object { return Object{Object: deployment(image, replicas, surge, unavailable)} }
		f.push(object("a"))
		f.run(15*time.Second, nil)
		f.once(replicas, "a100m00000")
		starts := 0
		for _, w := range f.worlds {
			starts += len(w.log)
		}
		if starts != replicas {
			t.Errorf("seed %d: %d starts for %d slots\n%s", seed, starts, replicas, f.story())
		}
		check := func() {
			ready := 0
			pods := f.pods()
			for _, p := range pods {
				if p.Ready {
					ready++
				}
			}
			if ready < replicas-int(unavailable) || len(pods) > replicas+int(surge) {
				t.Fatalf("seed %d: %d pods, %d ready, maxSurge %d, maxUnavailable %d\n%s", seed, len(pods), ready, surge, unavailable, f.story())
			}
		}
		f.push(object("b"))
		f.run(time.Duration(f.r.Intn(8000))*time.Millisecond, check)
		f.push(object("c"))
		f.run(time.Duration(f.r.Intn(8000))*time.Millisecond, check)
		f.push(object("bad"))
		f.run(20*time.Second, check)
		f.push(object("d"))
		f.run(90*time.Second, check)
		f.once(replicas, "d100m00000")
	}
}

func TestFlockReplacesALostNode(t *testing.T) {
	for seed := range seeds(1, 6) {
		f := newFlock(t, seed, 4)
		f.push(Object{Object: deployment("a", 8, 1, 1)}, Object{Object: daemonSet("a", 0, 1)})
		f.run(15*time.Second, nil)
		f.kill(3)
		f.run(30*time.Second, nil)
		web := 0
		seen := map[Slot]int{}
		for _, p := range f.pods() {
			seen[p.Slot]++
			if p.Kind == kindDeployment {
				web++
				if p.Epoch > 1 && p.Cause != "n3/7" {
					t.Errorf("seed %d: %s was opened by %s\n%s", seed, p.Name, p.Cause, f.story())
				}
			}
			if !p.Ready || seen[p.Slot] > 1 {
				t.Fatalf("seed %d: %+v\n%s", seed, p, f.story())
			}
		}
		if web != 8 || len(seen) != 11 {
			t.Fatalf("seed %d: %d of 8 run, %d slots in all\n%s", seed, web, len(seen), f.story())
		}
	}
}

func TestFlockLostSlotKeepsItsRevisionWhileARolloutIsStuck(t *testing.T) {
	for seed := range seeds(1, 4) {
		// The slot whose turn it is may be lost to the bad revision, no other.
		if ready, f := lostInARollout(t, seed, noRule); ready < 5 {
			t.Fatalf("seed %d: %d of 6 are ready\n%s", seed, ready, f.story())
		}
		if ready, _ := lostInARollout(t, seed, rulePrevious); ready >= 5 {
			t.Errorf("seed %d: without the rule, %d of 6 are ready as well", seed, ready)
		}
	}
}

// lostInARollout loses a node while a bad revision is stuck, and says how many pods of the good one are ready
// afterwards.
func lostInARollout(t *testing.T, seed int64, without rule) (ready int, f *flock) {
	f = newFlock(t, seed, 3)
	for _, w := range f.worlds {
		w.in.without = without
	}
	f.push(Object{Object: deployment("a", 6, 1, 0)})
	f.run(15*time.Second, nil)
	f.push(Object{Object: deployment("bad", 6, 1, 0)})
	f.run(15*time.Second, nil)
	victim := 1
	for i, w := range f.worlds {
		for _, p := range w.pods {
			if p.i.Slot.Ordinal == 5 {
				victim = i
			}
		}
	}
	f.kill(victim)
	f.run(30*time.Second, nil)
	for _, p := range f.pods() {
		if p.Ready && p.Revision == "a100m00000" {
			ready++
		}
	}
	return ready, f
}

func TestDeclinedSlotGoesToTheNext(t *testing.T) {
	f := newFlock(t, 1, 3)
	f.push(Object{Object: deployment("a", 1, 1, 0)})
	f.run(4*time.Second, nil)
	first := f.pods()[0]
	for _, w := range f.worlds {
		w.pods, w.releases = nil, nil
		w.pods = map[types.UID]*simPod{}
		if w.in.Self == first.Node {
			w.declines = []Decline{{Slot: first.Slot, Revision: first.Revision, Reason: "no such device", At: w.now}}
		}
	}
	for i := range f.worlds {
		f.publish(i)
	}
	f.run(claimHolds+time.Second, nil)
	if p := f.pods(); len(p) != 1 || p[0].Node == first.Node || p[0].Epoch <= first.Epoch {
		t.Errorf("got %+v", p)
	}
}

func TestGate(t *testing.T) {
	f := newFlock(t, 1, 2)
	w := f.worlds[0]
	w.push(Object{Object: deployment("a", 4, 1, 0)})
	w.step()
	if len(w.log) != 0 {
		t.Fatalf("claimed before the document of n1 came:\n%s", w.story())
	}
	newer := Document{Node: "n1", Accepted: map[string]Commit{"shop": {ID: "c9", Level: 9}}}
	newer.Allocatable = corev1.ResourceList{}
	w.in.Documents = []Document{newer}
	w.step()
	if len(w.log) != 0 {
		t.Fatalf("claimed at an old commit:\n%s", w.story())
	}
	for _, s := range w.last.Slots {
		if s.Candidates[0] == "n0" && s.Reason != "node n1 has accepted a newer commit of shop: c9" {
			t.Errorf("got %+v", s)
		}
	}
	newer.Accepted = w.in.Accepted
	w.in.Documents = []Document{newer}
	w.tick(startsFor)
	w.step()
	if len(w.log)+len(w.last.Asks) == 0 {
		t.Error("claimed nothing")
	}
}

// TestTheGateIsNeeded leaves out one of the conditions of a claim.
func TestTheGateIsNeeded(t *testing.T) {
	for _, c := range []struct {
		name    string
		without rule
		newer   bool // n1 is heard, and has accepted a newer commit
	}{{"a document of everybody", ruleHeard, false}, {"the newest commit", ruleNewest, true}} {
		t.Run(c.name, func(t *testing.T) {
			for without, want := range map[rule]bool{noRule: false, c.without: true} {
				w := newFlock(t, 1, 2).worlds[0]
				w.in.without = without
				w.push(Object{Object: deployment("a", 8, 1, 0)})
				if c.newer {
					w.in.Documents = []Document{{Node: "n1", Accepted: map[string]Commit{"shop": {ID: "c9", Level: 9}}}}
				}
				w.step()
				w.tick(startsFor)
				if d := w.step(); len(d.Actions)+len(d.Asks) > 0 != want {
					t.Errorf("without rule %d: actions %v, asks %v", without, d.Actions, d.Asks)
				}
			}
		})
	}
}

func TestDuplicatesStopOnEvidenceAlone(t *testing.T) {
	f := newFlock(t, 1, 2)
	w := f.worlds[0]
	w.push(Object{Object: deployment("a", 1, 1, 0)})
	w.in.Documents = []Document{{Node: "n1", Accepted: w.in.Accepted}}
	w.run(10 * time.Second)
	if len(w.pods) != 1 {
		t.Fatal("not claimed")
	}
	var mine Instance
	for _, p := range w.pods {
		mine = p.i
	}
	other := mine
	other.Node, other.Epoch, other.UID, other.Name = "n1", mine.Epoch+1, "other", "other"
	w.in.Documents = []Document{{Node: "n1", Accepted: w.in.Accepted, Instances: []Instance{other}}}
	w.run(10 * time.Second)
	if len(w.pods) != 1 {
		t.Fatalf("stopped on belief:\n%s", w.story())
	}
	keep := Ask{Kind: AskKeep, To: "n1", From: "n0", Boot: 7, Slot: mine.Slot, UID: "other"}
	if !slices.Contains(w.asked, keep) {
		t.Fatalf("asked %+v", w.asked)
	}
	w.in.Answers = []Answer{{Ask: keep, Yes: true, At: w.now.Add(-AnswerHolds)}}
	w.run(500 * time.Millisecond)
	if len(w.pods) != 1 {
		t.Fatalf("stopped on old evidence:\n%s", w.story())
	}
	w.in.Answers = []Answer{{Ask: keep, Yes: true, At: w.now}}
	w.run(10 * time.Second)
	if len(w.pods) != 0 {
		t.Errorf("the junior still runs:\n%s", w.story())
	}
}

// TestAnOlderHeadTakesNothingBack is a node whose store was lost while its remote showed an older head
// (seed 53 of the simulator): its own pods tell that there is a newer commit.
func TestAnOlderHeadTakesNothingBack(t *testing.T) {
	w := newWorld(t)
	w.push(Object{Object: deployment("a", 2, 1, 0)})
	old := w.in
	w.push(Object{Object: deployment("b", 3, 1, 0)})
	w.run(10 * time.Second)
	w.in.Objects, w.in.Accepted, w.state = old.Objects, old.Accepted, State{}
	before := len(w.log)
	w.run(10 * time.Second)
	if len(w.log) != before {
		t.Errorf("at the older commit:\n%s", w.story())
	}
	expect(t, w, 3, 3, "b100m00000")
}

// TestNothingChangesBeforeTheOthersAreHeard is a node that was started again in a rollout (seed 15 of
// the simulator, 3 nodes): without the other's document the DaemonSet had one slot, its own, and the pod
// in it was stopped beside the other's.
func TestNothingChangesBeforeTheOthersAreHeard(t *testing.T) {
	f := newFlock(t, 1, 2)
	w := f.worlds[0]
	w.push(Object{Object: daemonSet("a", 0, 1)})
	heard := []Document{{Node: "n1", Accepted: w.in.Accepted}}
	w.in.Documents = heard
	w.run(5 * time.Second)
	w.push(Object{Object: daemonSet("b", 0, 1)})
	w.in.Documents, w.state = nil, State{}
	if d := w.step(); len(d.Actions) > 0 {
		t.Errorf("before the document of n1 came: %v", d.Actions)
	}
}

// TestTwoOldPodsSurge is a slot that surged for a commit before the wanted one (seed 20173 of the
// simulator, 5 nodes): until one of its pods has ended, it counts against maxSurge.
func TestTwoOldPodsSurge(t *testing.T) {
	w := newWorld(t)
	w.push(Object{Object: deployment("c", 2, 1, 0)})
	var old []Instance
	for _, revision := range []string{"a100m00000", "b100m00000"} {
		old = append(old, Instance{Slot: Slot{Workload: "uid-web", Ordinal: 1}, Revision: revision, Node: "n2", UID: types.UID(revision), Ready: true})
	}
	w.in.Documents = []Document{{Node: "n2", Instances: old}}
	x, in := newIndex(w.in.Self, Memory{}), w.input()
	x.read(&in)
	p := &pass{in: in, index: x, docs: x.docs, at: x.order[0]}
	p.fill(p.at)
	if !p.rolloutOf(p.at.w).places[1].surging {
		t.Error("a slot with pods of two earlier revisions does not count as surging")
	}
}
