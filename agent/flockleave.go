package agent

import (
	"context"
	"time"

	"github.com/pleachdev/pleach/agent/wake"
	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
	"github.com/pleachdev/pleach/gossip"
)

const (
	// backWithin is how long a node may be away after its agent was asked to end, before its slots are given
	// to others: long enough for an upgrade, and for a machine that is started again.
	backWithin = 2 * time.Minute
	// leaveWithin bounds what telling the others of it takes.
	leaveWithin = time.Second
)

// leave takes the last document of the agent, which was asked to end.
func (f *flock) leave(last gossip.Sealed) { f.last <- last }

// backBy is when this node means to be back, if its agent ends now; zero when it does not say.
func (f *flock) backBy(now time.Time) time.Time {
	if f.planned == 0 {
		return time.Time{}
	}
	return now.Add(f.planned).UTC().Truncate(time.Microsecond)
}

// takeLeave waits until the agent is asked to end, and hands its last document to the others before live
// may end.
func (f *flock) takeLeave(ctx, live context.Context) {
	select {
	case <-ctx.Done():
	case <-live.Done():
		return
	}
	v := f.seen()
	if v.members == 1 || f.planned == 0 {
		return // nobody to tell
	}
	live, cancel := context.WithTimeout(live, leaveWithin)
	defer cancel()
	select {
	case last := <-f.last:
		handed := make(chan struct{})
		f.tell(live, gossip.Publish{Document: last, Direct: leaveTo(v, f.Node)})
		f.tell(live, func() { close(handed) })
		select {
		case <-handed:
		case <-live.Done():
		}
	case <-live.Done():
	}
	for !f.outbox.idle() && wake.Sleep(live, 5*time.Millisecond) {
	}
}

// leaveTo returns who hears of the end straight; these tell the others, who may not fetch it from here
// any more.
func leaveTo(v view, self string) []string {
	var to []string
	for _, node := range v.enrolled {
		if s := v.states[node]; node != self && !s.Failed && !s.Gone && len(to) < maxGreeted {
			to = append(to, node)
		}
	}
	return to
}

// idle reports whether every message was sent, or given up.
func (o *outbox) idle() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.queues) == 0
}

// released reports whether a newly accepted state lets slots move again after many nodes vanished at once.
// What the first one says that an agent sees was said before.
func released(before, now *gitsync.Accepted) bool {
	says := now.Cluster.Annotations[v1alpha1.ReleaseMovesAnnotation]
	return before != nil && says != "" && says != before.Cluster.Annotations[v1alpha1.ReleaseMovesAnnotation]
}
