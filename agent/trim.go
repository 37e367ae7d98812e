package agent

import (
	"context"
	"time"

	"github.com/pleachdev/pleach/agent/footprint"
	"github.com/pleachdev/pleach/state"
)

// trimAfter is how long nothing must have changed before memory is given back: a start and a commit
// take a moment until all pods are ready, and need it until then.
const trimAfter = 10 * time.Second

// trim gives memory back whenever the node has come to rest, until ctx ends.
func (n *node) trim(ctx context.Context) error {
	for {
		snapshot := n.store.Snapshot()
		quiet, cancel := context.WithTimeout(ctx, trimAfter)
		err := snapshot.Wait(quiet, state.Accepted, state.Pods)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			continue // something changed
		}
		if err := footprint.Trim(); err != nil {
			n.Log.Debug("give memory back", "err", err)
		}
		if err := snapshot.Wait(ctx, state.Accepted, state.Pods); err != nil {
			return nil //nolint:nilerr // the agent ends
		}
	}
}
