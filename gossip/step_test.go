package gossip

import (
	"bytes"
	"crypto/ed25519"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pleachdev/pleach/reconcile"
)

// events returns a node's effects of one type so far.
func events[T Effect](f *flock, node string) []T {
	var out []T
	for _, e := range f.effects[node] {
		if x, ok := e.(T); ok {
			out = append(out, x)
		}
	}
	return out
}

func TestFlockConverges(t *testing.T) {
	f := newFlock(t, 3, 60, false)
	f.loss = 0.2
	for _, n := range f.names {
		f.do(n, Publish{f.document(n, 1, 2), nil})
	}
	f.run(time.Minute, f.agree)
	if !f.agree() {
		t.Fatal("after a minute nodes hold different documents")
	}
	for _, n := range f.names {
		if got := f.nodes[n].Documents(); len(got) != 60 || got[7].Version.Number != (Number{1, 2}) {
			t.Fatalf("%s has %d documents", n, len(got))
		}
	}
}

func TestPartitionHeals(t *testing.T) {
	f := newFlock(t, 4, 40, true)
	side := func(n string) bool { return n < f.names[15] }
	f.blocked = func(from, to string) bool { return side(from) != side(to) }
	f.publish(f.names[3], 1, 5)
	f.do(f.names[30], Publish{f.document(f.names[30], 2, 1), nil})
	f.run(20*time.Second, nil)
	if len(f.arrived) != 15 {
		t.Errorf("%d nodes have the document; want the 15 of its side", len(f.arrived))
	}
	f.blocked = nil
	start := f.now
	f.run(time.Minute, f.agree)
	if took := f.now.Sub(start); took > 10*time.Second {
		t.Errorf("agreed %v after the healing", took)
	}
}

// TestJoin is a node that knows nothing: it gets everything about once, and is no news to others.
func TestJoin(t *testing.T) {
	const n = 400
	f := newFlock(t, 5, n, true)
	all := 0
	for _, d := range f.nodes[f.names[0]].Documents() {
		all += len(d.Bytes())
	}
	newcomer := NewState(f.names[9], 1)
	newcomer.rng.Seed(9, 9)
	f.nodes[f.names[9]] = &newcomer
	f.do(f.names[9], Enrolled{Names: f.names})
	f.do(f.names[9], Members{f.names})
	f.run(3*time.Second, nil)
	before := f.sent
	f.do(f.names[9], Publish{f.document(f.names[9], 2, 1), nil})
	f.run(4*time.Second, nil)
	f.run(20*time.Second, f.agree)
	if !f.agree() {
		t.Fatal("the newcomer lacks documents")
	}
	if got, most := f.sent-before, 2*all+n*3500; got > most {
		t.Errorf("%d bytes were sent for a newcomer to %d bytes of documents; want at most %d", got, all, most)
	}
}

func TestClaimsGoStraight(t *testing.T) {
	f := newFlock(t, 6, 100, true)
	start := f.now
	f.publish(f.names[0], 1, 2, f.names[50], f.names[99])
	f.run(time.Second, nil)
	for _, n := range []string{f.names[50], f.names[99]} {
		if took := f.arrived[n].Sub(start); took > 5*f.between {
			t.Errorf("%s has the claim after %v; want one hop", n, took)
		}
	}
}

