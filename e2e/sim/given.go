package sim

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/reconcile"
)

// Given is a flock that is not drawn: somebody's own machines, and what was committed for them.
type Given struct {
	Machines []*corev1.Node // with status.allocatable; by name
	Apps     []string
	// Commits are the objects of all apps after each commit, oldest first. Pushes bring them in this order.
	Commits [][]reconcile.Object
}

// name, apps and machine are the life's own, or the given ones.
func (l *Life) name(i int) string {
	if l.Given != nil {
		return l.Given.Machines[i].Name
	}
	return NodeName(i)
}

func (l *Life) apps() []string {
	if l.Given != nil {
		return l.Given.Apps
	}
	return apps
}

// revisions numbers the given commits as those of a life are: from level 1. An object is of the commit
// that brought it or changed it last.
func (g *Given) revisions() []Revision {
	if g == nil {
		return nil
	}
	type place struct{ mine, theirs reconcile.Commit }
	last := map[types.UID]place{}
	var out []Revision
	for i, objects := range g.Commits {
		r := Revision{Commit: commit(int64(i + 1)), Objects: map[string][]reconcile.Object{}, Machines: g.Machines}
		for _, o := range objects {
			uid := o.Object.GetUID()
			if at, ok := last[uid]; !ok || at.theirs.ID != o.Commit.ID {
				last[uid] = place{r.Commit, o.Commit}
			}
			o.Commit = last[uid].mine
			r.Objects[o.Source.App] = append(r.Objects[o.Source.App], o)
		}
		out = append(out, r)
	}
	return out
}

// quietFor is how long a given flock says nothing new before it counts as settled. It may never be whole:
// some of its slots may fit nowhere.
const quietFor = 45 * time.Second

// quiet reports whether a given flock has settled.
func (w *world) quiet() bool {
	if w.life.Given == nil || len(w.recording.Records) == 0 {
		return false
	}
	last := w.recording.Records[len(w.recording.Records)-1]
	if w.clock.now-max(last.At, w.life.Calm+quietFor) < quietFor { // a node that is lost last is to be missed first
		return false
	}
	for _, n := range w.nodes {
		if n.agent && n.accepted[clusterUnit].Level < w.history.head() {
			return false
		}
		for _, p := range n.pods.sorted() {
			if n.machine && !p.instance.Ready && p.instance.Phase != corev1.PodFailed {
				return false
			}
		}
	}
	return true
}

// Latest are the last documents of the nodes that were not lost for good.
func (r *Recording) Latest() []reconcile.Document {
	last := r.latest()
	var out []reconcile.Document
	for _, name := range sortedKeys(last) {
		d := *last[name]
		d.Instances = slices.Clone(d.Instances)
		out = append(out, d)
	}
	return out
}

// name is a node's, by its index.
func (r *Recording) name(i int) string {
	if r.Names != nil {
		return r.Names[i]
	}
	return NodeName(i)
}

// Trouble draws all kinds of faults for a given flock, from a time on and for so long.
func (g *Given) Trouble(seed uint64, from, length time.Duration) []Event {
	var out []Event
	for _, e := range Generate(seed, len(g.Machines), length).Events {
		switch {
		case e.Kind == Push, e.Kind == Refuse: // no commit follows that would be accepted instead
		case e.For < 0: // who is lost for good is said by name
		default:
			e.At += from
			out = append(out, e)
		}
	}
	return out
}

// Outage is what the loss of a node does to one slot.
type Outage struct {
	Was   reconcile.Instance
	Now   reconcile.Instance // that fills the slot again; zero when none did
	Lasts time.Duration      // from the loss until it was ready
}

// Outages follows the slots that a node ran when it was lost, in the order in which they ran again; those
// that never did come last.
func (r *Recording) Outages(node string, at time.Duration) []Outage {
	var last *reconcile.Document
	for i := range r.Records {
		if x := &r.Records[i]; x.At <= at && x.Writer == node {
			last = &x.Document
		}
	}
	if last == nil {
		return nil
	}
	var out []Outage
	for _, m := range last.Instances {
		if m.Slot.Node != "" || m.Terminating {
			continue // a DaemonSet's slot goes with its node
		}
		o := Outage{Was: m}
		for i := range r.Records {
			x := &r.Records[i]
			if x.Writer == node || x.At <= at {
				continue
			}
			if now, ok := readyIn(x, m.Slot); ok {
				o.Now, o.Lasts = now, x.At-at
				break
			}
		}
		out = append(out, o)
	}
	slices.SortStableFunc(out, func(a, b Outage) int {
		if (a.Now.Name == "") != (b.Now.Name == "") {
			return cmp.Compare(len(b.Now.Name), len(a.Now.Name))
		}
		return cmp.Or(cmp.Compare(a.Lasts, b.Lasts), cmp.Compare(slotName(a.Was), slotName(b.Was)))
	})
	return out
}

func readyIn(x *Record, slot reconcile.Slot) (reconcile.Instance, bool) {
	i := slices.IndexFunc(x.Document.Instances, func(m reconcile.Instance) bool { return m.Slot == slot && m.Ready && !m.Terminating })
	if i < 0 {
		return reconcile.Instance{}, false
	}
	return x.Document.Instances[i], true
}
