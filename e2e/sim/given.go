package sim

import (
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
		r := Revision{Commit: commit(int64(i + 1)), Objects: map[string][]reconcile.Object{}}
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
	if w.clock.now-last.At < quietFor {
		return false
	}
	for _, n := range w.nodes {
		if n.agent && n.accepted[clusterUnit].Level < w.history.head() {
			return false
		}
		for _, p := range n.pods.sorted() {
			if n.machine && !p.instance.Ready {
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
