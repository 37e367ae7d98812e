package gitsync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/reconcile"
)

// Peer is another node, which hands out what it has verified.
type Peer struct {
	Node   string
	Remote gitstore.Remote // what its [Syncer.Server] serves
}

// PeerHead is the head that a node says it has verified.
type PeerHead struct {
	Node string
	Head reconcile.Commit
}

// PeerError says that what a peer offers cannot be believed.
type PeerError struct {
	Node   string
	Head   string
	Reason string
}

func (e *PeerError) Error() string {
	return fmt.Sprintf("node %s offers commit %.12s: %s", e.Node, e.Head, e.Reason)
}

// ErrOtherHistory says that a head and the accepted one do not contain each other.
var ErrOtherHistory = errors.New("is of another history than what is accepted")

// DefaultStaleAfter is how long a remote may lag behind what a peer has verified before it counts as
// stale: copies of one forge follow each other within seconds.
const DefaultStaleAfter = 15 * time.Second

// maxForks bounds the heads of other histories that are remembered.
const maxForks = 64

// Server hands out the accepted head and its history to peers, read-only. Who may ask is for whoever
// mounts it to say.
func (s *Syncer) Server(log *slog.Logger) *gitstore.Server {
	return gitstore.NewServer(s.store, s.ref(), s.verified, log)
}

func (s *Syncer) ref() string { return "refs/heads/" + s.cfg.Branch }

// verified returns the accepted head, "" when there is none, and a channel that is closed when another
// one is accepted.
func (s *Syncer) verified() (string, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.accepted == nil {
		return "", s.changed
	}
	return s.accepted.Head.ID, s.changed
}

// FollowPeer fetches a head that a peer has verified from that peer, judges it as if the remote had
// shown it, and returns what is accepted then. Beside what the remote may send, it takes less: a head
// that nobody known vouches for is refused as a whole and leaves nothing behind.
//
// It errors with [ErrUnreachable] when the peer does not deliver, with a [*PeerError] when the peer is
// to blame, and with [ErrOtherHistory] for a head that is signed well and does not contain the accepted
// one; [Remote.Alarm] tells of those while a node stands there. A node that has accepted nothing yet
// follows the remote alone.
func (s *Syncer) FollowPeer(ctx context.Context, peer Peer, head string) (*Accepted, error) {
	at := s.Accepted()
	if at == nil {
		return nil, errors.New("nothing was accepted yet: the first commit comes from the remote")
	}
	if known, err := s.store.IsAncestor(head, at.Head.ID); err == nil && known {
		return at, nil
	}
	// The network is waited for without holding anybody up.
	offer, err := s.store.Ask(ctx, peer.Remote, head, at.Head.ID)
	if bad, ok := errors.AsType[*gitstore.OfferError](err); ok {
		err = &PeerError{peer.Node, head, bad.Reason}
	}
	if err != nil {
		return at, err
	}
	defer offer.Close()
	s.walking.Lock()
	defer s.walking.Unlock()
	if err := s.take(ctx, peer, offer); err != nil {
		return s.Accepted(), err
	}
	return s.Accepted(), nil
}

func (s *Syncer) take(ctx context.Context, peer Peer, offer *gitstore.Offer) error {
	head := offer.Head
	contains, err := offer.IsAncestor(s.base.id, head)
	if err != nil {
		return err
	}
	if !contains {
		older, err := offer.IsAncestor(head, s.base.id)
		if err != nil || older { // the remote was faster
			return err
		}
		return s.otherHistory(peer, offer)
	}
	if s.walker == nil {
		if s.walker, err = newWalker(s.store, s.cfg.Introduction, s.cfg.Judge); err != nil {
			return err
		}
	}
	before := s.base.id
	var w walked
	err = offer.Take(s.cfg.Remote, s.ref(), func() error {
		if w, err = s.advance(ctx, head); err != nil {
			return err
		}
		if w.base.id != head {
			return &PeerError{peer.Node, head, w.tip.whyRefused(head)}
		}
		return s.save(w)
	})
	if err != nil {
		return err
	}
	s.publish(w)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.base.id != before && s.fromPeer.node == "" {
		s.fromPeer = source{peer.Node, time.Now().UTC()}
	}
	if !s.failing.IsZero() && s.remote.PeersSince.IsZero() {
		s.remote.PeersSince = s.failing
	}
	return nil
}

