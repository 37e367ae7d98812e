package gossip

import (
	"cmp"
	"crypto/ed25519"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/pleachdev/pleach/reconcile"
)

// Event is what Step is told. It is one of Tick, Publish, Receive, Members, Enrolled, Gone and Verified.
type Event interface{ event() }

// Tick says that time has passed.
type Tick struct{}

// Publish says that this node has a new document. Direct names nodes that get it straight: the
// registrar and the candidates of slots that it claims.
type Publish struct {
	Document Sealed
	Direct   []string
}

// Receive brings a message. From is the node that the connection's key belongs to.
type Receive struct {
	From    string
	Message Message
}

// Members names all nodes that can be reached now; this node itself may be among them.
type Members struct{ Names []string }

// Enrolled names all nodes that the accepted state of the config repository has, and their keys. A
// document whose key is its node's no more counts for nothing from then on, whatever its number is: a node
// that begins anew with an empty disk and a new key begins to count anew. Without Keys all keep theirs.
type Enrolled struct {
	Names []string
	Keys  map[string][]ed25519.PublicKey
}

// Gone says that a node is held for dead.
type Gone struct{ Node string }

// Verified says that this node has verified a new head.
type Verified struct{ Head reconcile.Commit }

func (Tick) event()     {}
func (Publish) event()  {}
func (Receive) event()  {}
func (Members) event()  {}
func (Enrolled) event() {}
func (Gone) event()     {}
func (Verified) event() {}

// Effect is what Step asks for. It is one of Send, Changed, Look, Renumber and Contested.
type Effect interface{ effect() }

// Send asks for a message to be sent. It may be lost; nothing waits for it.
type Send struct {
	To      string
	Message Message
}

// Changed names nodes whose documents were replaced, or count from now on or no more; sorted.
type Changed struct{ Nodes []string }

// Look asks for a look at the remote, where From has seen a head that this node has not.
type Look struct {
	Head reconcile.Commit
	From string
}

// Renumber says that a newer document with this node's own signature is about: the boot counter on
// disk is to be at least Boot, and the document to be published anew under it.
type Renumber struct{ Boot uint32 }

// Contested says that another machine has this node's key: the node claims nothing any more and says so.
type Contested struct{ Other Version }

func (Send) effect()      {}
func (Changed) effect()   {}
func (Look) effect()      {}
func (Renumber) effect()  {}
func (Contested) effect() {}

// Step takes one event. It takes s over and returns the next state, and what is to be done in order.
// Nothing depends on what becomes of the effects: messages may be lost, late, doubled and out of order.
func Step(s State, e Event, now time.Time) (State, []Effect) {
	t := step{State: &s, now: now, out: s.out[:0]}
	if s.compare.IsZero() {
		// Nodes that start together do not compare together.
		s.compare = now.Add(time.Duration(rand.New(s.rng).Int64N(int64(CompareEvery))))
	}
	switch e := e.(type) {
	case Tick:
	case Publish:
		t.publish(e)
	case Receive:
		t.receive(e.From, e.Message)
	case Members:
		s.peers = slices.DeleteFunc(slices.Clone(e.Names), func(n string) bool { return n == s.self })
		slices.Sort(s.peers)
		t.askVoid()
	case Enrolled:
		clear(s.enrolled)
		for _, name := range e.Names {
			s.enrolled[IDOf(name)] = name
		}
		for _, name := range s.forget(e.Keys) {
			t.change(name)
		}
	case Gone:
		if id := IDOf(e.Node); id != s.id && !s.void[id] && s.without != ruleVoid {
			s.void[id] = true
			t.change(e.Node)
		}
	case Verified:
		if e.Head.Level > s.head.Level {
			s.head = e.Head
			t.tellHead(e.Head)
		}
	}
	t.fetchAgain()
	if !now.Before(s.compare) {
		s.compare = now.Add(CompareEvery)
		t.startComparison()
	}
	effects := t.finish()
	clear(t.out) // nothing of it is held on to
	s.out = t.out
	return s, effects
}

// step is one run of Step.
type step struct {
	*State
	now     time.Time
	out     []Send // at most one to each node
	effects []Effect
	changed []string // in any order, some more than once
}

func (t *step) change(node string) { t.changed = append(t.changed, node) }

// to returns the message that is being written to a node. It is valid until the next call.
func (t *step) to(node string) *Message {
	for i := range t.out {
		if t.out[i].To == node {
			return &t.out[i].Message
		}
	}
	t.out = append(t.out, Send{To: node})
	return &t.out[len(t.out)-1].Message
}

