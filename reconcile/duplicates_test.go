package reconcile

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// The explorer of duplicates walks every state that two or three nodes can reach which have each claimed one
// slot, at one revision or at several: documents arrive in order for each pair of nodes and at any time,
// readiness comes and goes, questions are answered at any time or never. What a node does in a state is what
// Step and Reply say, so what it proves, it proves of the code that agents run. Time is left out: an answer
// counts until it is let go, and binds the node that gave it as long.

// dup is one state.
type dup struct {
	phase [maxNodes]uint8              // of the pod, the truth
	was   [maxNodes]bool               // ready once
	heard [maxNodes][maxNodes][4]uint8 // what of node j is on its way to node i, oldest first; [0] is known
	queue [maxNodes][maxNodes]uint8    // how many
	word  [maxNodes][maxNodes]uint8    // node i holds the word of node j
	flaps uint8
}

const (
	dupStarts uint8 = iota
	dupReady
	dupUnready
	dupEnded
)

const (
	wordNone uint8 = iota
	wordAsked
	wordGiven // on its way, or there
)

type dupTrial struct {
	name    string
	pods    string // the revision of each, the earliest right first, each on a node of its own
	wanted  string // revision
	epochs  bool   // each pod has the next epoch, so that the last has the earliest right
	at      [maxNodes]int
	flaps   uint8
	without rule
	drained int // node, from 1
	known   map[dupView]dupMoves
}

// dupView is all that a node decides by.
type dupView struct {
	node  int
	seen  [maxNodes]uint8 // phases
	given [maxNodes]bool  // words of the pods' nodes
	bound bool            // by its own
	asks  int             // who asks for its word, from 1; 0 for a step
}

// dupMoves is what it does.
type dupMoves struct {
	asks [maxNodes]bool // about which pods
	ends [maxNodes]bool
	yes  bool
}

func (x *dupTrial) node(pod int) int {
	if x.at != [maxNodes]int{} {
		return x.at[pod]
	}
	return pod
}

// decide asks Step or Reply.
func (x *dupTrial) decide(t *testing.T, v dupView) dupMoves {
	if m, ok := x.known[v]; ok {
		return m
	}
	w := newWorld(t)
	d := deployment(x.wanted, 1, 1, 0)
	d.Spec.Paused = true // no pod ends for the rollout
	w.in.Nodes, w.in.Self, w.in.without = nil, fmt.Sprint("n", v.node), x.without
	commit := Commit{ID: "c9", Level: 9}
	w.in.Accepted = map[string]Commit{"shop": commit, clusterUnit: commit}
	o := Object{Object: d, Commit: commit, Source: Source{App: "shop"}}
	for _, r := range x.wanted + "abc" {
		o.Templates = append(o.Templates, Template{Revision: string(r), Commit: commit, Spec: template(string(r), "100m")})
	}
	w.in.Objects = []Object{o}
	docs := map[int]*Document{}
	for i := range x.pods {
		j := x.node(i)
		if docs[j] != nil {
			continue
		}
		n := testNode(fmt.Sprint("n", j), "4", "8Gi")
		if x.drained == j+1 {
			n.Spec.Taints = []corev1.Taint{{Key: DrainTaint, Effect: corev1.TaintEffectNoExecute}}
		}
		w.in.Nodes = append(w.in.Nodes, Node{Node: n, Stable: true})
		docs[j] = &Document{Node: n.Name, Boot: 1, Accepted: w.in.Accepted, Allocatable: n.Status.Allocatable}
	}
	uid := func(i int) types.UID { return types.UID(fmt.Sprint("pod", i)) }
	for i := range x.pods {
		m := Instance{
			Slot: Slot{Workload: "uid-web"}, Revision: x.pods[i : i+1], Epoch: 1, Node: fmt.Sprint("n", x.node(i)), Boot: 1, Claimed: w.now.Add(time.Duration(i-100) * time.Minute),
			Cause: "c1", Commit: Commit{ID: "c1", Level: 1}, App: "shop", Kind: kindDeployment, Namespace: "default", Owner: "web", Name: string(uid(i)), UID: uid(i), Phase: corev1.PodRunning,
		}
		if x.epochs {
			m.Epoch += int64(i)
		}
		if m.Ready = v.seen[i] == dupReady; m.Ready {
			m.ReadySince = m.Claimed
		}
		if v.seen[i] != dupEnded {
			docs[x.node(i)].Instances = append(docs[x.node(i)].Instances, m)
		}
	}
	in := w.in
	for _, j := range slices.Sorted(maps.Keys(docs)) {
		in.Documents = append(in.Documents, *docs[j])
	}
	in.Now = w.now
	s, _ := Reply(State{}, in, Ask{}) // it has run for a while
	in.Now = w.now.Add(2 * startsFor)
	var out dupMoves
	keep := func(to, from, pod int) Ask {
		return Ask{Kind: AskKeep, To: fmt.Sprint("n", to), From: fmt.Sprint("n", from), Boot: in.Boot, Slot: Slot{Workload: "uid-web"}, UID: uid(pod)}
	}
	for i := range x.pods {
		if v.bound && x.node(i) == v.node {
			s.index.registry.words[uid(i)] = in.Now.Add(wordHolds)
		}
		if v.given[i] {
			in.Answers = append(in.Answers, Answer{Ask: keep(x.node(i), v.node, i), Yes: true, At: in.Now})
		}
	}
	if v.asks > 0 {
		_, answer := Reply(s, in, keep(v.node, v.asks-1, v.node))
		out.yes = answer.Yes
	} else {
		_, d := Step(s, in)
		for i := range x.pods {
			out.asks[i] = slices.ContainsFunc(d.Asks, func(a Ask) bool { return a.Kind == AskKeep && a.UID == uid(i) })
			out.ends[i] = slices.ContainsFunc(d.Actions, func(a Action) bool { return a.Kind == Stop && a.Instance.UID == uid(i) })
		}
	}
	if x.known == nil {
		x.known = map[dupView]dupMoves{}
	}
	x.known[v] = out
	return out
}

