package state

import (
	"fmt"
	"time"

	"github.com/hashicorp/go-memdb"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/statusbranch"
	"github.com/pleachdev/pleach/gitsync/trust"
	"github.com/pleachdev/pleach/reconcile"
)

// table is a memdb table of *T rows. Its index "id" is made by key and is unique.
type table[T any] struct {
	name  Table
	key   func(*T) string
	equal func(a, b *T) bool // nil for same
}

var (
	acceptedTable     = table[gitsync.Accepted]{name: Accepted, key: only[gitsync.Accepted]}
	remoteTable       = table[gitsync.Remote]{name: Remote, key: only[gitsync.Remote]}
	statusBranchTable = table[statusbranch.Status]{name: StatusBranch, key: only[statusbranch.Status]}
	documentTable     = table[reconcile.Document]{name: Documents, key: func(d *reconcile.Document) string { return d.Node }}
	podTable          = table[corev1.Pod]{name: Pods, key: func(p *corev1.Pod) string { return string(p.UID) }}
	workloadTable     = table[reconcile.WorkloadStatus]{name: Workloads, key: func(w *reconcile.WorkloadStatus) string {
		return joined(w.Kind, w.Namespace, w.Name)
	}}
	decisionTable = table[decided]{name: Decisions, key: func(d *decided) string {
		s := &d.Slots[0]
		return joined(s.Namespace, s.Kind, s.Owner, string(s.Slot.Workload))
	}}
	// Members are written at every word of another node.
	memberTable = table[Member]{
		name: Members, key: func(m *Member) string { return m.Node }, equal: func(a, b *Member) bool { return *a == *b },
	}
	eventTable = table[eventRow]{name: Events, key: func(e *eventRow) string { return e.key }}
)

// decided are the decisions about the slots of one workload, at least one.
type decided struct{ Slots []reconcile.SlotDecision }

// Secondary indexes.
const (
	byUID  = "uid"  // workloads and their decisions: the workload's
	byName = "name" // pods: namespace and name
	bySeq  = "seq"  // events: in the order of their last occurrence
)

var schema = &memdb.DBSchema{Tables: map[string]*memdb.TableSchema{
	string(Accepted):     acceptedTable.schema(),
	string(Remote):       remoteTable.schema(),
	string(StatusBranch): statusBranchTable.schema(),
	string(Documents):    documentTable.schema(),
	string(Pods): podTable.schema(&memdb.IndexSchema{Name: byName, Indexer: indexer[corev1.Pod](
		func(p *corev1.Pod) string { return joined(p.Namespace, p.Name) })}),
	string(Members): memberTable.schema(),
	string(Workloads): workloadTable.schema(&memdb.IndexSchema{Name: byUID, Indexer: indexer[reconcile.WorkloadStatus](
		func(w *reconcile.WorkloadStatus) string { return string(w.UID) })}),
	string(Decisions): decisionTable.schema(&memdb.IndexSchema{Name: byUID, Indexer: indexer[decided](
		func(d *decided) string { return string(d.Slots[0].Slot.Workload) })}),
	string(Events): eventTable.schema(&memdb.IndexSchema{Name: bySeq, Unique: true, Indexer: indexer[eventRow](
		func(e *eventRow) string { return fmt.Sprintf("%020d", e.seq) })}),
}}

// only is the key of a table with one row.
func only[T any](*T) string { return "only" }

func (t table[T]) schema(more ...*memdb.IndexSchema) *memdb.TableSchema {
	out := &memdb.TableSchema{Name: string(t.name), Indexes: map[string]*memdb.IndexSchema{
		"id": {Name: "id", Unique: true, Indexer: indexer[T](t.key)},
	}}
	for _, i := range more {
		out.Indexes[i.Name] = i
	}
	return out
}

// indexer makes a memdb index of a function from row to key. Keys end in a zero byte, so that no key
// is the beginning of another.
type indexer[T any] func(*T) string

func (f indexer[T]) FromObject(row any) (bool, []byte, error) {
	return true, []byte(f(row.(*T)) + "\x00"), nil
}

func (f indexer[T]) FromArgs(args ...any) ([]byte, error) {
	return []byte(args[0].(string) + "\x00"), nil
}

// same compares contents the way Kubernetes does (1 CPU is 1000m, no list is an empty list), and
// instants whatever their location.
var same = func() func(a, b any) bool {
	e := equality.Semantic.Copy()
	times := func(a, b time.Time) bool { return a.Equal(b) }
	signers := func(a, b *trust.AllowedSigners) bool { return a.Equal(b) }
	if err := e.AddFuncs(times, signers); err != nil {
		panic(err)
	}
	return e.DeepEqual
}()

// set writes row unless an equal one is there, and reports whether it did.
func set[T any](txn *memdb.Txn, t table[T], row *T) bool {
	old, err := txn.First(string(t.name), "id", t.key(row))
	check(err)
	if old, ok := old.(*T); ok && (old == row || t.equal != nil && t.equal(old, row) || t.equal == nil && same(old, row)) {
		return false
	}
	check(txn.Insert(string(t.name), row))
	return true
}

func put[T any](s *Store, t table[T], row *T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	txn := s.db.Txn(true)
	defer txn.Abort() // of nothing, once committed
	if set(txn, t, row) {
		txn.Commit()
	}
}

func remove[T any](s *Store, t table[T], key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	txn := s.db.Txn(true)
	defer txn.Abort()
	n, err := txn.DeleteAll(string(t.name), "id", key)
	check(err)
	if n > 0 {
		txn.Commit()
	}
}

// replace makes rows the contents of the table, in one step.
func replace[T any](s *Store, t table[T], rows []*T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	txn := s.db.Txn(true)
	defer txn.Abort()
	changed := false
	keep := make(map[string]bool, len(rows))
	for _, row := range rows {
		keep[t.key(row)] = true
		changed = set(txn, t, row) || changed
	}
	for _, old := range list[T](txn, t.name, "id") {
		if !keep[t.key(old)] {
			check(txn.Delete(string(t.name), old))
			changed = true
		}
	}
	if changed {
		txn.Commit()
	}
}

// list returns the rows in the order of an index.
func list[T any](txn *memdb.Txn, name Table, index string) []*T {
	it, err := txn.Get(string(name), index)
	check(err)
	var out []*T
	for row := it.Next(); row != nil; row = it.Next() {
		out = append(out, row.(*T))
	}
	return out
}

// first returns one row, or nil.
func first[T any](txn *memdb.Txn, name Table, index, key string) *T {
	row, err := txn.First(string(name), index, key)
	check(err)
	if row == nil {
		return nil
	}
	return row.(*T)
}

// check ends on what memdb calls errors: a table or index that the schema lacks, a row of the wrong
// type. They are mistakes of this package, whatever the data.
func check(err error) {
	if err != nil {
		panic(err)
	}
}