func (t *step) finish() []Effect {
	if len(t.changed) > 0 {
		slices.Sort(t.changed)
		t.effects = append(t.effects, Changed{slices.Compact(t.changed)})
	}
	t.effects = slices.Grow(t.effects, len(t.out))
	for _, s := range t.out {
		// Each message stays below its limit, however large the documents are.
		for size, i := 0, 0; i < len(s.Message.Documents); i++ {
			if size += len(s.Message.Documents[i].data); size > MaxSize && i > 0 {
				t.effects = append(t.effects, Send{s.To, Message{Documents: s.Message.Documents[:i]}})
				s.Message.Documents, size, i = s.Message.Documents[i:], 0, -1
			}
		}
		t.effects = append(t.effects, s)
	}
	return t.effects
}

func (t *step) publish(e Publish) {
	d := e.Document
	if d.Version.Node != t.id {
		return
	}
	if old, ok := t.held[t.id]; ok && !d.Version.Newer(old.Version) {
		return
	}
	t.store(d)
	t.change(t.self)
	direct := e.Direct
	if t.few() {
		direct = slices.Compact(slices.Sorted(slices.Values(slices.Concat(direct, t.peers))))
	}
	for _, node := range direct {
		if node != t.self {
			m := t.to(node)
			m.Documents = append(m.Documents, d)
		}
	}
	if !t.few() {
		t.announce(d.Version, Fanout, "")
	}
}

// announce tells n peers of a version.
func (t *step) announce(v Version, n int, except string) {
	for _, p := range t.choose(n, except) {
		m := t.to(p)
		m.Announce = append(m.Announce, v)
	}
}

func (t *step) receive(from string, m Message) {
	for _, d := range m.Documents {
		t.document(from, d)
	}
	for _, v := range m.Announce {
		t.heard(from, v, true)
	}
	for _, v := range m.Offer {
		t.heard(from, v, len(t.wants) < fewWants)
	}
	for _, id := range m.Fetch {
		t.give(from, id)
	}
	for _, theirs := range m.Compare {
		t.compareSums(from, theirs)
	}
	for _, l := range m.Listings {
		t.compareListing(from, l)
	}
	if m.Head.ID != "" {
		t.heardHead(from, m.Head)
	}
}

// heard takes note of a version that a peer tells of. The first word of a change is passed on before
// the document is here, so that the word runs ahead and documents follow it; but only one such word for
// each node at a time, as anybody can make them up. spread says whether it is news to others.
func (t *step) heard(from string, v Version, spread bool) {
	if _, ok := t.enrolled[v.Node]; !ok {
		return
	}
	if held, ok := t.held[v.Node]; ok && !v.Newer(held.Version) {
		t.tellNewer(from, v)
		return
	}
	if v.Node == t.id && (v.Number.Boot < t.above || t.silent()) {
		return
	}
	w := t.wants[v.Node]
	switch {
	case w == nil:
		w = &want{version: v, told: true}
		t.wants[v.Node] = w
		if spread && v.Node != t.id && !t.few() {
			t.announce(v, Fanout, from)
		}
	case w.version == v:
		if len(w.sources) < maxSources && !slices.Contains(w.sources, from) {
			w.sources = append(w.sources, from)
		}
		return
	case v.Newer(w.version):
		w.version, w.sources, w.tries, w.told = v, nil, 0, !spread
	default:
		// Older than what was heard of, but that may be made up.
		m := t.to(from)
		m.Fetch = append(m.Fetch, v.Node)
		return
	}
	w.sources = append(w.sources, from)
	t.fetch(from, w)
}

func (t *step) fetch(from string, w *want) {
	w.retry = t.now.Add(fetchAgain)
	if len(t.wants) > fewWants {
		w.retry = t.now.Add(fetchLater) // much is under way
	}
	m := t.to(from)
	m.Fetch = append(m.Fetch, w.version.Node)
}

// fetchAgain asks the next who told of a document that has not come.
func (t *step) fetchAgain() {
	var due []NodeID
	for id, w := range t.wants {
		if !t.now.Before(w.retry) {
			due = append(due, id)
		}
	}
	slices.Sort(due)
	for _, id := range due {
		w := t.wants[id]
		if w.tries++; w.tries >= fetchTries {
			delete(t.wants, id) // a comparison will find it, if it is anywhere
			for _, p := range w.waiting {
				t.give(p, id)
			}
			continue
		}
		t.fetch(w.sources[w.tries%len(w.sources)], w)
	}
}

