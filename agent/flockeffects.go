package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pleachdev/pleach/gossip"
	"github.com/pleachdev/pleach/reconcile/gate"
)

// gossiped carries out what the spread of documents asks for.
func (f *flock) gossiped(e gossip.Effect) {
	switch e := e.(type) {
	case gossip.Send:
		f.outbox.send(e.To, e.Message)
	case gossip.Changed:
		f.keep.changed = true
		for _, node := range e.Nodes {
			f.heardAt[node] = time.Now()
		}
		f.fresh, f.stale = true, true
	case gossip.Look:
		f.following.Look(e.Head, e.From)
	case gossip.Renumber:
		// On disk before it is used, as at the start.
		if err := raiseBoot(f.Dir, int64(e.Boot)); err != nil {
			f.Log.Error("this node's document cannot be numbered; others do not hear what it does", "err", err)
			return
		}
		f.Log.Warn("a newer document with this node's signature is about: an earlier life whose counter was lost, or another machine with its key",
			"boot", f.number.Load(), "next", e.Boot)
		f.number.Store(int64(e.Boot))
		if f.members != nil {
			members := f.members
			f.outbox.group.Go(func() error {
				if err := members.SetBoot(int64(e.Boot)); err != nil {
					f.Log.Warn("membership does not tell of the new boot counter", "err", err)
				}
				return nil
			})
		}
		f.fresh, f.stale = true, true
	case gossip.Contested:
		why := fmt.Sprintf("another machine signs with this node's key (its document %d/%d); this one starts nothing more, and what runs goes on; "+
			"take one of the two away, enrol a new key for it, and start the agent again", e.Other.Number.Boot, e.Other.Number.Seq)
		f.Log.Error("two machines have one key", "err", why)
		f.happened("KeyContested", why)
		f.ready.contest(why)
		f.fresh, f.stale = true, true
	}
}

// gated carries out what the gate of membership asks for.
func (f *flock) gated(ctx context.Context, e gate.Effect) {
	switch e := e.(type) {
	case gate.Check:
		f.outbox.group.Go(func() error {
			f.tell(ctx, gate.Checked{Node: e.Node, Answer: f.peers.Check(ctx, e.Node)})
			return nil
		})
	case gate.Ask:
		for _, w := range e.Witnesses {
			f.outbox.group.Go(func() error {
				answer, err := f.askWitness(ctx, w, e.About)
				if err != nil {
					f.Log.Debug("a witness does not answer", "witness", w, "about", e.About, "err", err)
				}
				f.tell(ctx, gate.Witnessed{Witness: w, About: e.About, Answer: answer})
				return nil
			})
		}
	case gate.Reply:
		q := question{e.To, e.About}
		for _, c := range f.waiting[q] {
			c <- e.Answer // buffered by one
		}
		delete(f.waiting, q)
	case gate.Gone:
		f.Log.Warn("a node is held for gone", "node", e.Node, "reason", e.Reason)
		f.take(ctx, gossip.Gone{Node: e.Node})
		f.keep.urgent = true
		f.fresh, f.stale = true, true
	case gate.Back:
		f.Log.Info("a node is back", "node", e.Node)
		f.keep.urgent = true
		f.fresh, f.stale = true, true
	case gate.EndpointsOff, gate.EndpointsOn:
		f.fresh, f.stale = true, true
	}
}

// askWitness asks a node what its own direct check of another comes to.
func (f *flock) askWitness(ctx context.Context, witness, about string) (gate.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	body, err := json.Marshal(testimony{About: about})
	if err != nil {
		return gate.Unknown, err
	}
	data, err := f.post(ctx, witness, witnessPath, body, 4<<10)
	if err != nil {
		return gate.Unknown, err
	}
	var t testimony
	err = json.Unmarshal(data, &t)
	return t.Answer, err
}

// testimony is a question to a witness, and its answer.
type testimony struct {
	About  string      `json:"about"`
	Answer gate.Answer `json:"answer,omitempty"`
}

const (
	askTime  = 4 * time.Second // longer than a check
	sendTime = 5 * time.Second
)

// post sends a body to a peer and returns its answer, of which it reads limit bytes.
func (f *flock) post(ctx context.Context, node, path string, body []byte, limit int64) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+node+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	answer, err := f.peers.Client(node).Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(io.LimitReader(answer.Body, limit))
	if err == nil && answer.StatusCode/100 != 2 {
		err = &answeredError{fmt.Sprintf("node %s answers %s: %.200s", node, answer.Status, bytes.TrimSpace(data))}
	}
	return data, err
}

// answeredError is of a peer that is there and does not do what it was asked for.
type answeredError struct{ text string }

func (e *answeredError) Error() string { return e.text }

// outbox sends messages to peers, those to one peer in their order, and what has queued up while one was
// under way as one. A message may be lost.
type outbox struct {
	flock *flock
	ctx   context.Context
	group *errgroup.Group
	large chan struct{} // a place for each large message that is under way

	mu     sync.Mutex
	queues map[string][]gossip.Message // a peer with a sender has an entry
}

const (
	maxQueued = 32       // messages to one peer; the oldest are dropped
	largeSize = 64 << 10 // bytes of documents; a full comparison brings such messages
	maxLarge  = 4        // of them at a time
)

func newOutbox(f *flock) *outbox {
	return &outbox{flock: f, large: make(chan struct{}, maxLarge), queues: map[string][]gossip.Message{}}
}

// send queues a message. It never waits.
func (o *outbox) send(to string, m gossip.Message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	queue, busy := o.queues[to]
	if len(queue) >= maxQueued {
		queue = queue[1:]
	}
	o.queues[to] = append(queue, m)
	if !busy {
		o.group.Go(func() error { o.empty(o.ctx, to); return nil })
	}
}

// empty sends what is queued for a peer.
func (o *outbox) empty(ctx context.Context, to string) {
	for {
		o.mu.Lock()
		queue := o.queues[to]
		if len(queue) == 0 || ctx.Err() != nil {
			delete(o.queues, to)
			o.mu.Unlock()
			return
		}
		m, rest := queue[0], queue[1:]
		for len(rest) > 0 && m.Join(rest[0]) {
			rest = rest[1:]
		}
		o.queues[to] = rest
		o.mu.Unlock()
		o.deliver(ctx, to, m)
	}
}

func (o *outbox) deliver(until context.Context, to string, m gossip.Message) {
	f := o.flock
	body, err := m.Encode()
	if err != nil {
		f.Log.Error("a message to a peer cannot be written", "to", to, "err", err)
		return
	}
	if len(body) > largeSize {
		select {
		case o.large <- struct{}{}:
			defer func() { <-o.large }()
		case <-until.Done():
			return
		}
	}
	ctx, cancel := context.WithTimeout(until, sendTime)
	defer cancel()
	answer, err := f.post(ctx, to, gossipPath, body, gossip.MaxMessageSize)
	if err == nil && len(answer) > 0 {
		var back gossip.Message
		if back, err = f.open(to, answer); err == nil {
			f.tell(until, gossip.Receive{From: to, Message: back})
			return
		}
		err = &answeredError{err.Error()}
	}
	if err == nil || until.Err() != nil {
		return
	}
	f.Log.Debug("a message is lost", "to", to, "bytes", len(body), "err", err)
	if _, there := errors.AsType[*answeredError](err); !there {
		f.tell(until, gate.Broken{Node: to})
	}
}
