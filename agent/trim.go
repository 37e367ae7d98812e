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
	for ctx.Err() == nil {
		snapshot := n.store.Snapshot()
		quiet, cancel := context.WithTimeout(ctx, trimAfter)
		changed := snapshot.Wait(quiet, state.Accepted, state.Pods) == nil
		cancel()
		if changed || ctx.Err() != nil {
			continue
		}
		if err := footprint.Trim(); err != nil {
			n.Log.Debug("give memory back", "err", err)
		}
		_ = snapshot.Wait(ctx, state.Accepted, state.Pods) // its only error ends the loop
	}
	return nil
}
