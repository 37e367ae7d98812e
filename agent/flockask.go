package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/pleachdev/pleach/gossip/peer"
	"github.com/pleachdev/pleach/reconcile"
)

const askPath = "/v1/ask" // a list of reconcile.Ask; one of reconcile.Answer comes back

// Bounds of a list of questions, or of its answers.
const (
	maxAsk  = 1 << 20 // bytes
	maxAsks = 1000
)

// asked are questions of another node that wait for this one's answers.
type asked struct {
	asks   []reconcile.Ask
	answer chan<- []reconcile.Answer // buffered by one
}

// ask puts questions to other nodes, those to one node together. An answer comes of each.
func (f *flock) ask(ctx context.Context, questions []reconcile.Ask) {
	by := map[string][]reconcile.Ask{}
	for _, q := range questions {
		by[q.To] = append(by[q.To], q)
	}
	for node, all := range by {
		for list := range slices.Chunk(all, maxAsks) {
			f.outbox.group.Go(func() error {
				at := time.Now()
				answers, err := f.askNode(ctx, node, list)
				if err != nil {
					f.Log.Debug("a node does not answer", "node", node, "questions", len(list), "err", err)
					answers = nil
					for _, q := range list {
						answers = append(answers, reconcile.Answer{Ask: q, Unreachable: true})
					}
				}
				for i := range answers {
					answers[i].At = at
				}
				select {
				case f.answered <- answers:
				case <-ctx.Done():
				}
				return nil
			})
		}
	}
}

func (f *flock) askNode(ctx context.Context, node string, list []reconcile.Ask) (answers []reconcile.Answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, reconcile.AskWithin)
	defer cancel()
	body, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	data, err := f.post(ctx, node, askPath, body, maxAsk)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &answers); err != nil {
		return nil, err
	}
	if !slices.EqualFunc(answers, list, func(a reconcile.Answer, q reconcile.Ask) bool { return a.Ask == q }) {
		return nil, errors.New("it answers other questions")
	}
	return answers, nil
}

func (f *flock) answers() <-chan []reconcile.Answer { return f.answered }

func (f *flock) questions() <-chan asked { return f.questioned }

// hearAsk hands a peer's question to the decider.
func (f *flock) hearAsk(w http.ResponseWriter, r *http.Request) {
	from := peer.From(r)
	if !f.bounds.allow(from) {
		http.Error(w, "too many questions", http.StatusTooManyRequests)
		return
	}
	body, ok := peer.Body(w, r, maxAsk)
	if !ok {
		return
	}
	answer := make(chan []reconcile.Answer, 1)
	q := asked{answer: answer}
	err := json.Unmarshal(body, &q.asks)
	if err != nil || len(q.asks) > maxAsks || slices.ContainsFunc(q.asks, func(a reconcile.Ask) bool { return a.From != from || a.To != f.Node }) {
		http.Error(w, fmt.Sprintf("want at most %d questions of the node that sends them to this one", maxAsks), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), reconcile.AskWithin)
	defer cancel()
	select {
	case f.questioned <- q:
	case <-ctx.Done():
		http.Error(w, "the node is busy", http.StatusServiceUnavailable)
		return
	}
	select {
	case a := <-answer:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(a) // who asked has gone if this fails
	case <-ctx.Done():
		http.Error(w, "the node is busy", http.StatusServiceUnavailable)
	}
}