func (x *dupTrial) say(s dup, j int) (dup, bool) {
	for i := range len(x.pods) {
		if i == j {
			continue
		}
		n := s.queue[i][j]
		if n == 3 {
			return s, false // the network holds no more: this order is explored by later deliveries
		}
		s.heard[i][j][n+1] = s.phase[j]
		s.queue[i][j] = n + 1
	}
	return s, true
}

func (x *dupTrial) next(t *testing.T, s dup, add func(dup, string)) {
	become := func(i int, phase uint8, what string) {
		t := s
		t.phase[i] = phase
		t.was[i] = t.was[i] || phase == dupReady
		if phase == dupUnready {
			t.flaps++
		}
		if t, ok := x.say(t, i); ok {
			add(t, fmt.Sprintf("pod %d %s", i, what))
		}
	}
	for i := range len(x.pods) {
		switch {
		case s.phase[i] == dupStarts || s.phase[i] == dupUnready:
			become(i, dupReady, "is ready")
		case s.phase[i] == dupReady && s.flaps < x.flaps:
			become(i, dupUnready, "fails a probe")
		}
		for j := range len(x.pods) {
			if i == j {
				continue
			}
			if n := s.queue[i][j]; n > 0 {
				t := s
				copy(t.heard[i][j][:], s.heard[i][j][1:])
				t.heard[i][j][3], t.queue[i][j] = 0, n-1
				add(t, fmt.Sprintf("  node %d reads of node %d: %d", i, j, t.heard[i][j][0]))
			}
			if s.word[i][j] != wordNone {
				t := s
				t.word[i][j] = wordNone
				add(t, fmt.Sprintf("  node %d lets go of what it asked node %d", i, j))
			}
			if s.word[i][j] == wordAsked && x.decide(t, dupView{node: j, seen: s.view(j), asks: i + 1}).yes {
				t := s
				t.word[i][j] = wordGiven
				add(t, fmt.Sprintf("  node %d tells node %d that it keeps its pod", j, i))
			}
		}
		if s.phase[i] == dupEnded {
			continue
		}
		v := dupView{node: i, seen: s.view(i)}
		for j := range x.pods {
			v.given[j] = s.word[i][j] == wordGiven
			v.bound = v.bound || s.word[j][i] == wordGiven
		}
		m := x.decide(t, v)
		for j := range x.pods {
			if m.asks[j] && s.word[i][j] == wordNone {
				t := s
				t.word[i][j] = wordAsked
				add(t, fmt.Sprintf("  node %d asks node %d whether it keeps its pod", i, j))
			}
		}
		if m.ends[i] {
			become(i, dupEnded, "ends")
		}
	}
}

// view is what node i sees: of its own pod the truth.
func (s *dup) view(i int) (seen [maxNodes]uint8) {
	for j := range seen {
		seen[j] = s.heard[i][j][0]
	}
	seen[i] = s.phase[i]
	return seen
}

// broken reports whether a pod ended that was ready, and left none that ever was. Where all are of the wanted
// revision, it need not even have been ready any more.
func (x *dupTrial) broken(before, s dup) bool {
	lives := false
	for i := range x.pods {
		lives = lives || s.was[i] && s.phase[i] != dupEnded
	}
	one := strings.Count(x.pods, x.wanted) == len(x.pods)
	for i := range x.pods {
		if s.phase[i] == dupEnded && before.phase[i] != dupEnded && !lives && (before.phase[i] == dupReady || one && before.was[i]) {
			return true
		}
	}
	return false
}

