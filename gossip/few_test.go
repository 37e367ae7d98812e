package gossip

import (
	"testing"
	"time"
)

// TestFewAreToldByTheWriter: among few others who has news tells each of them, in one hop and with one word
// passed on by each; and who is out of the writer's reach hears of it from another.
func TestFewAreToldByTheWriter(t *testing.T) {
	const n = 20
	f := newFlock(t, 14, n, true)
	far := f.names[13]
	f.blocked = func(from, to string) bool { return from == f.names[0] && to == far }
	start, before := f.now, f.messages
	f.publish(f.names[0], 1, 2)
	f.do(f.names[0], Verified{commitOf("first", 1)})
	f.run(5*f.between, nil)
	for _, name := range f.names[1:] {
		if name == far {
			continue
		}
		if f.arrived[name].IsZero() {
			t.Errorf("%s does not have the document after one hop", name)
		}
		if got := events[Look](f, name); len(got) != 1 || got[0].From != f.names[0] {
			t.Errorf("%s looks for the head with %v; want with who has verified it", name, got)
		}
	}
	if got, most := f.messages-before, 3*n+2; got > most {
		t.Errorf("%d messages for a document and a head; want at most %d", got, most)
	}
	f.run(2*CompareEvery, nil)
	if at := f.arrived[far]; at.IsZero() || at.Sub(start) > CompareEvery+time.Second {
		t.Errorf("who is out of the writer's reach has the document at %v, %v after the others", at, at.Sub(start))
	}
}

// TestFewIsNeeded: without the rule of few, a document is not with all of Few others after one hop, nor is it
// with one more of them, where the rule is not in force.
func TestFewIsNeeded(t *testing.T) {
	for _, c := range []struct {
		nodes   int
		without rule
		oneHop  bool
	}{
		{Few + 1, noRule, true},
		{Few + 1, ruleFew, false},
		{Few + 2, noRule, false},
	} {
		f := newFlock(t, 15, c.nodes, true)
		for _, s := range f.nodes {
			s.without = c.without
		}
		f.publish(f.names[0], 1, 2)
		f.run(5*f.between, nil)
		have := 0
		for _, name := range f.names[1:] {
			if !f.arrived[name].IsZero() {
				have++
			}
		}
		if got := have == c.nodes-1; got != c.oneHop {
			t.Errorf("%d nodes without rule %d: %d have the document after one hop", c.nodes, c.without, have)
		}
		f.run(4*CompareEvery, f.agree)
		if !f.agree() {
			t.Errorf("%d nodes without rule %d: the document is not everywhere", c.nodes, c.without)
		}
	}
}