// source is where the accepted head came from, when the remote has not shown it itself.
type source struct {
	node string
	at   time.Time
}

// whyRefused says why a commit is not vouched for.
func (p *position) whyRefused(id string) string {
	for _, r := range p.accepted().Refusals {
		if r.Commit.ID == id {
			return r.Reason
		}
	}
	return "nobody known vouches for it as a whole"
}

// otherHistory notes a head beside the accepted one, if somebody known has signed it: any node could
// make up one that nobody signed.
func (s *Syncer) otherHistory(peer Peer, offer *gitstore.Offer) error {
	c, err := offer.Commit()
	if err == nil {
		_, err = s.base.cluster.signers.Verify(c.Payload, c.Signature)
	}
	if err != nil {
		return &PeerError{peer.Node, offer.Head, "does not contain what is accepted, and " + err.Error()}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.forks) >= maxForks {
		clear(s.forks) // they are found again
	}
	s.forks[offer.Head] = true
	return fmt.Errorf("commit %.12s of node %s %w at %.12s", offer.Head, peer.Node, ErrOtherHistory, s.base.id)
}

// Compare takes the heads that the other nodes say they have verified, and returns those that are not
// known here. Heads that do not contain each other raise an alarm, see [Remote.Alarm]: a server shows
// nodes different branches, or a node lies.
func (s *Syncer) Compare(heads []PeerHead) (unknown []PeerHead) {
	at := s.Accepted()
	if at == nil {
		return nil
	}
	beside := map[string][]string{} // head to nodes
	var along []string
	for _, h := range heads {
		switch {
		case h.Head.ID == "":
		case h.Head.ID == at.Head.ID:
			along = append(along, h.Node)
		case s.isFork(h.Head.ID, at.Head.ID):
			beside[h.Head.ID] = append(beside[h.Head.ID], h.Node)
		case !s.knows(h.Head.ID):
			unknown = append(unknown, h)
		}
	}
	var alarms []string
	for _, head := range slices.Sorted(maps.Keys(beside)) {
		alarms = append(alarms, fmt.Sprintf("branch %q has two histories: %s verified %.12s, but %s verified %.12s, and neither contains the other: "+
			"the Git server shows nodes different branches, or a node lies; what was accepted stays in force: push a commit that contains both",
			s.cfg.Branch, nodes(append([]string{"this node"}, slices.Sorted(slices.Values(along))...)), at.Head.ID,
			nodes(slices.Sorted(slices.Values(beside[head]))), head))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flockAlarm, s.agreeing = strings.Join(alarms, "; "), along
	return unknown
}

func nodes(names []string) string { return strings.Join(names, ", ") }

// isFork reports whether neither of two heads contains the other, as far as is known.
func (s *Syncer) isFork(head, accepted string) bool {
	if !s.knows(head) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.forks[head]
	}
	before, err := s.store.IsAncestor(head, accepted)
	if err != nil || before {
		return false
	}
	after, err := s.store.IsAncestor(accepted, head)
	return err == nil && !after
}

func (s *Syncer) knows(id string) bool {
	_, err := s.store.Level(id)
	return err == nil
}

// seen notes how a look at the remote went.
func (s *Syncer) seen(started time.Time, alarm string, err error) {
	s.remote.LastTry = started
	if err != nil {
		s.remote.Err = err.Error()
		if s.failing.IsZero() && errors.Is(err, ErrUnreachable) {
			s.failing = started
		}
		return
	}
	s.failing = time.Time{}
	s.remote.LastOK, s.remote.Err, s.remote.PeersSince = started, "", time.Time{}
	s.branchAlarm = alarm
}

// behind words the finding that the remote shows an older head than a peer had; "" while that is young.
func (s *Syncer) behind(head string) (alarm string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fromPeer.node == "" {
		return "", false
	}
	if time.Since(s.fromPeer.at) < cmp.Or(s.cfg.StaleAfter, DefaultStaleAfter) {
		return "", true
	}
	others := slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(s.agreeing), s.fromPeer.node))))
	return fmt.Sprintf("the remote shows this node branch %q at %.12s, which is older than %.12s, verified by %s and here since %s: "+
		"its server is stale, or the branch was set back; what was accepted stays in force: have the server looked at; to go back, revert by a new commit",
		s.cfg.Branch, head, s.base.id, nodes(others), s.fromPeer.at.Format(time.RFC3339)), true
}
