package follow

import (
	"cmp"
	"context"
	"errors"
	"hash/fnv"
	"slices"
	"time"

	"github.com/pleachdev/pleach/agent/wake"
	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/state"
)

const (
	maxWants   = 64 // heads that were heard of and are not here
	maxSources = 8  // peers for one of them
	wantFor    = 10 * time.Minute
	wantRetry  = 250 * time.Millisecond
	wantRest   = 10 * time.Second // the longest wait between two tries

	// A peer has this long to hand over a head, as long as the remote could do so, too; and this long when
	// it could not.
	peerTime      = 5 * time.Second
	peerTimeAlone = 2 * time.Minute
	// A node asks the remote for a head that no peer has delivered for so long, and those of higher rank
	// later, so that the remote is not asked by all at once.
	peersFirst = 2 * time.Second

	asideFor  = time.Minute // that a peer is not believed, doubled each time
	asideMost = time.Hour
)

// want is a head that a peer has told of.
type want struct {
	head  reconcile.Commit
	from  []string
	since time.Time
	tries int
	next  time.Time
	asked bool // the remote was looked at for it
}

// aside is a peer that has offered what cannot be believed.
type aside struct {
	until time.Time
	wait  time.Duration
}

// peersLoop is the state of followPeers, which alone uses it.
type peersLoop struct {
	*Follower
	wants    map[string]*want
	aside    map[string]aside
	fallback time.Time // the last look at the remote for want of a peer
}

// followPeers takes from peers what they have verified, and compares what all say that they have.
func (f *Follower) followPeers(ctx context.Context) {
	l := &peersLoop{Follower: f, wants: map[string]*want{}, aside: map[string]aside{}}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		snapshot := f.Store.Snapshot()
		round, done := context.WithCancel(ctx)
		changed := snapshot.Changed(round, state.Documents, state.Accepted)
		l.compare(snapshot)
		if l.fetch(ctx) {
			l.compare(snapshot) // a head of another history is known for one now
		}
		timer.Reset(max(time.Until(l.wake()), time.Millisecond))
		select {
		case <-ctx.Done():
		case <-changed:
		case h := <-f.looks:
			l.add(h)
			for more := true; more; {
				select {
				case h = <-f.looks:
					l.add(h)
				default:
					more = false
				}
			}
		case <-timer.C:
		}
		done()
		if ctx.Err() != nil {
			return
		}
	}
}

// compare holds the heads of all documents against this node's own.
func (l *peersLoop) compare(snapshot state.Snapshot) {
	var heads []gitsync.PeerHead
	for _, d := range snapshot.Documents() {
		if d.Node != l.Node {
			heads = append(heads, gitsync.PeerHead{Node: d.Node, Head: d.Head})
		}
	}
	for _, h := range l.Syncer.Compare(heads) {
		l.add(h)
	}
	l.took(nil, "")
}

func (l *peersLoop) add(h gitsync.PeerHead) {
	w := l.wants[h.Head.ID]
	if w == nil {
		if len(l.wants) >= maxWants || h.Node == l.Node {
			return
		}
		now := time.Now()
		w = &want{head: h.Head, since: now, next: now}
		l.wants[h.Head.ID] = w
	}
	if len(w.from) < maxSources && !slices.Contains(w.from, h.Node) {
		w.from, w.next = append(w.from, h.Node), time.Now()
	}
}

// wake is when something is to be tried next.
func (l *peersLoop) wake() time.Time {
	first := time.Now().Add(time.Hour)
	for _, w := range l.wants {
		if w.next.Before(first) {
			first = w.next
		}
	}
	return first
}

// fetch tries what is due, the newest first, and reports whether it tried anything.
func (l *peersLoop) fetch(ctx context.Context) (tried bool) {
	now := time.Now()
	var due []*want
	for id, w := range l.wants {
		if now.Sub(w.since) > wantFor {
			delete(l.wants, id)
		} else if !w.next.After(now) {
			due = append(due, w)
		}
	}
	slices.SortFunc(due, func(a, b *want) int {
		return cmp.Or(cmp.Compare(b.head.Level, a.head.Level), cmp.Compare(a.head.ID, b.head.ID))
	})
	for _, w := range due {
		if ctx.Err() != nil {
			return tried
		}
		l.try(ctx, w)
		tried = true
	}
	return tried
}

// try asks one of those who told of a head.
func (l *peersLoop) try(ctx context.Context, w *want) {
	w.next = time.Now().Add(min(wantRetry<<min(w.tries, 10), wantRest))
	w.tries++
	for i := range w.from {
		node := w.from[(w.tries-1+i)%len(w.from)]
		if time.Now().Before(l.aside[node].until) {
			continue
		}
		switch err := l.ask(ctx, node, w.head.ID); {
		case err == nil, errors.Is(err, gitsync.ErrOtherHistory):
			delete(l.wants, w.head.ID)
			return
		case ctx.Err() != nil:
			return
		default:
			if bad, ok := errors.AsType[*gitsync.PeerError](err); ok {
				a := l.aside[node]
				a.wait = min(max(2*a.wait, asideFor), asideMost)
				a.until = time.Now().Add(a.wait)
				l.aside[node] = a
				l.Log.Warn("a peer offers what cannot be believed; it is not asked for a while, and the remote is", "peer", node, "err", bad, "for", a.wait)
			} else {
				l.Log.Debug("a peer does not deliver", "peer", node, "head", w.head.ID, "err", err)
			}
		}
		break
	}
	l.fallBack(w)
}

func (l *peersLoop) ask(ctx context.Context, node, head string) error {
	limit := peerTime
	if len(l.Conditions()) > 0 {
		limit = peerTimeAlone
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	accepted, err := l.Syncer.FollowPeer(ctx, gitsync.Peer{Node: node, Remote: l.Peer(node)}, head)
	if err == nil {
		l.took(accepted, node)
	}
	return err
}

// fallBack has the remote asked for a head that no peer delivers: by the nodes in turn, each once for a
// head, and not more often than a flock may, whatever heads somebody makes up.
func (l *peersLoop) fallBack(w *want) {
	if w.asked {
		return
	}
	well, lame := l.parties()
	members := slices.Concat(well, lame)
	key := fnv.New64a()
	_, _ = key.Write([]byte(w.head.ID)) // a hash takes every write
	now := time.Now()
	at := w.since.Add(peersFirst + time.Duration(rank(int64(key.Sum64()), l.Node, members))*MinPeriod)
	if free := l.fallback.Add(time.Duration(len(members)) * MinPeriod); free.After(at) {
		at = free
	}
	if now.Before(at) {
		if at.Before(w.next) {
			w.next = at
		}
		return
	}
	w.asked, l.fallback = true, now
	wake.Poke(l.again)
}
