package agent

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/gitsync/statusbranch"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
	"github.com/pleachdev/pleach/state"
)

// statusWriter writes the status branch where the accepted pleach.yaml wants it, when this node is the
// flock's courier, and stands by else.
type statusWriter struct {
	*node

	mu      sync.Mutex
	content statusbranch.Content // the newest
	current *statusbranch.Writer
}

// set replaces the content of the branch; it never waits.
func (w *statusWriter) set(content statusbranch.Content) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.content = content
	if w.current != nil {
		w.current.Set(content)
	}
}

// run writes until ctx ends. When pleach.yaml names another place, it goes on there.
func (w *statusWriter) run(ctx context.Context) error {
	for ctx.Err() == nil {
		snapshot := w.store.Snapshot()
		spec := snapshot.Accepted().Cluster.Spec.Status
		round, end := context.WithCancel(ctx)
		group, round := errgroup.WithContext(round)
		writer := w.begin(spec)
		group.Go(func() error { return writer.Run(round) })
		group.Go(func() error {
			defer end()
			for snapshot.Accepted().Cluster.Spec.Status == spec {
				if snapshot.Wait(round, state.Accepted) != nil {
					return nil // the agent or the round ends
				}
				snapshot = w.store.Snapshot()
			}
			return nil
		})
		if err := group.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// begin makes the writer for one place and gives it the newest content.
func (w *statusWriter) begin(spec v1alpha1.Status) *statusbranch.Writer {
	writer := statusbranch.New(statusbranch.Config{
		Remote: w.statusRemote(spec), Branch: spec.Branch, Signer: w.signer, Author: gitstore.Ident{Name: w.Node, Mail: w.Node + "@pleach.invalid"},
		PushesPerMinute: int(spec.PushesPerMinute), Log: w.Log.With("part", "status"),
		Report: w.store.SetStatusPush, Keys: w.flock.book.Keys, Rank: w.following.CourierRank,
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.current = writer
	if w.content != nil {
		writer.Set(w.content)
	}
	return writer
}

// statusRemote is where the status branch is.
func (n *node) statusRemote(spec v1alpha1.Status) gitstore.Remote {
	if spec.Remote == "" {
		return n.remote
	}
	// What the config repository's server asks for is not another server's to know.
	return gitstore.Remote{URL: spec.Remote, Username: n.statusUser, Password: n.statusPassword}
}
