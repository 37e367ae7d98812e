// Package state holds what this node knows: what it accepted from Git, what every node says of
// itself, the pods it runs, how the workloads are, and what happened lately.
//
// Writers hand over values and give them up: nothing that went into a [Store] is changed again, by
// anybody. Readers take a [Snapshot], which stays as it is while the store moves on. Writing what
// is there already is no change and wakes nobody; it costs a comparison, and nothing when the very
// same pointer comes again.
package state

import (
	"slices"
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

// SetDecided takes over what one step decided: it replaces the statuses of its workloads and all decisions
// about their slots, and forgets the workloads that were removed.
func (s *Store) SetDecided(d *reconcile.Decision) {
	s.mu.Lock()
	defer s.mu.Unlock()
	txn := s.db.Txn(true)
	defer txn.Abort()
	changed := false
	forget := func(table Table, uid types.UID) {
		n, err := txn.DeleteAll(string(table), byUID, string(uid))
		check(err)
		changed = changed || n > 0
	}
	for _, uid := range d.Removed {
		forget(Workloads, uid)
		forget(Decisions, uid)
	}
	filled := map[types.UID]bool{}
	for slots := d.Slots; len(slots) > 0; {
		uid := slots[0].Slot.Workload
		n := slices.IndexFunc(slots, func(e reconcile.SlotDecision) bool { return e.Slot.Workload != uid })
		if n < 0 {
			n = len(slots)
		}
		// Rows of their own, that go one by one.
		changed = set(txn, decisionTable, &decided{slices.Clone(slots[:n])}) || changed
		filled[uid], slots = true, slots[n:]
	}
	for _, w := range d.Workloads {
		changed = set(txn, workloadTable, &w) || changed
		if !filled[w.UID] {
			forget(Decisions, w.UID)
		}
	}
	if changed {
		txn.Commit()
	}
}

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
