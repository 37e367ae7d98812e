package gossip

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// flock is many nodes in one process with a network between them that delays and loses messages.
type flock struct {
	t     testing.TB
	rng   *rand.Rand
	now   time.Time
	names []string
	nodes map[string]*State
	queue deliveries
	ticks map[string]time.Time // when the next one of each node is due
	count int                  // of messages, to order those of one moment

	loss     float64
	between  time.Duration              // the least one-way delay; the most is five times as much
	blocked  func(from, to string) bool // nil: nobody is
	mangle   func(m *Message)           // what the network does to messages; nil: nothing
	sent     int                        // bytes
	messages int
	effects  map[string][]Effect // but Send, of each node
	arrived  map[string]time.Time
	watch    Version
}

type delivery struct {
	at   time.Time
	n    int
	to   string
	what Event
}

type deliveries []delivery

func (d deliveries) Len() int      { return len(d) }
func (d deliveries) Swap(i, j int) { d[i], d[j] = d[j], d[i] }
func (d *deliveries) Push(x any)   { *d = append(*d, x.(delivery)) }
func (d deliveries) Less(i, j int) bool {
	if !d[i].at.Equal(d[j].at) {
		return d[i].at.Before(d[j].at)
	}
	return d[i].n < d[j].n
}

func (d *deliveries) Pop() any {
	last := (*d)[len(*d)-1]
	*d = (*d)[:len(*d)-1]
	return last
}

// newFlock makes n nodes that know each other; when they are settled, each also has every document.
func newFlock(t testing.TB, seed uint64, n int, settled bool) *flock {
	f := &flock{
		t: t, rng: rand.New(rand.NewPCG(seed, 1)), now: epoch, nodes: map[string]*State{}, ticks: map[string]time.Time{}, between: 10 * time.Millisecond,
		effects: map[string][]Effect{}, arrived: map[string]time.Time{},
	}
	var documents []Sealed
	for i := range n {
		name := fmt.Sprintf("node-%04d", i)
		f.names = append(f.names, name)
		documents = append(documents, f.document(name, 1, 1))
	}
	for i, name := range f.names {
		s := NewState(name, seed)
		f.nodes[name] = &s
		f.do(name, Enrolled{Names: f.names})
		f.do(name, Members{f.names})
		for j, d := range documents {
			if settled || i == j {
				f.nodes[name].store(d)
			}
		}
	}
	return f
}

