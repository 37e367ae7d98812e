package agent

import (
	"context"
	"net/netip"
	"time"

	"github.com/pleachdev/pleach/agent/wake"
	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/statusbranch"
	"github.com/pleachdev/pleach/gossip"
	"github.com/pleachdev/pleach/reconcile/gate"
)

// recallEvery is the time between two looks at the status branch while nobody answers.
const recallEvery = time.Minute

// recall reads where the others were from what the agent before heard of them, and from the status branch
// for as long as nobody answers at any address that is known. What stands there is the last that was known, and no evidence of anything: it is never
// among the documents that count.
func (f *flock) recall(ctx context.Context) error {
	f.book.recall(f.placesOf(f.LastKnown(), f.store.Snapshot().Accepted()))
	for wait := gate.JoinFor; wake.Sleep(ctx, wait) && f.seen().members == 1; wait = recallEvery {
		a := f.store.Snapshot().Accepted()
		known, err := statusbranch.Read(ctx, f.statusRemote(a.Cluster.Spec.Status), a.Cluster.Spec.Status.Branch, f.book.Keys)
		if err != nil {
			f.Log.Info("no other node answers, and the status branch cannot tell where they are", "err", err, "retryIn", recallEvery)
			continue
		}
		f.book.recall(f.placesOf(known.Documents, a))
	}
	return nil
}

// placesOf returns where nodes say that they are. A document names no port: this node's own is taken for
// theirs.
func (f *flock) placesOf(documents []gossip.Sealed, a *gitsync.Accepted) map[string]netip.AddrPort {
	places := map[string]netip.AddrPort{}
	for _, sealed := range documents {
		if sealed.Node == f.Node || enrolledNode(a, sealed.Node) == nil {
			continue
		}
		d, err := sealed.Document()
		if err != nil {
			continue // of another form; it tells of itself once it is heard
		}
		if at := internalIPs(&d); len(at) > 0 {
			places[d.Node] = netip.AddrPortFrom(at[0], f.advertise.Port())
		}
	}
	return places
}
