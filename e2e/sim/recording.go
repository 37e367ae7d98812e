package sim

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/reconcile"
)

// Record is one document as it was published.
type Record struct {
	At       time.Duration
	Writer   string // who signed it
	Document reconcile.Document
}

// Recording is what is known of a flock from outside: what its nodes published, what was committed, and
// what was done to it.
type Recording struct {
	Records []Record    // in the order in which they were published
	History []Committed // all commits, by level
	Faults  []Event     // in the order in which they began
	Calm    time.Duration
	Whole   time.Duration // when all ran as committed and all agreed, after Calm; 0: never
	End     time.Duration
	Quiet   bool              // at End all must run as committed
	Partial bool              // documents may be missing among Records
	Names   []string          // of the nodes, by index; nil where NodeName names them
	Plans   map[string]string // digest of the last plan of every node that is up at End
}

func (w *world) record(d reconcile.Document) {
	w.recording.Records = append(w.recording.Records, Record{w.clock.now, d.Node, d})
}

// Digest stands for every byte of the documents.
func (r *Recording) Digest() string {
	h := sha256.New()
	e := json.NewEncoder(h)
	for i := range r.Records {
		if err := e.Encode(&r.Records[i]); err != nil {
			panic(err) // plain data
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// Starts counts the pods that were started, and those of them that filled a slot whose pod of the same
// revision was running on another node, while all nodes heard of each other.
func (r *Recording) Starts() (all, second int) {
	j := newJudge(r)
	for i := range r.Records {
		j.advance(r.Records[i].At)
		for _, m := range j.news(&r.Records[i]) {
			all++
			if !j.separated(j.now-time.Minute, j.now) && slices.ContainsFunc(j.inSlot(m.Slot), func(o reconcile.Instance) bool {
				return live(o) && o.Revision == m.Revision && o.UID != m.UID && !j.drainedBy(m.Cause, o.Node) && !j.cutWhenBack(o.Node)
			}) {
				second++
			}
		}
		j.put(&r.Records[i])
	}
	return all, second
}

// latest returns the last document of every node that was not switched off for good.
func (r *Recording) latest() map[string]*reconcile.Document {
	out := map[string]*reconcile.Document{}
	for i := range r.Records {
		d := &r.Records[i].Document
		out[d.Node] = d
	}
	for _, f := range r.Faults {
		if f.Kind.off() && f.For < 0 {
			delete(out, r.name(f.Node))
		}
	}
	return out
}

// whole says what keeps the flock from running as it was committed.
func (r *Recording) whole() *Violation {
	fail := func(node, slot, format string, args ...any) *Violation {
		return &Violation{At: r.End, Rule: "whole after calm", Node: node, Slot: slot, Text: fmt.Sprintf(format, args...)}
	}
	docs := r.latest()
	head := r.History[len(r.History)-1]
	runs := map[reconcile.Slot]int{}
	plan, first := "", ""
	for _, name := range sortedKeys(docs) {
		d := docs[name]
		if head.Nodes != nil && !slices.Contains(head.Nodes, name) {
			continue // it was removed, and nobody hears it
		}
		for _, app := range head.Apps {
			if d.Accepted[app].Level != head.Level {
				return fail(name, "", "has accepted %s of %s, and %s is the head", short(d.Accepted[app].ID), app, short(head.ID))
			}
		}
		for _, m := range d.Instances {
			o := head.workload(m.Slot.Workload)
			if r.Names != nil && m.Phase == "Failed" {
				continue // the record of a pod that ended, whose slot finds no room
			}
			if m.Terminating || !m.Ready || o == nil || o.Revision != m.Revision && o.Kind != "ReplicaSet" {
				return fail(name, slotName(m), "%s is there: %s", m.Name, condition(m))
			}
			if !head.keeps(m) {
				return fail(name, slotName(m), "%s is there, and its node is out of service", m.Name)
			}
			if runs[m.Slot]++; runs[m.Slot] > 1 {
				return fail(name, slotName(m), "runs twice, the second time as %s", m.Name)
			}
		}
		if first == "" {
			plan, first = r.Plans[name], name
		}
		if r.Plans[name] != plan {
			return fail(name, "", "plans otherwise than %s", first)
		}
	}
	if r.Names != nil {
		return nil // of a given flock, some slots may fit nowhere
	}
	wanted := 0
	have := map[types.UID]int{}
	for slot := range runs {
		have[slot.Workload]++
	}
	for _, w := range head.Workloads {
		want := int(w.Replicas)
		if w.PerNode {
			want = len(docs) - count(docs, head.Tainted)
		}
		if have[w.UID] != want {
			return fail("", w.Name, "%d of %d slots run", have[w.UID], want)
		}
		wanted += want
	}
	if len(runs) != wanted {
		return fail("", "", "%d slots run, %d are wanted", len(runs), wanted)
	}
	return nil
}

// count counts those of the names that have a document.
func count(docs map[string]*reconcile.Document, names []string) (n int) {
	for _, name := range names {
		if docs[name] != nil {
			n++
		}
	}
	return n
}

func live(m reconcile.Instance) bool {
	return !m.Terminating && m.Phase != "Failed" && m.Phase != "Succeeded"
}

func slotName(m reconcile.Instance) string {
	if m.Slot.Node != "" {
		return m.Owner + "@" + m.Slot.Node
	}
	return fmt.Sprintf("%s[%d]", m.Owner, m.Slot.Ordinal)
}

func condition(m reconcile.Instance) string {
	switch {
	case m.Terminating:
		return "terminating"
	case m.Ready:
		return "ready"
	case m.Reason != "":
		return m.Reason
	}
	return string(m.Phase) + ", not ready"
}
