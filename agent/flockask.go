package agent

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/pleachdev/pleach/gossip/peer"
	"github.com/pleachdev/pleach/reconcile"
)

const askPath = "/v1/ask" // a reconcile.Ask; a reconcile.Answer comes back

// maxAsk is the most that a question or its answer may have, bytes.
const maxAsk = 4 << 10

// asked is a question of another node that waits for this one's answer.
type asked struct {
	reconcile.Ask
	answer chan<- reconcile.Answer // buffered by one
}

// ask puts questions to other nodes. An answer comes of each.
func (f *flock) ask(ctx context.Context, questions []reconcile.Ask) {
	for _, q := range questions {
		f.outbox.group.Go(func() error {
			at := time.Now()
			a, err := f.askNode(ctx, q)
			if err != nil {
				f.Log.Debug("a node does not answer", "node", q.To, "question", q.Kind, "err", err)
				a = reconcile.Answer{Ask: q, Unreachable: true}
			}
			a.At = at
			select {
			case f.answered <- a:
			case <-ctx.Done():
			}
			return nil
		})
	}
}

func (f *flock) askNode(ctx context.Context, q reconcile.Ask) (a reconcile.Answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, reconcile.AskWithin)
	defer cancel()
	body, err := json.Marshal(q)
	if err != nil {
		return a, err
	}
	data, err := f.post(ctx, q.To, askPath, body, maxAsk)
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(data, &a); err != nil {
		return a, err
	}
	if a.Ask != q {
		return a, errors.New("it answers another question")
	}
	return a, nil
}

func (f *flock) answers() <-chan reconcile.Answer { return f.answered }

func (f *flock) questions() <-chan asked { return f.questioned }

// hearAsk hands a peer's question to the decider.
func (f *flock) hearAsk(w http.ResponseWriter, r *http.Request) {
	from := peer.From(r)
	end, ok := f.bounds.begin(from)
	if !ok {
		http.Error(w, "too many questions", http.StatusTooManyRequests)
		return
	}
	defer end()
	body, ok := peer.Body(w, r, maxAsk)
	if !ok {
		return
	}
	answer := make(chan reconcile.Answer, 1)
	q := asked{answer: answer}
	if err := json.Unmarshal(body, &q.Ask); err != nil || q.From != from || q.To != f.Node {
		http.Error(w, "want a question of the node that sends it to this one", http.StatusBadRequest)
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