// TestVoid: the document of a node that was held for gone counts for nothing until the node itself has
// handed over a current one, whoever else still passes the old one on.
func TestVoid(t *testing.T) {
	f := newFlock(t, 7, 5, true)
	a, b, c := f.names[0], f.names[1], f.names[2]
	old := f.nodes[a].held[IDOf(b)]
	newer := f.document(b, 1, 2)
	f.do(a, Gone{b})
	counts := func(want bool, when string) {
		t.Helper()
		if _, ok := f.nodes[a].Document(b); ok != want {
			t.Errorf("%s: the document counts: %v", when, ok)
		}
		if listed := len(f.nodes[a].Documents()) == 5; listed != want {
			t.Errorf("%s: the document is listed: %v", when, listed)
		}
	}
	counts(false, "gone")
	f.do(a, Receive{c, Message{Documents: []Sealed{old}}})
	counts(false, "the old one from another")
	f.do(a, Receive{c, Message{Documents: []Sealed{newer}}})
	counts(false, "a newer one from another")
	f.do(a, Receive{b, Message{Documents: []Sealed{old}}})
	counts(false, "an old one from itself")
	f.do(a, Receive{b, Message{Documents: []Sealed{newer}}})
	counts(true, "the newest from itself")
	if got := events[Changed](f, a); len(got) != 2 || !reflect.DeepEqual(got[1].Nodes, []string{b}) {
		t.Errorf("changed: %v; want twice, when gone and when back", got)
	}

	f.do(a, Gone{c})
	f.run(5*time.Second, nil)
	if _, ok := f.nodes[a].Document(c); !ok {
		t.Error("a node that can be reached again was not asked for its document")
	}
}

// TestVoidIsNeeded: a machine was switched off and came back, and nothing that its last document tells of runs any
// more. Others pass that document on, and one that it wrote shortly before. Whoever believes either takes slots for
// filled that are empty.
func TestVoidIsNeeded(t *testing.T) {
	for _, c := range []struct {
		without rule
		counts  [3]bool // when gone, when others hand over the old document, and when a newer one
	}{
		{noRule, [3]bool{false, false, false}},
		{ruleVoid, [3]bool{true, true, true}},
		{ruleHanded, [3]bool{false, true, true}},
	} {
		f := newFlock(t, 7, 5, true)
		a, b, others := f.names[0], f.names[1], f.names[2]
		f.nodes[a].without = c.without
		old, newer := f.nodes[a].held[IDOf(b)], f.document(b, 1, 2)
		var got [3]bool
		for i, e := range []Event{Gone{b}, Receive{others, Message{Documents: []Sealed{old}}}, Receive{others, Message{Documents: []Sealed{newer}}}} {
			f.do(a, e)
			_, got[i] = f.nodes[a].Document(b)
		}
		if got != c.counts {
			t.Errorf("without rule %d: the document counts: %v, want %v", c.without, got, c.counts)
		}
	}
}

// TestNumbersNeedTheirRules: a node whose counter was set back is not heard any more unless it jumps, and two
// machines with one key jump without end unless they stop.
func TestNumbersNeedTheirRules(t *testing.T) {
	for without, heard := range map[rule]bool{noRule: true, ruleJump: false} {
		f := newFlock(t, 8, 5, true)
		a, b := f.names[0], f.names[1]
		f.nodes[a].without = without
		f.nodes[b].store(f.document(a, 5, 9))
		f.run(10*time.Second, nil)
		boot := int64(1)
		for _, e := range events[Renumber](f, a) {
			boot = int64(e.Boot)
		}
		f.publish(a, boot, 2)
		f.run(10*time.Second, nil)
		if got := len(f.arrived) == len(f.names); got != heard {
			t.Errorf("without rule %d: the new document is everywhere: %v", without, got)
		}
	}
	for without, ends := range map[rule]bool{noRule: true, ruleContested: false} {
		f := newFlock(t, 8, 5, true)
		a, b := f.names[0], f.names[1]
		f.nodes[a].without = without
		other, jumps := int64(5), 0
		for range 40 {
			other++ // the twin jumps each time as well
			f.do(a, Receive{b, Message{Documents: []Sealed{f.document(a, other, 1)}}})
			for _, e := range events[Renumber](f, a)[jumps:] {
				jumps, other = jumps+1, int64(e.Boot)
				f.do(a, Publish{f.document(a, other, 1), nil})
			}
			f.now = f.now.Add(time.Second)
		}
		if got := jumps < 20; got != ends || f.nodes[a].Contested() != ends {
			t.Errorf("without rule %d: %d jumps, contested: %v", without, jumps, f.nodes[a].Contested())
		}
	}
}