func (f *flock) document(node string, boot, seq int64) Sealed {
	d := nodeDocument(node, 3)
	d.Boot, d.Seq = boot, seq
	s, err := Encode(d, keyOf(node))
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

func (f *flock) at(at time.Time, to string, e Event) {
	f.count++
	heap.Push(&f.queue, delivery{at, f.count, to, e})
}

// do gives one node an event and carries out what it asks for.
func (f *flock) do(node string, e Event) {
	s, effects := Step(*f.nodes[node], e, f.now)
	*f.nodes[node] = s
	for _, x := range effects {
		send, ok := x.(Send)
		if !ok {
			f.effects[node] = append(f.effects[node], x)
			continue
		}
		f.send(node, send)
	}
	if wake, due := s.Wake(), f.ticks[node]; due.IsZero() || wake.Before(due) || !due.After(f.now) {
		f.ticks[node] = wake
		f.at(wake, node, Tick{})
	}
	if d, ok := s.held[f.watch.Node]; ok && d.Version == f.watch && f.arrived[node].IsZero() {
		f.arrived[node] = f.now
	}
}

func (f *flock) send(from string, s Send) {
	m := s.Message
	if f.mangle != nil {
		f.mangle(&m)
	}
	data, err := m.Encode()
	if err != nil {
		f.t.Fatal(err)
	}
	f.messages++
	f.sent += len(data)
	if f.rng.Float64() < f.loss || f.blocked != nil && f.blocked(from, s.To) {
		return
	}
	delay := f.between + time.Duration(f.rng.Int64N(int64(4*f.between)))
	f.at(f.now.Add(delay), s.To, Receive{from, m})
}

// run lets time pass until done says so, at most for a while.
func (f *flock) run(limit time.Duration, done func() bool) {
	end := f.now.Add(limit)
	for len(f.queue) > 0 && !f.queue[0].at.After(end) {
		if done != nil && done() {
			return
		}
		x := heap.Pop(&f.queue).(delivery)
		f.now = x.at
		if _, ok := x.what.(Tick); ok && !x.at.Equal(f.ticks[x.to]) {
			continue // there was an earlier one since
		}
		f.do(x.to, x.what)
	}
	f.now = end
}

// publish gives a node a new document and watches it spread.
func (f *flock) publish(node string, boot, seq int64, direct ...string) Sealed {
	d := f.document(node, boot, seq)
	f.watch, f.arrived = d.Version, map[string]time.Time{}
	f.do(node, Publish{d, direct})
	return d
}

// spread returns how long after since a share of all nodes had the watched document.
func (f *flock) spread(since time.Time, share float64) time.Duration {
	var times []time.Duration
	for _, at := range f.arrived {
		times = append(times, at.Sub(since))
	}
	slices.Sort(times)
	i := int(share*float64(len(f.names))+0.999999) - 1
	if i >= len(times) {
		f.t.Fatalf("%d of %d nodes have the document", len(times), len(f.names))
	}
	return times[i]
}

func (f *flock) agree() bool {
	first := f.nodes[f.names[0]].sum(Range{})
	return !slices.ContainsFunc(f.names, func(n string) bool { return f.nodes[n].sum(Range{}) != first })
}

// TestSpread is the shape that the design asks for: a change is at 99 % of 1,000 nodes within 0.5 s
// while a twentieth of all messages is lost, and by comparisons alone it takes much longer.
func TestSpread(t *testing.T) {
	n := 1000
	if testing.Short() {
		n = 200
	}
	f := newFlock(t, 1, n, true)
	f.loss = 0.05
	f.run(3*time.Second, nil) // comparisons are spread over their interval
	idle, quiet := f.sent, f.messages
	f.run(10*time.Second, nil)
	idle, quiet = f.sent-idle, f.messages-quiet
	t.Logf("nothing changes: %.1f B/s and %.2f messages/s a node", float64(idle)/float64(n)/10, float64(quiet)/float64(n)/10)
	if got := float64(idle) / float64(n) / 10; got > 64 {
		t.Errorf("%.1f B/s a node when nothing changes; want at most 64", got)
	}

	var worst time.Duration
	for round := range 3 {
		start, bytes, messages := f.now, f.sent, f.messages
		d := f.publish(f.names[f.rng.IntN(n)], 1, int64(2+round))
		f.run(5*time.Second, nil)
		p99 := f.spread(start, 0.99)
		worst = max(worst, p99)
		perNode := float64(f.sent-bytes) / float64(n)
		t.Logf("half %v, 99 %% %v, all %v; %.1f messages and %.0f B a node for a document of %d B",
			f.spread(start, 0.5), p99, f.spread(start, 1), float64(f.messages-messages)/float64(n), perNode, len(d.Bytes()))
		if most := float64(2*len(d.Bytes()) + 1000); perNode > most {
			t.Errorf("%.0f B a node for one change; want at most %.0f", perNode, most)
		}
	}
	if worst > 500*time.Millisecond {
		t.Errorf("99 %% have a change after %v; want 500ms", worst)
	}
	if !f.agree() {
		t.Error("nodes hold different documents")
	}

	f.mangle = func(m *Message) { m.Announce = nil }
	start := f.now
	f.publish(f.names[17], 1, 99)
	f.run(60*time.Second, func() bool { return len(f.arrived) == n })
	pull := f.spread(start, 0.99)
	t.Logf("by comparisons alone 99 %% %v", pull)
	if pull < 5*worst {
		t.Errorf("by comparisons alone 99 %% after %v, with announcements %v: they are of no use", pull, worst)
	}
}
