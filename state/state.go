// Package state holds what this node knows: what it accepted from Git, what every node says of
// itself, the pods it runs, how the workloads are, and what happened lately.
//
// Writers hand over values and give them up: nothing that went into a [Store] is changed again, by
// anybody. Readers take a [Snapshot], which stays as it is while the store moves on. Writing what
// is there already is no change and wakes nobody; it costs a comparison, and nothing when the very
// same pointer comes again.
package state

import (
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-memdb"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/statusbranch"
	"github.com/pleachdev/pleach/reconcile"
)

// Table names a part of the store that can be waited for.
type Table string

// The tables of a store.
const (
	Accepted     Table = "accepted"
	Remote       Table = "remote"
	Documents    Table = "documents"
	Pods         Table = "pods"
	Workloads    Table = "workloads"
	Decisions    Table = "decisions"
	Events       Table = "events"
	StatusBranch Table = "statusBranch"
	Members      Table = "members"
)

// Standing is how this node holds another.
type Standing string

// The standings of a member.
const (
	Alive  Standing = "Alive"
	Failed Standing = "Failed" // membership lost it; whether it is gone is being found out
	Gone   Standing = "Gone"   // held for dead: its pods are started elsewhere
)

// Member is what this node holds of another node of the flock.
type Member struct {
	Node     string
	Standing Standing
	Since    time.Time // of the standing
	Reason   string    // one sentence for people: who agreed, or what is in the way; "" when alive
	Heard    time.Time // when the newest document of it came; zero when that was before this agent started
}

// Store is the whole of it. Its methods may be called from any goroutine.
type Store struct {
	db *memdb.MemDB
	// mu makes read, compare and write one step. memdb serialises writers too, but only once they
	// hold a transaction, and events need the counter as well.
	mu       sync.Mutex
	eventSeq uint64 // of the last event
	events   int    // rows in the table
}

// New returns an empty store.
func New() *Store {
	db, err := memdb.NewMemDB(schema)
	if err != nil {
		panic(err) // the schema is a constant of this package and covered by every test
	}
	return &Store{db: db}
}

// SetAccepted replaces the accepted state.
func (s *Store) SetAccepted(a *gitsync.Accepted) { put(s, acceptedTable, a) }

// SetRemote replaces what is known of the remote.
func (s *Store) SetRemote(r gitsync.Remote) { put(s, remoteTable, &r) }

// SetStatusPush replaces the state of the status branch's writer.
func (s *Store) SetStatusPush(p statusbranch.Status) { put(s, statusBranchTable, &p) }

// SetDocument replaces one node's document.
func (s *Store) SetDocument(d *reconcile.Document) { put(s, documentTable, d) }

// DeleteDocument forgets a node's document.
func (s *Store) DeleteDocument(node string) { remove(s, documentTable, node) }

// SetMembers replaces what is held of the other nodes. Nodes that are not in it were not heard of by
// this agent.
func (s *Store) SetMembers(m []Member) { replace(s, memberTable, pointers(m)) }

// SetPods replaces the pods of this node: those that are not in pods are forgotten.
func (s *Store) SetPods(pods []*corev1.Pod) { replace(s, podTable, pods) }

// SetPod adds or replaces one pod of this node, told by its uid.
func (s *Store) SetPod(p *corev1.Pod) { put(s, podTable, p) }

// DeletePod forgets one pod.
func (s *Store) DeletePod(uid types.UID) { remove(s, podTable, string(uid)) }

// SetWorkloads replaces the statuses of all workloads.
func (s *Store) SetWorkloads(w []reconcile.WorkloadStatus) { replace(s, workloadTable, pointers(w)) }

// SetDecisions replaces the decisions about all slots.
func (s *Store) SetDecisions(d []reconcile.SlotDecision) { replace(s, decisionTable, pointers(d)) }

// Snapshot returns the store as it is now. It costs next to nothing, however much is in the store.
func (s *Store) Snapshot() Snapshot { return Snapshot{txn: s.db.Txn(false)} }

func pointers[T any](s []T) []*T {
	out := make([]*T, len(s))
	for i := range s {
		out[i] = &s[i]
	}
	return out
}

// joined makes an index key of parts. Kubernetes' names hold no zero byte.
func joined(parts ...string) string { return strings.Join(parts, "\x00") }