// TestOwnSignature: a counter that was set back is jumped over once; a second machine with the same
// key makes both stop.
func TestOwnSignature(t *testing.T) {
	f := newFlock(t, 8, 5, true)
	a, b := f.names[0], f.names[1]
	lost := f.document(a, 5, 9)
	f.nodes[b].store(lost)
	f.run(10*time.Second, nil)
	got := events[Renumber](f, a)
	if len(got) != 1 || got[0].Boot != 6 {
		t.Fatalf("got %v; want one jump to boot 6", got)
	}
	f.do(a, Publish{f.document(a, 6, 1), nil})
	f.run(10*time.Second, nil)
	if !f.agree() || len(events[Renumber](f, a)) != 1 {
		t.Error("the flock does not settle on the new number")
	}

	// The twin has another content under the same numbers, and does as the real one.
	original, twin := f.nodes[a], NewState(a, 77)
	f.nodes[a] = &twin
	f.do(a, Enrolled{Names: f.names})
	f.nodes[a], twin = original, *f.nodes[a]
	states := []*State{original, &twin}
	for i, s := range states {
		d := nodeDocument(a, i)
		d.Boot, d.Seq = 6, 2
		*s, _ = Step(*s, Publish{sealed(t, d), nil}, f.now)
	}
	var contested [2]bool
	jumps := 0
	for round := range 40 {
		me, other := states[round%2], states[1-round%2]
		f.now = f.now.Add(time.Second)
		var effects []Effect
		*me, effects = Step(*me, Receive{b, Message{Documents: []Sealed{other.held[IDOf(a)]}}}, f.now)
		for _, e := range effects {
			switch e := e.(type) {
			case Renumber:
				jumps++
				d := nodeDocument(a, round%2)
				d.Boot, d.Seq = int64(e.Boot), 1
				*me, _ = Step(*me, Publish{sealed(t, d), nil}, f.now)
			case Contested:
				contested[round%2] = true
			}
		}
	}
	if !contested[0] || !contested[1] || jumps > 4*maxJumps {
		t.Errorf("contested %v after %d jumps; want both, and then silence", contested, jumps)
	}
	if !original.Contested() || !twin.Contested() {
		t.Error("a state does not know that it is contested")
	}
}

// TestWordsThatAreMadeUp: a peer that announces versions that do not exist makes nobody talk much, and
// keeps no real document away for long.
func TestWordsThatAreMadeUp(t *testing.T) {
	f := newFlock(t, 9, 50, true)
	liar, victim := f.names[0], f.names[1]
	before := f.sent
	for i := range uint32(100) {
		m := Message{Announce: []Version{{Node: IDOf(victim), Number: Number{9, i}, Hash: uint64(i)}}}
		f.at(f.now.Add(time.Duration(i)*10*time.Millisecond), f.names[2], Receive{liar, m})
	}
	f.publish(victim, 1, 2)
	f.run(30*time.Second, nil)
	if len(f.arrived) != 50 {
		t.Errorf("%d of 50 nodes have the real document", len(f.arrived))
	}
	if got := f.sent - before; got > 600_000 {
		t.Errorf("%d bytes sent", got)
	}
	if n := len(f.nodes[f.names[2]].wants); n != 0 {
		t.Errorf("%d documents that do not exist are still waited for", n)
	}
}

