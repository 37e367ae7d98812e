package agent

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"

	"golang.org/x/time/rate"

	"github.com/pleachdev/pleach/gossip"
	"github.com/pleachdev/pleach/gossip/peer"
	"github.com/pleachdev/pleach/reconcile/gate"
)

// Paths that agents ask each other at.
const (
	gossipPath  = "/v1/gossip"  // an encoded gossip.Message
	witnessPath = "/v1/witness" // a testimony
)

func (f *flock) serveGossip() {
	f.mux.HandleFunc("POST "+gossipPath, f.hear)
	f.mux.HandleFunc("POST "+askPath, f.hearAsk)
	f.mux.HandleFunc("POST "+witnessPath, f.bearWitness)
	f.mux.HandleFunc("GET "+peer.CheckPath, f.answerCheck)
}

// limits keep what a peer sends to a pace that no honest one reaches: every message is judged by the one
// goroutine that all others wait for.
type limits struct {
	mu sync.Mutex
	of map[string]*bound
}

type bound struct {
	pace    *rate.Limiter
	reading chan struct{} // a place for each message that is being read
}

const (
	messagesPerSecond = 100
	messagesBurst     = 400
	maxReading        = 4
)

func newLimits() limits { return limits{of: map[string]*bound{}} }

func (l *limits) bound(node string) *bound {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.of[node]
	if b == nil {
		b = &bound{rate.NewLimiter(messagesPerSecond, messagesBurst), make(chan struct{}, maxReading)}
		l.of[node] = b // of enrolled nodes only: nobody else comes this far
	}
	return b
}

// allow reports whether a node may ask something now.
func (l *limits) allow(node string) bool { return l.bound(node).pace.Allow() }

// begin is allow for a large message, for which it takes a place.
func (l *limits) begin(node string) (end func(), ok bool) {
	b := l.bound(node)
	if !b.pace.Allow() {
		return nil, false
	}
	select {
	case b.reading <- struct{}{}:
		return func() { <-b.reading }, true
	default:
		return nil, false
	}
}

// hear takes in a message of a peer.
func (f *flock) hear(w http.ResponseWriter, r *http.Request) {
	from := peer.From(r)
	end, ok := f.bounds.begin(from)
	if !ok {
		http.Error(w, "too many messages", http.StatusTooManyRequests)
		return
	}
	defer end()
	body, ok := peer.Body(w, r, gossip.MaxMessageSize)
	if !ok {
		return
	}
	m, err := f.open(from, body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer := make(chan []gossip.Message, 1)
	f.tell(r.Context(), exchange{gossip.Receive{From: from, Message: m}, answer})
	var back []gossip.Message
	select {
	case back = <-answer:
	case <-r.Context().Done():
		return
	}
	if len(back) == 0 {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	for _, more := range back[1:] { // what does not fit into one message
		f.outbox.send(from, more)
	}
	data, err := back[0].Encode()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if len(data) > largeSize {
		select {
		case f.outbox.large <- struct{}{}:
			defer func() { <-f.outbox.large }()
		case <-r.Context().Done():
			return
		}
	}
	_, _ = w.Write(data) // a message may be lost
}

// open reads a message of a peer.
func (f *flock) open(from string, data []byte) (gossip.Message, error) {
	m, refused, err := gossip.DecodeMessage(data, f.book.Keys)
	for _, why := range refused {
		f.Log.Warn("a document is refused", "from", from, "err", why)
	}
	return m, err
}

// bearWitness answers what this node's own check of another comes to.
func (f *flock) bearWitness(w http.ResponseWriter, r *http.Request) {
	from := peer.From(r)
	if !f.bounds.allow(from) {
		http.Error(w, "too many questions", http.StatusTooManyRequests)
		return
	}
	body, ok := peer.Body(w, r, 4<<10)
	if !ok {
		return
	}
	var t testimony
	if err := json.Unmarshal(body, &t); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), askTime)
	defer cancel()
	answer := make(chan gate.Answer, 1)
	f.tell(ctx, func() {
		q := question{from, t.About}
		f.waiting[q] = append(f.waiting[q], answer)
		f.take(ctx, gate.Asked{By: from, About: t.About})
	})
	select {
	case t.Answer = <-answer:
	case <-ctx.Done():
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(t) // who asked has gone if this fails
}

// answerCheck answers when the agent does its work, and not only accepts connections.
func (f *flock) answerCheck(w http.ResponseWriter, r *http.Request) {
	done := make(chan struct{})
	f.tell(r.Context(), func() { close(done) })
	select {
	case <-done:
		w.WriteHeader(http.StatusNoContent)
	case <-r.Context().Done():
	}
}
