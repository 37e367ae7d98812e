package agent

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/pleachdev/pleach/agent/api"
	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/state"
)

// follower keeps the accepted state as new as the remote is: it looks at each hint, and otherwise at
// every interval.
type follower struct {
	syncer   *gitsync.Syncer
	store    *state.Store
	interval time.Duration
	hints    <-chan struct{} // buffered by one
	metrics  *api.Metrics
	log      *slog.Logger
	jitter   *rand.Rand
	accepted *gitsync.Accepted // the last one told of
	refused  map[refusal]bool  // standing against the accepted state
}

// refusal names what was refused: a commit, for one unit or for all ("").
type refusal struct{ commit, unit string }

// maxRetry bounds the wait between two tries at a remote that does not answer.
const maxRetry = time.Minute

// run follows until ctx ends. What runs on this node does not depend on it.
func (f *follower) run(ctx context.Context) error {
	retry := f.interval
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-f.hints:
		}
		start := time.Now()
		accepted, err := f.syncer.Sync(ctx)
		if ctx.Err() != nil {
			return nil
		}
		f.metrics.Synced(time.Since(start), err)
		f.store.SetRemote(f.syncer.Remote())
		if accepted != nil {
			if f.store.SetAccepted(accepted); accepted != f.accepted {
				f.accepted = accepted
				f.log.Debug("accepted", "head", accepted.Head.ID, "took", time.Since(start))
			}
			f.report(accepted)
		}
		wait := f.interval
		switch {
		case err == nil:
			retry = f.interval
		case errors.Is(err, gitsync.ErrUnreachable):
			f.log.Warn("the remote is out of reach; what runs goes on", "err", err, "retryIn", retry)
			wait, retry = retry, min(2*retry, max(maxRetry, f.interval))
		default:
			f.log.Warn("sync failed; what runs goes on", "err", err, "retryIn", retry)
			wait, retry = retry, min(2*retry, max(maxRetry, f.interval))
		}
		// A tenth of jitter keeps nodes that started together from polling together.
		timer.Reset(wait + time.Duration(f.jitter.Int64N(int64(wait)/10+1)))
	}
}

// report logs and counts the refusals that were not there before.
func (f *follower) report(accepted *gitsync.Accepted) {
	standing := make(map[refusal]bool, len(accepted.Refusals))
	for _, r := range accepted.Refusals {
		key := refusal{r.Commit.ID, r.App}
		standing[key] = true
		if !f.refused[key] {
			f.metrics.Refused(1)
			f.log.Warn("refused; what runs goes on", "commit", r.Commit.ID, "app", r.App, "reason", r.Reason, "running", r.Running.ID)
		}
	}
	f.refused = standing
}