func TestHeads(t *testing.T) {
	f := newFlock(t, 10, 200, true)
	f.loss = 0.05
	f.do(f.names[0], Verified{commitOf("first", 1)})
	f.run(time.Second, nil)
	looked := 0
	for _, n := range f.names {
		if got := events[Look](f, n); len(got) > 1 {
			t.Errorf("%s looks %d times", n, len(got))
		} else if len(got) == 1 {
			looked++
		}
	}
	if looked < 190 {
		t.Errorf("%d of 199 nodes heard of the head within a second", looked)
	}
	// Made up heads die out: each node passes on a few in a while.
	before := f.messages
	for i := range int64(1000) {
		f.do(f.names[5], Receive{f.names[4], Message{Head: commitOf("fake"+string(rune('a'+i)), 100+i)}})
	}
	f.run(time.Second, nil)
	if got := f.messages - before; got > 200*(Fanout*headHints+10) {
		t.Errorf("%d messages for made up heads", got)
	}
}

func TestEnrolled(t *testing.T) {
	f := newFlock(t, 11, 5, true)
	a := f.names[0]
	f.do(a, Enrolled{Names: f.names[:3]})
	if got := f.nodes[a].Documents(); len(got) != 3 {
		t.Errorf("%d documents of 3 nodes", len(got))
	}
	f.do(a, Receive{f.names[4], Message{Documents: []Sealed{f.document(f.names[4], 2, 1)}}})
	if _, ok := f.nodes[a].Document(f.names[4]); ok {
		t.Error("the document of a node that is not enrolled was taken")
	}
	// Nor does a node that is not enrolled itself lose its own.
	f.do(a, Enrolled{})
	if _, ok := f.nodes[a].Document(a); !ok {
		t.Error("a node lost its own document")
	}
}

// TestANewKeyBeginsAnew: a machine that is enrolled anew has a new key and counts from one. The document of
// its old key must not stand in the way, nor come back.
func TestANewKeyBeginsAnew(t *testing.T) {
	f := newFlock(t, 12, 3, true)
	a, b, c := f.names[0], f.names[1], f.names[2]
	old := f.document(c, 7, 100)
	f.do(a, Receive{c, Message{Documents: []Sealed{old}}})
	next := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{99}, ed25519.SeedSize))
	renewed, err := Encode(reconcile.Document{Node: c, Boot: 1, Seq: 1}, next)
	if err != nil {
		t.Fatal(err)
	}
	public := func(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }
	keys := map[string][]ed25519.PublicKey{a: {public(keyOf(a))}, b: {public(keyOf(b))}}

	// While both keys are the node's, nothing is dropped.
	keys[c] = []ed25519.PublicKey{public(keyOf(c)), public(next)}
	f.do(a, Enrolled{f.names, keys})
	if d, _ := f.nodes[a].Document(c); d.Version != old.Version {
		t.Fatalf("the document is %v while its key is enrolled, want %v", d.Version, old.Version)
	}
	keys[c] = keys[c][1:]
	f.effects[a] = nil
	f.do(a, Enrolled{f.names, keys})
	if d, ok := f.nodes[a].Document(c); ok {
		t.Fatalf("the document %v of a key that is enrolled no more still counts", d.Version)
	}
	if got := f.effects[a]; len(got) != 1 || !slices.Equal(got[0].(Changed).Nodes, []string{c}) {
		t.Errorf("effects %v, want that the document of %s has changed", got, c)
	}
	f.do(a, Receive{c, Message{Documents: []Sealed{renewed}}})
	if d, ok := f.nodes[a].Document(c); !ok || d.Version != renewed.Version {
		t.Errorf("the document is %v, want that of the new key", d.Version)
	}
	var hash uint64
	for _, d := range f.nodes[a].held {
		hash ^= d.Version.Hash
	}
	if got, want := f.nodes[a].sum(Range{}), (Sum{Count: 3, Hash: hash}); got != want {
		t.Errorf("the sum of what is held is %v, want %v", got, want)
	}
	// A node does not drop its own: a rotation may be finished before its agent has the new key.
	keys[a] = []ed25519.PublicKey{public(next)}
	f.do(a, Enrolled{f.names, keys})
	if _, ok := f.nodes[a].Document(a); !ok {
		t.Error("a node lost its own document")
	}
}