// settles returns a state, with all that was said heard and nothing to become ready any more, in which more
// pods stay than a ready one and those that are wanted and not ready yet; "" when there is none.
func (x *dupTrial) settles(t *testing.T) string {
	for n := range 27 {
		begin := [maxNodes]uint8{uint8(n % 3), uint8(n / 3 % 3), uint8(n / 9)}
		s := begin
		ready := false
		for i := range s {
			if i >= len(x.pods) {
				s[i] = dupEnded
			}
			ready = ready || s[i] == dupReady
		}
		begin = s
		for changed := true; changed; {
			changed = false
			for node := range x.pods {
				v := dupView{node: node, seen: s}
				for i, asks := range x.decide(t, v).asks {
					v.given[i] = asks && x.decide(t, dupView{node: x.node(i), seen: s, asks: node + 1}).yes
				}
				for i, ends := range x.decide(t, v).ends {
					if ends && s[i] != dupEnded {
						s[i], changed = dupEnded, true
					}
				}
			}
		}
		left := 0
		for i := range s {
			if s[i] == dupReady || s[i] != dupEnded && x.pods[i:i+1] != x.wanted {
				left++
			}
		}
		if ready && left != 1 {
			return fmt.Sprintf("STUCK: of pods that were %v, %v stay", begin, s)
		}
	}
	return ""
}

// explore returns the shortest story that ends in a state that is broken; "" when there is none.
func (x *dupTrial) explore(t *testing.T) (states int, story string) {
	type step struct {
		from int
		what string
	}
	all, steps, known := []dup{{}}, []step{{-1, "all start"}}, map[dup]bool{{}: true}
	for at := 0; at < len(all) && story == ""; at++ {
		x.next(t, all[at], func(t dup, what string) {
			if known[t] || story != "" {
				return
			}
			known[t] = true
			all, steps = append(all, t), append(steps, step{at, what})
			if x.broken(all[at], t) {
				lines := []string{"BROKEN: nothing is left in the slot that was ready"}
				for i := len(steps) - 1; i >= 0; i = steps[i].from {
					lines = append(lines, steps[i].what)
				}
				slices.Reverse(lines)
				story = strings.Join(lines, "\n")
			}
		})
	}
	return len(all), story
}

// dupTrials are slots with pods of one revision and of several, of which one or none is wanted.
var dupTrials = []dupTrial{
	{name: "two", pods: "aa", wanted: "a", flaps: 2},
	{name: "two, of a drained node", pods: "aa", wanted: "a", epochs: true, drained: 1, flaps: 2},
	{name: "a surge", pods: "ab", wanted: "b", epochs: true, flaps: 2},
	{name: "a surge taken back", pods: "ab", wanted: "a", epochs: true, flaps: 2},
	{name: "a surge overtaken", pods: "ab", wanted: "c", epochs: true, flaps: 2},
	{name: "two of an old revision", pods: "aa", wanted: "c", flaps: 2},
	{name: "three", pods: "aaa", wanted: "a", flaps: 1},
	{name: "a surge of two", pods: "abb", wanted: "b", epochs: true, flaps: 1},
	{name: "three revisions", pods: "abc", wanted: "c", epochs: true, flaps: 1},
}

func TestDuplicatesNeverEmptyASlot(t *testing.T) {
	for _, x := range dupTrials {
		if testing.Short() && len(x.pods) > 2 {
			continue
		}
		t.Run(x.name, func(t *testing.T) {
			states, story := x.explore(t)
			if story != "" {
				t.Error("\n" + story)
			}
			if story := x.settles(t); story != "" {
				t.Error(story)
			}
			t.Logf("%d states, %d views", states, len(x.known))
		})
	}
}

// TestPodsOnOneDrainedNodeSettle: two of old revisions on one node, which is drained (seed 60001 of the
// simulator).
func TestPodsOnOneDrainedNodeSettle(t *testing.T) {
	x := dupTrial{pods: "ab", wanted: "c", at: [maxNodes]int{1, 1}, epochs: true, drained: 2}
	if story := x.settles(t); story != "" {
		t.Error(story)
	}
}

func TestEveryRuleOfDuplicatesIsNeeded(t *testing.T) {
	for _, without := range []rule{ruleEvidence, ruleWord} {
		t.Run(fmt.Sprint("without rule ", without), func(t *testing.T) {
			x := dupTrial{pods: "aa", wanted: "a", flaps: 2, without: without}
			_, story := x.explore(t)
			if !strings.Contains(story, "BROKEN") {
				t.Error("without the rule nothing breaks")
			}
			t.Logf("\n%s", story)
		})
	}
}

// TestASeniorThatIsNotReadyWithdraws in favour of a ready junior, or both would stay.
func TestASeniorThatIsNotReadyWithdraws(t *testing.T) {
	for without, asks := range map[rule]bool{noRule: true, ruleWithdraw: false} {
		x := dupTrial{pods: "aa", wanted: "a", without: without}
		if got := x.decide(t, dupView{node: 0, seen: [maxNodes]uint8{dupStarts, dupReady}}).asks[1]; got != asks {
			t.Errorf("without rule %d: asks whether the junior stays: %v", without, got)
		}
	}
}
