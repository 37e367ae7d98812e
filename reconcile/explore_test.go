package reconcile

import (
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// The explorer walks every state that a rollout can reach when documents take any time to arrive
// (first in, first out for each pair of nodes), with one slot on each node and several commits
// under way. It asks rollout.may itself, so what it proves, it proves of the code that agents run.

const maxNodes = 3

// note is what a node's document says in the explorer.
type note struct {
	accepted uint8 // commits
	revision uint8 // of the pod, the old one while it surges
	next     uint8 // revision of the surge pod
	ready    bool
	surging  bool
}

// packed is a note in one byte: two bits for each number.
type packed uint8

func (n note) pack() packed {
	v := packed(n.accepted<<6 | n.revision<<4 | n.next<<2)
	if n.ready {
		v |= 1
	}
	if n.surging {
		v |= 2
	}
	return v
}

func (v packed) note() note {
	return note{uint8(v >> 6), uint8(v >> 4 & 3), uint8(v >> 2 & 3), v&1 > 0, v&2 > 0}
}

// scene is one state of the flock. What every node has read past is left out, so that equal scenes go on alike.
type scene struct {
	notes   [maxNodes][16]packed      // published by each node, the last is the truth
	last    [maxNodes]uint8           // its place
	seen    [maxNodes][maxNodes]uint8 // how far node i has read node j
	rolling [maxNodes]bool            // not ready because the rollout stopped a ready pod
	flaps   uint8
}

// trial is one exploration.
type trial struct {
	nodes, surge, unavailable int
	commits                   uint8
	flaps                     uint8 // readiness losses by themselves, in all
	revert                    bool  // the last commit goes back to the first revision
	checks                    []check
	without                   rule
	known                     map[sight]change
}

// sight is all that a node decides by.
type sight struct {
	node   int
	target uint8
	notes  [maxNodes]packed
}

func (x *trial) revision(commit uint8) uint8 {
	if x.revert && commit == x.commits {
		return 0
	}
	return commit
}

func (s *scene) truth(i int) note { return s.notes[i][s.last[i]].note() }

// with is the scene in which node i has published n.
func (s scene) with(i int, n note) scene {
	s.last[i]++
	s.notes[i][s.last[i]], s.seen[i][i] = n.pack(), s.last[i]
	return s
}

// forget leaves out what every node has read past.
func (x *trial) forget(s *scene) {
	for j := range x.nodes {
		low := s.seen[j][j]
		for i := range x.nodes {
			low = min(low, s.seen[i][j])
		}
		if low == 0 {
			continue
		}
		copy(s.notes[j][:], s.notes[j][low:s.last[j]+1])
		s.last[j] -= low
		clear(s.notes[j][s.last[j]+1:])
		for i := range x.nodes {
			s.seen[i][j] -= low
		}
	}
}

// decide asks the rollout as node i sees it whether its slot may change.
func (x *trial) decide(s *scene, i int) change {
	v := sight{node: i, target: s.truth(i).accepted}
	for j := range x.nodes {
		v.notes[j] = s.notes[j][s.seen[i][j]]
	}
	how, ok := x.known[v]
	if ok {
		return how
	}
	r := &rollout{surge: x.surge, unavailable: x.unavailable, checks: x.checks, without: x.without}
	for j := range x.nodes {
		n := v.notes[j].note()
		r.places = append(r.places, place{
			label: fmt.Sprint("slot ", j), ready: n.ready, surging: n.surging,
			updated:  n.ready && !n.surging && n.revision == x.revision(v.target),
			promised: n.accepted >= v.target,
		})
	}
	how, _ = r.may(i)
	if x.known == nil {
		x.known = map[sight]change{}
	}
	x.known[v] = how
	return how
}

// move is what happens at a node, and where it leads.
type move struct {
	to   scene
	node int
	what happening
	of   int // the node that is read
}

type happening int

const (
	accepts happening = iota
	withdraws
	replaces
	surges
	stops
	readies
	flaps
	reads
)

func letter(revision uint8) string { return string(rune('A' + revision)) }

// tell says what a move is.
func (m move) tell() string {
	n := m.to.truth(m.node)
	switch m.what {
	case accepts:
		return fmt.Sprintf("node %d accepts commit %d", m.node, n.accepted)
	case withdraws:
		return fmt.Sprintf("node %d stops the surplus pod of slot %d", m.node, m.node)
	case replaces:
		return fmt.Sprintf("the surge pod of slot %d is ready at %s, the old one stops", m.node, letter(n.revision))
	case surges:
		return fmt.Sprintf("node %d starts %s beside %s in slot %d", m.node, letter(n.next), letter(n.revision), m.node)
	case stops:
		return fmt.Sprintf("node %d stops the pod of slot %d to start %s", m.node, m.node, letter(n.revision))
	case readies:
		return fmt.Sprintf("slot %d is ready at %s", m.node, letter(n.revision))
	case flaps:
		return fmt.Sprintf("slot %d loses readiness by itself", m.node)
	case reads:
		n = m.to.notes[m.of][m.to.seen[m.node][m.of]].note()
		return fmt.Sprintf("  node %d reads of node %d: accepted %d, %s, ready=%v, surging=%v", m.node, m.of, n.accepted, letter(n.revision), n.ready, n.surging)
	}
	return ""
}

// moves lists what can happen next.
func (x *trial) moves(s scene, out []move) []move {
	add := func(to scene, node int, what happening, of int) {
		x.forget(&to)
		out = append(out, move{to, node, what, of})
	}
	for i := range x.nodes {
		n := s.truth(i)
		target := x.revision(n.accepted)
		if n.accepted < x.commits {
			m := n
			m.accepted++
			add(s.with(i, m), i, accepts, 0)
		}
		m := n
		switch {
		case n.surging && (n.next != target || n.revision == target):
			m.surging, m.next = false, 0
			add(s.with(i, m), i, withdraws, 0)
		case n.surging:
			m.surging, m.next, m.revision, m.ready = false, 0, n.next, true
			t := s.with(i, m)
			t.rolling[i] = false
			add(t, i, replaces, 0)
		case n.revision != target:
			switch x.decide(&s, i) {
			case wait:
			case surgeBeside:
				m.surging, m.next = true, target
				add(s.with(i, m), i, surges, 0)
			case stopFirst:
				m.revision, m.ready = target, false
				t := s.with(i, m)
				t.rolling[i] = s.rolling[i] || n.ready
				add(t, i, stops, 0)
			}
		}
		m = n
		if !n.ready {
			m.ready = true
			t := s.with(i, m)
			t.rolling[i] = false
			add(t, i, readies, 0)
		} else if s.flaps < x.flaps {
			m.ready = false
			t := s.with(i, m)
			t.flaps++
			add(t, i, flaps, 0)
		}
		for j := range x.nodes {
			if i != j && s.seen[i][j] < s.last[j] {
				t := s
				t.seen[i][j]++
				out = append(out, move{t, i, reads, j})
				x.forget(&out[len(out)-1].to)
			}
		}
	}
	return out
}

// broken says which bound a scene is outside of.
func (x *trial) broken(s *scene) string {
	down, more := 0, 0
	for i := range x.nodes {
		n := s.truth(i)
		if s.rolling[i] && !n.ready {
			down++
		}
		if n.surging {
			more++
		}
	}
	switch {
	case down > x.unavailable:
		return fmt.Sprintf("%d slots are down for the rollout, maxUnavailable is %d", down, x.unavailable)
	case more > x.surge:
		return fmt.Sprintf("%d slots surge, maxSurge is %d", more, x.surge)
	}
	return ""
}

// explore returns the shortest story that ends outside the bounds, or in a scene from which nothing
// follows though the rollout has not ended; "" when there is none.
func (x *trial) explore() (states int, story string) {
	start := scene{}
	for i := range x.nodes {
		start.notes[i][0] = note{ready: true}.pack()
	}
	type step struct {
		from int
		move uint8 // of those that lead on from there
	}
	all, steps, known := []scene{start}, []step{{from: -1}}, map[scene]struct{}{start: {}}
	tell := func(at int, end string) string {
		lines := []string{end}
		for ; at > 0; at = steps[at].from {
			lines = append(lines, x.moves(all[steps[at].from], nil)[steps[at].move].tell())
		}
		slices.Reverse(lines)
		return "all ready at A\n" + strings.Join(lines, "\n")
	}
	var next []move
	for at := 0; at < len(all); at++ {
		next = x.moves(all[at], next[:0])
		if len(next) == 0 {
			for i := range x.nodes {
				if n := all[at].truth(i); n.revision != x.revision(x.commits) || !n.ready {
					return len(all), tell(at, fmt.Sprintf("STUCK: slot %d stays at %s", i, letter(n.revision)))
				}
			}
		}
		for i := range next {
			to := next[i].to
			if _, ok := known[to]; ok {
				continue
			}
			known[to] = struct{}{}
			all, steps = append(all, to), append(steps, step{at, uint8(i)})
			if why := x.broken(&to); why != "" {
				return len(all), tell(len(steps)-1, "BROKEN: "+why)
			}
		}
	}
	return len(all), ""
}

func TestRolloutHoldsInEveryState(t *testing.T) {
	for _, x := range []trial{
		{nodes: 3, unavailable: 1, commits: 2},
		{nodes: 3, surge: 1, commits: 2},
		{nodes: 3, surge: 1, unavailable: 1, commits: 2},
		{nodes: 3, unavailable: 2, commits: 2},
		{nodes: 3, surge: 2, commits: 2},
		{nodes: 3, unavailable: 1, commits: 2, revert: true},
		{nodes: 3, surge: 1, commits: 2, revert: true},
		{nodes: 2, unavailable: 1, commits: 2, flaps: 2},
		{nodes: 2, surge: 1, unavailable: 1, commits: 3, flaps: 1},
		{nodes: 2, surge: 1, commits: 3},
		{nodes: 3, surge: 1, unavailable: 1, commits: 2, revert: true},
	} {
		x.checks = rolloutChecks
		if testing.Short() && (x.nodes > 2 && x.surge+x.unavailable > 1 || x.commits > 2 && x.flaps > 0 || x.revert) {
			continue // the largest spaces, and those that differ little
		}
		t.Run(fmt.Sprintf("%dnodes,surge=%d,unavailable=%d,commits=%d,flaps=%d,revert=%v", x.nodes, x.surge, x.unavailable, x.commits, x.flaps, x.revert), func(t *testing.T) {
			states, story := x.explore()
			if story != "" {
				t.Errorf("\n%s", story)
			}
			t.Logf("%d states", states)
		})
	}
}

// TestEveryRolloutRuleIsNeeded leaves one rule out at a time and finds the state that it keeps out.
func TestEveryRolloutRuleIsNeeded(t *testing.T) {
	for _, c := range []struct {
		without check
		in      trial
	}{
		{promises, trial{nodes: 2, unavailable: 1, commits: 2}},
		{inOrder, trial{nodes: 2, unavailable: 1, commits: 1}},
		{withinUnavailable, trial{nodes: 2, unavailable: 1, commits: 2}},
		{withinSurge, trial{nodes: 2, surge: 1, commits: 2}},
	} {
		name := nameOf(c.without)
		t.Run(name, func(t *testing.T) {
			for _, rule := range rolloutChecks {
				if nameOf(rule) != name {
					c.in.checks = append(c.in.checks, rule)
				}
			}
			if len(c.in.checks) != len(rolloutChecks)-1 {
				t.Fatal("the rule is not among the checks")
			}
			_, story := c.in.explore()
			if !strings.Contains(story, "BROKEN") {
				t.Errorf("without the rule no bound is broken; found %q", story)
			}
			t.Logf("\n%s", story)
		})
	}
}

// seenAlone are the counts of a rollout without the slots ahead that are not seen under way.
var seenAlone = []check{
	func(r *rollout, i int, how change) string {
		return alone(r, i, how == stopFirst, r.unavailable, func(o place) bool { return !o.ready })
	},
	func(r *rollout, i int, how change) string {
		return alone(r, i, how == surgeBeside, r.surge, func(o place) bool { return o.surging })
	},
}

func alone(r *rollout, i int, concerns bool, limit int, underWay func(place) bool) string {
	n := 0
	for j, o := range r.places {
		if j != i && underWay(o) {
			n++
		}
	}
	if concerns && n >= limit {
		return "waits"
	}
	return ""
}

// TestCountingIsNotEnough: what a node sees of the others is old. So slots change in order, some by surge and
// the others stop first, and those ahead count before they are seen under way.
func TestCountingIsNotEnough(t *testing.T) {
	ordered := append([]check{promises, inOrder}, seenAlone...)
	for _, c := range []struct {
		name string
		in   trial
		want string // in the story; "" when there is none
	}{
		{"by counts alone, stop first", trial{nodes: 2, unavailable: 1, commits: 1, checks: seenAlone}, "2 slots are down"},
		{"by counts alone, surge", trial{nodes: 2, surge: 1, commits: 1, checks: seenAlone}, "2 slots surge"},
		{"in order", trial{nodes: 3, surge: 1, unavailable: 1, commits: 1, checks: ordered}, ""},
		{"in order, all stop first", trial{nodes: 3, surge: 1, unavailable: 1, commits: 1, checks: ordered, without: ruleSurges}, "2 slots are down"},
		{"in order, all surge", trial{nodes: 3, surge: 1, unavailable: 1, commits: 1, checks: ordered, without: ruleStops}, "2 slots surge"},
		// Slot 2, stopped by the commit before, is seen by all, but slots 0 and 1 do not see each other.
		{"in order, two commits", trial{nodes: 3, unavailable: 2, commits: 2, checks: ordered}, "3 slots are down"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if testing.Short() && c.in.commits > 1 {
				t.Skip("a large space")
			}
			if _, story := c.in.explore(); !strings.Contains(story, c.want) || c.want == "" && story != "" {
				t.Errorf("want %q, got %q", c.want, story)
			}
		})
	}
}

// TestASlotThatIsNeverReadyHoldsTheOthersForAWhile alone.
func TestASlotThatIsNeverReadyHoldsTheOthersForAWhile(t *testing.T) {
	for without, waits := range map[rule]bool{noRule: false, ruleOverdue: true} {
		r := &rollout{unavailable: 1, places: []place{{ready: true, overdue: true}, {ready: true}}, without: without}
		if why := inOrder(r, 1, stopFirst); why != "" != waits {
			t.Errorf("without rule %d: %q", without, why)
		}
	}
}

func nameOf(c check) string {
	name := runtime.FuncForPC(reflect.ValueOf(c).Pointer()).Name()
	return name[strings.LastIndex(name, ".")+1:]
}