// TestALostCounterIsTold: a node that says that it is further back than its own document is told at once.
func TestALostCounterIsTold(t *testing.T) {
	f := newFlock(t, 13, 3, true)
	a, c := f.names[0], f.names[2]
	held := f.document(c, 7, 100)
	f.do(a, Receive{c, Message{Documents: []Sealed{held}}})
	f.do(a, Receive{f.names[1], Message{Announce: []Version{f.document(c, 7, 101).Version}}}) // and will never come
	for name, m := range map[string]Message{
		"a document": {Documents: []Sealed{f.document(c, 1, 1)}},
		"a word":     {Announce: []Version{f.document(c, 1, 1).Version}},
	} {
		_, effects := Step(*f.nodes[a], Receive{c, m}, f.now)
		if len(effects) != 1 || len(effects[0].(Send).Message.Documents) != 1 || effects[0].(Send).Message.Documents[0].Version != held.Version {
			t.Errorf("after %s that is older the node gets %v, want its own newer one", name, effects)
		}
		// From others that is no news.
		if _, effects := Step(*f.nodes[a], Receive{f.names[1], m}, f.now); len(effects) != 0 {
			t.Errorf("after %s by another node: %v", name, effects)
		}
	}
}

func TestStepIsAFunction(t *testing.T) {
	story := func() []string {
		f := newFlock(t, 12, 30, true)
		var log []string
		f.mangle = func(m *Message) { log = append(log, asJSON(t, m.Announce)+asJSON(t, m.Compare)+asJSON(t, m.Fetch)) }
		f.loss = 0.1
		f.publish(f.names[0], 1, 2)
		f.run(10*time.Second, nil)
		return log
	}
	if a, b := story(), story(); !slices.Equal(a, b) {
		t.Error("the same seed tells two stories")
	}
}

func TestLargeDocumentsTravelApart(t *testing.T) {
	f := newFlock(t, 13, 8, true)
	large := func(n string) Sealed {
		d := nodeDocument(n, 0)
		for range 40 {
			d.Conditions = append(d.Conditions, d.Conditions[0])
			d.Conditions[0].Message = strings.Repeat("x", 10000)
		}
		return sealed(t, d)
	}
	var fetch []NodeID
	for _, n := range f.names[1:] {
		f.nodes[f.names[0]].store(large(n))
		fetch = append(fetch, IDOf(n))
	}
	_, effects := Step(*f.nodes[f.names[0]], Receive{f.names[1], Message{Fetch: fetch}}, f.now)
	got := 0
	for _, e := range effects {
		if s, ok := e.(Send); ok {
			got += len(s.Message.Documents)
			data, err := s.Message.Encode()
			if err != nil || len(data) > MaxMessageSize {
				t.Errorf("a message of %d bytes, %v", len(data), err)
			}
		}
	}
	if got != len(fetch) || len(effects) < 3 {
		t.Errorf("%d of %d documents in %d messages", got, len(fetch), len(effects))
	}
}

// heapBytes returns the bytes in use.
func heapBytes() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestMemory holds the documents of 5,000 nodes with 25 instances each, as one agent does.
func TestMemory(t *testing.T) {
	s := NewState("node-0000", 1)
	base := sealed(t, nodeDocument("node-0000", 25))
	before := heapBytes()
	for i := range 5000 {
		d := base
		d.data = slices.Clone(base.data)
		d.payload = d.data[len(d.data)-trailer-len(base.payload):][:len(base.payload)]
		d.Version.Node += NodeID(i) << 40
		s.enrolled[d.Version.Node] = d.Node
		s.store(d)
	}
	held := heapBytes() - before
	t.Logf("5,000 documents of 25 instances: %.1f MB", float64(held)/1e6)
	if held > 25e6 {
		t.Errorf("%d bytes; want at most 25 MB", held)
	}
	runtime.KeepAlive(s)
}
