package state

import (
	"context"

	"github.com/hashicorp/go-memdb"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/statusbranch"
	"github.com/pleachdev/pleach/reconcile"
)

// Snapshot is the store at one moment. What it returns is shared and must not be changed; slices
// belong to the caller. It may be used from several goroutines and needs no closing.
type Snapshot struct{ txn *memdb.Txn }

// Accepted returns the accepted state, nil before there is one.
func (s Snapshot) Accepted() *gitsync.Accepted {
	return first[gitsync.Accepted](s.txn, Accepted, "id", "only")
}

// Remote returns what is known of the remote, zero before the first try.
func (s Snapshot) Remote() gitsync.Remote {
	return orZero(first[gitsync.Remote](s.txn, Remote, "id", "only"))
}

// StatusPush returns the state of the status branch's writer.
func (s Snapshot) StatusPush() statusbranch.Status {
	return orZero(first[statusbranch.Status](s.txn, StatusBranch, "id", "only"))
}

// Documents returns every node's document, sorted by node.
func (s Snapshot) Documents() []*reconcile.Document {
	return list[reconcile.Document](s.txn, Documents, "id")
}

// Document returns one node's document, or nil.
func (s Snapshot) Document(node string) *reconcile.Document {
	return first[reconcile.Document](s.txn, Documents, "id", node)
}

// Members returns what is held of the other nodes, sorted by node; nothing on a node that is alone.
func (s Snapshot) Members() []*Member { return list[Member](s.txn, Members, "id") }

// Member returns what is held of one other node, or nil.
func (s Snapshot) Member(node string) *Member { return first[Member](s.txn, Members, "id", node) }

// Pods returns this node's pods, sorted by namespace and name.
func (s Snapshot) Pods() []*corev1.Pod { return list[corev1.Pod](s.txn, Pods, byName) }

// Pod returns one of this node's pods, or nil.
func (s Snapshot) Pod(namespace, name string) *corev1.Pod {
	return first[corev1.Pod](s.txn, Pods, byName, joined(namespace, name))
}

// PodByUID returns one of this node's pods, or nil.
func (s Snapshot) PodByUID(uid types.UID) *corev1.Pod {
	return first[corev1.Pod](s.txn, Pods, "id", string(uid))
}

// Workloads returns the status of every workload, sorted by kind, namespace, name.
func (s Snapshot) Workloads() []*reconcile.WorkloadStatus {
	return list[reconcile.WorkloadStatus](s.txn, Workloads, "id")
}

// Workload returns the status of one workload, or nil. kind is "Deployment", "DaemonSet" …
func (s Snapshot) Workload(kind, namespace, name string) *reconcile.WorkloadStatus {
	return first[reconcile.WorkloadStatus](s.txn, Workloads, "id", joined(kind, namespace, name))
}

// Decisions returns the decisions about all slots, sorted by namespace, kind, workload, and
// as the workload orders its slots.
func (s Snapshot) Decisions() []*reconcile.SlotDecision {
	var out []*reconcile.SlotDecision
	for _, d := range list[decided](s.txn, Decisions, "id") {
		for i := range d.Slots {
			out = append(out, &d.Slots[i])
		}
	}
	return out
}

// Events returns the events that are remembered, in the order of their last occurrence.
func (s Snapshot) Events() []*corev1.Event {
	rows := list[eventRow](s.txn, Events, bySeq)
	out := make([]*corev1.Event, len(rows))
	for i, r := range rows {
		out[i] = r.event
	}
	return out
}

// Wait returns when one of the tables is no longer as in this snapshot, with nil, or when ctx ends,
// with its error. No change between Snapshot and Wait is missed. No table means all of them.
func (s Snapshot) Wait(ctx context.Context, tables ...Table) error {
	return s.watch(tables).WatchCtx(ctx)
}

// Changed returns a channel that is closed when Wait would return. The goroutine behind it lives
// until then; a loop that waits again and again ends each round's ctx.
func (s Snapshot) Changed(ctx context.Context, tables ...Table) <-chan struct{} {
	changed := make(chan struct{})
	set := s.watch(tables)
	go func() {
		defer close(changed)
		_ = set.WatchCtx(ctx) // ctx's own error tells the caller all there is
	}()
	return changed
}

func (s Snapshot) watch(tables []Table) memdb.WatchSet {
	if len(tables) == 0 {
		for name := range schema.Tables {
			tables = append(tables, Table(name))
		}
	}
	set := memdb.NewWatchSet()
	for _, t := range tables {
		it, err := s.txn.Get(string(t), "id")
		check(err)
		set.Add(it.WatchCh())
	}
	return set
}

func orZero[T any](p *T) T {
	if p == nil {
		return *new(T)
	}
	return *p
}
