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

// scene is one state of the flock.
type scene struct {
	notes   [maxNodes][]note          // published by each node, the last is the truth
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
}

func (x trial) revision(commit uint8) uint8 {
	if x.revert && commit == x.commits {
		return 0
	}
	return commit
}

// key names a scene; what every node has read past is left out.
func (x trial) key(s *scene) string {
	var b []byte
	for j := range x.nodes {
		low := s.seen[j][j]
		for i := range x.nodes {
			low = min(low, s.seen[i][j])
		}
		for _, n := range s.notes[j][low:] {
			v := n.accepted<<6 | n.revision<<4 | n.next<<2
			if n.ready {
				v |= 1
			}
			if n.surging {
				v |= 2
			}
			b = append(b, v)
		}
		b = append(b, 0xff)
		for i := range x.nodes {
			b = append(b, s.seen[i][j]-low)
		}
		if s.rolling[j] {
			b = append(b, 1)
		}
	}
	return string(append(b, s.flaps))
}

func (s *scene) truth(i int) note { return s.notes[i][len(s.notes[i])-1] }

// with returns a scene in which node i has published n.
func (s *scene) with(i int, n note) *scene {
	t := *s
	t.notes[i] = append(slices.Clip(slices.Clone(s.notes[i])), n)
	t.seen[i][i] = uint8(len(t.notes[i]) - 1)
	return &t
}

// view is the rollout as node i sees it.
func (x trial) view(s *scene, i int) *rollout {
	r := &rollout{surge: x.surge, unavailable: x.unavailable, checks: x.checks}
	mine := s.truth(i)
	for j := range x.nodes {
		n := s.notes[j][s.seen[i][j]]
		r.places = append(r.places, place{
			label: fmt.Sprint("slot ", j), ready: n.ready, surging: n.surging,
			updated:  n.ready && !n.surging && n.revision == x.revision(mine.accepted),
			promised: n.accepted >= mine.accepted,
		})
	}
	return r
}

type move struct {
	to   *scene
	what string
}

func letter(revision uint8) string { return string(rune('A' + revision)) }

// moves lists what can happen next.
func (x trial) moves(s *scene) (out []move) {
	add := func(to *scene, format string, args ...any) { out = append(out, move{to, fmt.Sprintf(format, args...)}) }
	for i := range x.nodes {
		n := s.truth(i)
		target := x.revision(n.accepted)
		if n.accepted < x.commits {
			m := n
			m.accepted++
			add(s.with(i, m), "node %d accepts commit %d (revision %s)", i, m.accepted, letter(x.revision(m.accepted)))
		}
		switch {
		case n.surging && (n.next != target || n.revision == target):
			m := n
			m.surging, m.next = false, 0
			add(s.with(i, m), "node %d stops the surplus pod of slot %d at %s", i, i, letter(n.next))
		case n.surging:
			m := n
			m.surging, m.next, m.revision, m.ready = false, 0, n.next, true
			t := s.with(i, m)
			t.rolling[i] = false
			add(t, "the surge pod of slot %d is ready at %s, the old one stops", i, letter(n.next))
		case n.revision != target:
			how, _ := x.view(s, i).may(i)
			m := n
			switch how {
			case wait:
			case surgeBeside:
				m.surging, m.next = true, target
				add(s.with(i, m), "node %d starts %s beside %s in slot %d", i, letter(target), letter(n.revision), i)
			case stopFirst:
				m.revision, m.ready = target, false
				t := s.with(i, m)
				t.rolling[i] = s.rolling[i] || n.ready
				add(t, "node %d stops %s (ready=%v) of slot %d to start %s", i, letter(n.revision), n.ready, i, letter(target))
			}
		}
		if !n.ready {
			m := n
			m.ready = true
			t := s.with(i, m)
			t.rolling[i] = false
			add(t, "slot %d is ready at %s", i, letter(n.revision))
		} else if s.flaps < x.flaps {
			m := n
			m.ready = false
			t := s.with(i, m)
			t.flaps++
			add(t, "slot %d loses readiness by itself", i)
		}
		for j := range x.nodes {
			if i != j && int(s.seen[i][j]) < len(s.notes[j])-1 {
				t := *s
				t.seen[i][j]++
				m := t.notes[j][t.seen[i][j]]
				add(&t, "  node %d reads of node %d: accepted %d, %s, ready=%v, surging=%v", i, j, m.accepted, letter(m.revision), m.ready, m.surging)
			}
		}
	}
	return out
}

// broken says which bound a scene is outside of.
func (x trial) broken(s *scene) string {
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
func (x trial) explore() (states int, story string) {
	start := &scene{}
	for i := range x.nodes {
		start.notes[i] = []note{{ready: true}}
	}
	type step struct {
		from int
		what string
	}
	queue, steps, known := []*scene{start}, []step{{-1, "all ready at A"}}, map[string]bool{x.key(start): true}
	tell := func(at int, end string) string {
		lines := []string{end}
		for ; at >= 0; at = steps[at].from {
			lines = append(lines, steps[at].what)
		}
		slices.Reverse(lines)
		return strings.Join(lines, "\n")
	}
	for at := 0; at < len(queue); at++ {
		s := queue[at]
		queue[at] = nil
		next := x.moves(s)
		if len(next) == 0 {
			for i := range x.nodes {
				if n := s.truth(i); n.revision != x.revision(x.commits) || !n.ready {
					return len(queue), tell(at, fmt.Sprintf("STUCK: slot %d stays at %s", i, letter(n.revision)))
				}
			}
		}
		for _, m := range next {
			k := x.key(m.to)
			if known[k] {
				continue
			}
			known[k] = true
			queue, steps = append(queue, m.to), append(steps, step{at, m.what})
			if why := x.broken(m.to); why != "" {
				return len(queue), tell(len(steps)-1, "BROKEN: "+why)
			}
		}
	}
	return len(queue), ""
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
	} {
		x.checks = rolloutChecks
		if testing.Short() && (x.nodes > 2 || x.commits > 2) && x.surge+x.unavailable > 1 || testing.Short() && x.revert {
			continue // the largest spaces
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

// TestSlotsAboutToStopCount shows why within counts slots ahead that are not seen under way: slot 2,
// stopped by the commit before, is seen by all, but slots 0 and 1 do not see each other.
func TestSlotsAboutToStopCount(t *testing.T) {
	if testing.Short() {
		t.Skip("half a minute under the race detector")
	}
	seenAlone := func(r *rollout, i int, how change) string {
		down := 0
		for j, o := range r.places {
			if j != i && !o.ready {
				down++
			}
		}
		if how == stopFirst && down >= r.unavailable {
			return "waits"
		}
		return ""
	}
	x := trial{nodes: 3, unavailable: 2, commits: 2, checks: []check{promises, inOrder, seenAlone, withinSurge}}
	if _, story := x.explore(); !strings.Contains(story, "BROKEN: 3 slots are down") {
		t.Errorf("got %q", story)
	}
}

func nameOf(c check) string {
	name := runtime.FuncForPC(reflect.ValueOf(c).Pointer()).Name()
	return name[strings.LastIndex(name, ".")+1:]
}
