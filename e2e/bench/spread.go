package main

import (
	"cmp"
	"container/heap"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"runtime"
	"time"

	"github.com/pleachdev/pleach/e2e/shapes"
	"github.com/pleachdev/pleach/gossip"
)

// spread measures how fast a changed document is everywhere, in simulated time, and what many documents
// weigh.
func (b *bench) spread() error {
	n := b.count(1000, 200)
	var took []time.Duration
	bytes, size := 0, 0
	w, err := newWires(n)
	if err != nil {
		return err
	}
	for round := range b.count(10, 2) {
		t, sent, d, err := w.publish(w.names[w.rng.IntN(n)], int64(200+round))
		if err != nil {
			return err
		}
		took, bytes, size = append(took, t), bytes+sent, d
	}
	worst := quantile(took, 1)
	b.table.judge("spread", fmt.Sprintf("a document is with 99 %% of %d nodes, 5 %% of messages lost, simulated: p50, worst of %d", n, len(took)),
		seconds(quantile(took, .5))+", "+seconds(worst), "≤ 0.50 s", worst <= 500*time.Millisecond)
	b.table.add("spread", fmt.Sprintf("bytes for each node, of a document of %d", size), fmt.Sprint(bytes/len(took)/n))

	const pods = manySlots / manyNodes
	before := heapSize()
	s := gossip.NewState("node-0000", 1)
	var names []string
	for i := range manyNodes {
		names = append(names, nameOf(i))
	}
	s, _ = gossip.Step(s, gossip.Enrolled{Names: names}, shapes.Epoch)
	for _, name := range names[1:] {
		d, err := sealed(name, 1, pods)
		if err != nil {
			return err
		}
		s, _ = gossip.Step(s, gossip.Receive{From: name, Message: gossip.Message{Documents: []gossip.Sealed{d}}}, shapes.Epoch)
	}
	held := heapSize() - before
	if got := len(s.Documents()); got != manyNodes-1 {
		return fmt.Errorf("%d documents are held, want %d", got, manyNodes-1)
	}
	runtime.KeepAlive(s)
	b.table.judge("spread", fmt.Sprintf("memory of %d nodes' documents of %d pods each", manyNodes, pods), megabytes(held), "≤ 25 MB", held <= 25e6)
	return nil
}

func nameOf(i int) string { return fmt.Sprintf("node-%04d", i) }

func sealed(name string, seq int64, pods int) (gossip.Sealed, error) {
	d := shapes.Document(name, pods)
	d.Boot, d.Seq = 7, seq
	seed := sha256.Sum256([]byte(name))
	return gossip.Encode(d, ed25519.NewKeyFromSeed(seed[:]))
}

// wires are many nodes and a network that delays messages by 10 to 50 ms and loses a twentieth.
type wires struct {
	rng   *rand.Rand
	now   time.Time
	names []string
	nodes map[string]*gossip.State
	ticks map[string]time.Time // when the next one of each node is due
	queue letters
	count int
	sent  int // bytes
}

type letter struct {
	at   time.Time
	n    int // orders those of one moment
	to   string
	what gossip.Event
}

type letters []letter

func (q letters) Len() int           { return len(q) }
func (q letters) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q letters) Less(i, j int) bool { return cmp.Or(q[i].at.Compare(q[j].at), q[i].n-q[j].n) < 0 }
func (q *letters) Push(x any)        { *q = append(*q, x.(letter)) }
func (q *letters) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

// newWires makes n nodes that have every document.
func newWires(n int) (*wires, error) {
	w := &wires{rng: rand.New(rand.NewPCG(1, 1)), now: shapes.Epoch, nodes: map[string]*gossip.State{}, ticks: map[string]time.Time{}}
	var documents []gossip.Sealed
	for i := range n {
		d, err := sealed(nameOf(i), 1, 3)
		if err != nil {
			return nil, err
		}
		documents, w.names = append(documents, d), append(w.names, nameOf(i))
	}
	for i, name := range w.names {
		s := gossip.NewState(name, 1)
		// What a node tells of documents that all have already is left out.
		for _, e := range []gossip.Event{
			gossip.Enrolled{Names: w.names}, gossip.Publish{Document: documents[i]}, gossip.Receive{From: name, Message: gossip.Message{Documents: documents}}, gossip.Members{Names: w.names},
		} {
			s, _ = gossip.Step(s, e, w.now)
		}
		w.nodes[name] = &s
		w.do(name, gossip.Tick{})
	}
	w.run(5*time.Second, nil) // comparisons are spread over their interval
	return w, nil
}

func (w *wires) at(at time.Time, to string, e gossip.Event) {
	w.count++
	heap.Push(&w.queue, letter{at, w.count, to, e})
}

// do gives one node an event and sends what it asks for.
func (w *wires) do(node string, e gossip.Event) {
	s, effects := gossip.Step(*w.nodes[node], e, w.now)
	*w.nodes[node] = s
	for _, x := range effects {
		if send, ok := x.(gossip.Send); ok {
			if data, err := send.Message.Encode(); err == nil {
				w.sent += len(data)
			}
			if w.rng.Float64() >= 0.05 {
				w.at(w.now.Add(10*time.Millisecond+time.Duration(w.rng.Int64N(int64(40*time.Millisecond)))), send.To, gossip.Receive{From: node, Message: send.Message})
			}
		}
	}
	if wake, due := s.Wake(), w.ticks[node]; due.IsZero() || wake.Before(due) || !due.After(w.now) {
		w.ticks[node] = wake
		w.at(wake, node, gossip.Tick{})
	}
}

// run lets time pass; it calls arrived for each node that took a step.
func (w *wires) run(limit time.Duration, arrived func(node string)) {
	end := w.now.Add(limit)
	for len(w.queue) > 0 && !w.queue[0].at.After(end) {
		x := heap.Pop(&w.queue).(letter)
		w.now = x.at
		if _, ok := x.what.(gossip.Tick); ok && !x.at.Equal(w.ticks[x.to]) {
			continue // there was an earlier one since
		}
		w.do(x.to, x.what)
		if arrived != nil {
			arrived(x.to)
		}
	}
	w.now = end
}

// publish gives a node a new document, and returns after what time 99 % of the others had it, the bytes
// that were sent meanwhile, and those of the document.
func (w *wires) publish(node string, seq int64) (took time.Duration, sent, size int, err error) {
	d, err := sealed(node, seq, 3)
	if err != nil {
		return 0, 0, 0, err
	}
	start, before, have := w.now, w.sent, map[string]bool{node: true}
	w.do(node, gossip.Publish{Document: d})
	w.run(5*time.Second, func(other string) {
		if held, ok := w.nodes[other].Document(node); ok && held.Version == d.Version && !have[other] {
			have[other] = true
			if len(have)*100 >= 99*len(w.names) && took == 0 {
				took = w.now.Sub(start)
			}
		}
	})
	if took == 0 {
		err = fmt.Errorf("%d of %d nodes have the document", len(have), len(w.names))
	}
	return took, w.sent - before, len(d.Bytes()), err
}
