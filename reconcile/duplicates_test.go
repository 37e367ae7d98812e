package reconcile

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// The explorer of duplicates walks every state that two or three nodes can reach which have each claimed one
// slot at one revision: documents arrive in order for each pair of nodes and at any time, readiness comes
// and goes, questions are answered at any time or never. It asks favours itself. Time is left out: an answer
// counts until it is let go, and binds the node that gave it as long.

// dup is one state. Node 0 has the earliest right.
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
	nodes   int
	flaps   uint8
	without rule
	leaving int // the node that is drained; -1: none
}

func (x dupTrial) say(s dup, j int) (dup, bool) {
	for i := range x.nodes {
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

func (x dupTrial) next(s dup, add func(dup, string)) {
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
	for i := range x.nodes {
		switch {
		case s.phase[i] == dupStarts || s.phase[i] == dupUnready:
			become(i, dupReady, "is ready")
		case s.phase[i] == dupReady && s.flaps < x.flaps:
			become(i, dupUnready, "fails a probe")
		}
		for j := range x.nodes {
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
			if s.word[i][j] == wordAsked && s.phase[j] == dupReady && !x.yields(s, j, i) {
				t := s
				t.word[i][j] = wordGiven
				add(t, fmt.Sprintf("  node %d tells node %d that it keeps its pod", j, i))
			}
			if s.phase[i] == dupEnded || !favours(x.pod(s.phase[i], i, i), x.pod(s.heard[i][j][0], j, i)) || s.heard[i][j][0] == dupEnded {
				continue
			}
			bound := false
			for k := range x.nodes {
				bound = bound || s.word[k][i] == wordGiven && x.without != ruleWord
			}
			switch {
			case s.word[i][j] == wordNone && x.without != ruleEvidence:
				t := s
				t.word[i][j] = wordAsked
				add(t, fmt.Sprintf("  node %d asks node %d whether it keeps its pod", i, j))
			case (s.word[i][j] == wordGiven || x.without == ruleEvidence) && !bound:
				become(i, dupEnded, fmt.Sprintf("ends in favour of pod %d", j))
			}
		}
	}
}

func (x dupTrial) pod(phase uint8, i, than int) keeper {
	return keeper{ready: phase == dupReady, senior: i < than, leaving: i == x.leaving}
}

// yields is mayRely's rule: with a ready senior in sight, other than the asker's, a node promises nothing.
func (x dupTrial) yields(s dup, j, asker int) bool {
	for k := range j {
		if k != asker && s.heard[j][k][0] == dupReady {
			return true
		}
	}
	return false
}

// explore returns the shortest story that ends with a slot in which no pod lives that was ever ready, though
// one was; "" when there is none.
func (x dupTrial) explore() (states int, story string) {
	type step struct {
		from int
		what string
	}
	all, steps, known := []dup{{}}, []step{{-1, "all start"}}, map[dup]bool{{}: true}
	for at := 0; at < len(all) && story == ""; at++ {
		x.next(all[at], func(t dup, what string) {
			if known[t] || story != "" {
				return
			}
			known[t] = true
			all, steps = append(all, t), append(steps, step{at, what})
			was, lives := false, false
			for i := range x.nodes {
				was = was || t.was[i]
				lives = lives || t.was[i] && t.phase[i] != dupEnded
			}
			if was && !lives {
				lines := []string{"BROKEN: nothing is left in the slot"}
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

func TestDuplicatesNeverEmptyASlot(t *testing.T) {
	for _, x := range []dupTrial{{nodes: 2, flaps: 2, leaving: -1}, {nodes: 2, flaps: 2, leaving: 1}, {nodes: 3, flaps: 1, leaving: -1}} {
		if testing.Short() && x.nodes > 2 {
			continue
		}
		states, story := x.explore()
		if story != "" {
			t.Errorf("%+v\n%s", x, story)
		}
		t.Logf("%+v: %d states", x, states)
	}
}

func TestEveryRuleOfDuplicatesIsNeeded(t *testing.T) {
	for _, c := range []struct {
		name string
		in   dupTrial
	}{
		{"evidence", dupTrial{nodes: 2, flaps: 1, leaving: -1, without: ruleEvidence}},
		{"who gave its word stays", dupTrial{nodes: 2, flaps: 1, leaving: -1, without: ruleWord}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, story := c.in.explore()
			if !strings.Contains(story, "BROKEN") {
				t.Error("without the rule nothing breaks")
			}
			t.Logf("\n%s", story)
		})
	}
}