// give sends a document, at once or when it has come.
func (t *step) give(to string, id NodeID) {
	if w := t.wants[id]; w != nil {
		if !slices.Contains(w.waiting, to) {
			w.waiting = append(w.waiting, to)
		}
		return
	}
	if d, ok := t.held[id]; ok {
		m := t.to(to)
		m.Documents = append(m.Documents, d)
	}
}

// document takes in a verified document.
func (t *step) document(from string, d Sealed) {
	id := d.Version.Node
	if _, ok := t.enrolled[id]; !ok {
		return
	}
	if id == t.id {
		delete(t.wants, id)
		t.ownSignature(d.Version)
		return
	}
	held, ok := t.held[id]
	if ok && held.Version.Newer(d.Version) {
		t.tellNewer(from, d.Version)
		return
	}
	if (from == d.Node || t.without == ruleHanded) && t.void[id] {
		delete(t.void, id)
		t.change(d.Node)
	}
	if ok && held.Version == d.Version {
		return
	}
	t.store(d)
	if !t.void[id] {
		t.change(d.Node)
	}
	told := false
	if w := t.wants[id]; w != nil {
		told = w.told
		for _, p := range w.waiting {
			m := t.to(p)
			m.Documents = append(m.Documents, d)
		}
		w.waiting = nil
		if !w.version.Newer(d.Version) {
			delete(t.wants, id)
		}
	}
	if told || t.few() {
		t.announce(d.Version, fanoutLate, from)
	} else {
		t.announce(d.Version, Fanout, from)
	}
}

// tellNewer shows a node its own newer document when it says that it is further back: it has lost its counter,
// and must not do anything under a number that it used before. A still newer one that is on its way is not
// waited for.
func (t *step) tellNewer(from string, v Version) {
	if d := t.held[v.Node]; t.enrolled[v.Node] == from && d.Version.Newer(v) {
		m := t.to(from)
		m.Documents = append(m.Documents, d)
	}
}

// ownSignature answers a document that carries this node's signature. A newer one than it has
// published is of an earlier life whose counter was lost, or of a second machine with the same key: the
// node jumps above it, and gives up when that does not end.
func (t *step) ownSignature(v Version) {
	own, ok := t.held[t.id]
	if !ok || !v.Newer(own.Version) || v.Number.Boot < t.above || t.silent() || t.without == ruleJump {
		return
	}
	if !t.contested {
		t.jumps = slices.DeleteFunc(t.jumps, func(at time.Time) bool { return t.now.Sub(at) >= jumpWindow })
	}
	t.jumps = append(t.jumps, t.now)
	if !t.contested && t.without != ruleContested && (len(t.jumps) >= maxJumps || v.Number.Boot == math.MaxUint32) {
		t.contested = true
		t.effects = append(t.effects, Contested{v})
	}
	if v.Number.Boot < math.MaxUint32 {
		t.above = v.Number.Boot + 1
		t.effects = append(t.effects, Renumber{t.above})
	}
}

// askVoid asks nodes that were held for gone, and can be reached again, for a current document.
func (t *step) askVoid() {
	if len(t.void) == 0 {
		return
	}
	for _, p := range t.peers {
		if id := IDOf(p); t.void[id] {
			m := t.to(p)
			m.Fetch = append(m.Fetch, id)
		}
	}
}

// heardHead passes on the first word of a head that is newer than this node's own.
func (t *step) heardHead(from string, head reconcile.Commit) {
	t.hints = slices.DeleteFunc(t.hints, func(h hint) bool { return t.now.Sub(h.at) >= headWindow })
	if head.Level <= t.head.Level || len(t.hints) >= headHints ||
		slices.ContainsFunc(t.hints, func(h hint) bool { return h.id == head.ID }) {
		return
	}
	t.hints = append(t.hints, hint{head.ID, t.now})
	t.effects = append(t.effects, Look{head, from})
	if !t.few() { // else all hear of it from whoever has verified it, and have one to ask who has it
		t.toldHead(head, t.choose(Fanout, from))
	}
}

// tellHead tells of a head that this node has verified.
func (t *step) tellHead(head reconcile.Commit) {
	if t.few() {
		t.toldHead(head, t.peers)
		return
	}
	t.toldHead(head, t.choose(Fanout, ""))
}

func (t *step) toldHead(head reconcile.Commit, peers []string) {
	for _, p := range peers {
		m := t.to(p)
		if cmp.Compare(head.Level, m.Head.Level) > 0 {
			m.Head = head
		}
	}
}
