// Package follow keeps a node at the newest commit of the config repository: it looks at the remote when
// it is its turn, and takes from its peers what they have verified before it.
package follow

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pleachdev/pleach/agent/wake"
	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/state"
)

// RemoteReachable is the condition with which a node says in its document that the remote does not answer
// it, so that the others leave it out of their turns. It is absent while all is well.
const RemoteReachable corev1.NodeConditionType = "pleach.dev/RemoteReachable"

const (
	// maxRetry bounds the wait between two looks at a remote that does not answer this node.
	maxRetry = time.Minute
	// Hints cause looks at this rate, and a few at once.
	hintsPerSecond = 1
	hintsBurst     = 5
)

// Syncer verifies what is fetched; *gitsync.Syncer is one.
type Syncer interface {
	Sync(ctx context.Context) (*gitsync.Accepted, error)
	FollowPeer(ctx context.Context, peer gitsync.Peer, head string) (*gitsync.Accepted, error)
	Compare(heads []gitsync.PeerHead) (unknown []gitsync.PeerHead)
	Accepted() *gitsync.Accepted
	Remote() gitsync.Remote
}

// Metrics counts looks and refusals.
type Metrics interface {
	Synced(took time.Duration, err error)
	Refused(n int)
}

// Config is what a Follower needs.
type Config struct {
	Node     string
	Syncer   Syncer
	Store    *state.Store // tells of members and documents, and is told what is accepted
	Interval time.Duration
	Hints    <-chan struct{} // buffered by one
	// Peer is where another node hands out what it has verified.
	Peer    func(node string) gitstore.Remote
	Metrics Metrics
	Log     *slog.Logger
}

// Follower keeps the accepted state as new as the remote is.
type Follower struct {
	Config
	looks chan gitsync.PeerHead
	again chan struct{} // buffered by one: the remote is to be asked for what no peer delivers

	mu       sync.Mutex
	accepted *gitsync.Accepted // the last one told of
	refused  map[refusal]bool  // standing against the accepted state
	lame     time.Time         // since when the remote does not answer; zero while it does
}

// refusal names what was refused: a commit, for one unit or for all ("").
type refusal struct{ commit, unit string }

// New makes a Follower, which does nothing before Run.
func New(cfg Config) *Follower {
	return &Follower{Config: cfg, looks: make(chan gitsync.PeerHead, maxWants), again: make(chan struct{}, 1)}
}

// Look tells of a head that a peer knows of. It never waits: a head that finds no place is heard of again
// by that peer's document.
func (f *Follower) Look(head reconcile.Commit, from string) {
	select {
	case f.looks <- gitsync.PeerHead{Node: from, Head: head}:
	default:
	}
}

// Conditions are those that this node's document is to have.
func (f *Follower) Conditions() []corev1.NodeCondition {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lame.IsZero() {
		return nil
	}
	return []corev1.NodeCondition{{
		Type: RemoteReachable, Status: corev1.ConditionFalse, LastTransitionTime: metav1.NewTime(f.lame.UTC().Truncate(time.Second)),
		Reason: "NoAnswer", Message: "the remote does not answer this node; it follows its peers",
	}}
}

// Run follows until ctx ends. What runs on this node does not depend on it.
func (f *Follower) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { f.followRemote(ctx); return nil })
	group.Go(func() error { f.followPeers(ctx); return nil })
	return group.Wait()
}

// followRemote looks at once, at each hint, and whenever it is this node's turn.
func (f *Follower) followRemote(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	hints := rate.NewLimiter(hintsPerSecond, hintsBurst)
	due, retry := true, f.Interval
	var notBefore time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.Hints:
			if r := hints.Reserve(); r.Delay() > 0 {
				if !wake.Sleep(ctx, r.Delay()) { // hints that come meanwhile are one
					return
				}
			}
			due = true
		case <-f.again:
			due = true
		case <-timer.C:
		}
		well, lame := f.parties()
		p := period(f.Interval, len(well)+len(lame))
		now := time.Now()
		turn, next := turnAt(now, p)
		// A turn begins a moment before or after the wait is over.
		mine := takes(turn, f.Node, well, lame) && !now.Add(p/2).Before(notBefore)
		timer.Reset(time.Until(next))
		if !due && !mine {
			continue
		}
		due = false
		switch err := f.look(ctx); {
		case ctx.Err() != nil:
			return
		case err == nil:
			retry, notBefore = f.Interval, time.Time{}
		default:
			notBefore = time.Now().Add(retry)
			f.Log.Warn("the remote could not be followed; what runs goes on", "err", err, "retryIn", retry)
			retry = min(2*retry, max(maxRetry, f.Interval))
		}
		// After a look that took longer than its turn, the next one of this node is a later one.
		_, next = turnAt(time.Now(), p)
		timer.Reset(time.Until(next))
	}
}

// look asks the remote once.
func (f *Follower) look(ctx context.Context) error {
	start := time.Now()
	accepted, err := f.Syncer.Sync(ctx)
	if ctx.Err() != nil {
		return err
	}
	f.Metrics.Synced(time.Since(start), err)
	f.mu.Lock()
	switch {
	case !errors.Is(err, gitsync.ErrUnreachable):
		f.lame = time.Time{}
	case f.lame.IsZero():
		f.lame = start
	}
	f.mu.Unlock()
	f.took(accepted, "the remote")
	return err
}

// took makes known what is accepted now.
func (f *Follower) took(accepted *gitsync.Accepted, from string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Store.SetRemote(f.Syncer.Remote())
	if accepted == nil {
		return
	}
	if accepted = f.Syncer.Accepted(); accepted != f.accepted { // the other loop may have been faster
		f.Store.SetAccepted(accepted)
		f.accepted = accepted
		f.Log.Debug("accepted", "head", accepted.Head.ID, "from", from)
	}
	standing := make(map[refusal]bool, len(accepted.Refusals))
	for _, r := range accepted.Refusals {
		key := refusal{r.Commit.ID, r.App}
		standing[key] = true
		if !f.refused[key] {
			f.Metrics.Refused(1)
			f.Log.Warn("refused; what runs goes on", "commit", r.Commit.ID, "app", r.App, "reason", r.Reason, "running", r.Running.ID)
		}
	}
	f.refused = standing
}

// parties are the members that take turns, this node among them, by whether the remote answers them.
func (f *Follower) parties() (well, lame []string) {
	f.mu.Lock()
	own := f.lame.IsZero()
	f.mu.Unlock()
	if own {
		well = append(well, f.Node)
	} else {
		lame = append(lame, f.Node)
	}
	snapshot := f.Store.Snapshot()
	for _, m := range snapshot.Members() {
		switch d := snapshot.Document(m.Node); {
		case m.Standing != state.Alive || m.Node == f.Node:
		case d != nil && reports(d):
			lame = append(lame, m.Node)
		default:
			well = append(well, m.Node)
		}
	}
	return well, lame
}

// reports tells whether a node says that the remote does not answer it.
func reports(d *reconcile.Document) bool {
	for _, c := range d.Conditions {
		if c.Type == RemoteReachable && c.Status == corev1.ConditionFalse {
			return true
		}
	}
	return false
}

// CourierRank is this node's place among those who may write the status branch; 0 is the courier. Nodes
// that the remote does not answer come last.
func (f *Follower) CourierRank() int {
	well, lame := f.parties()
	if slices.Contains(well, f.Node) {
		return rank(courierKey, f.Node, well)
	}
	return len(well) + rank(courierKey, f.Node, lame)
}

// courierKey is what nodes are ranked by for the status branch: the same for ever, so that the courier
// changes with the members alone.
const courierKey = 0
