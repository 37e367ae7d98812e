package reconcile

import (
	"cmp"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/placement"
)

func (x *index) peer(name string) *peer {
	q := x.peers[name]
	if q == nil {
		q = &peer{name: name}
		x.peers[name] = q
	}
	return q
}

// isGone reports whether what a node says counts for nothing.
func (x *index) isGone(q *peer) bool { return q.node != nil && q.node.Gone && q.name != x.self }

// count lets a document count, or no more.
func (x *index) count(q *peer) {
	d, counts := x.docs[q.name]
	if now := q.doc != nil && !x.isGone(q); now == counts && d == q.doc {
		return
	} else if now {
		x.docs[q.name] = q.doc
	} else {
		delete(x.docs, q.name)
	}
	if counts != (x.docs[q.name] != nil) {
		x.missing = true
		x.move(q)
	}
	for app := range x.newest {
		x.listen(q, app)
	}
	if q.doc != nil {
		for app := range q.doc.Accepted {
			x.listen(q, app)
		}
	}
	for app := range q.newest {
		x.listen(q, app)
	}
}

// listen keeps up the newest commit of an app that any document speaks of, the first node's of several.
func (x *index) listen(q *peer, app string) {
	old, known := x.newest[app]
	next, says := x.says(q, app)
	switch {
	case known && old.node == q.name && (!says || next.Level < old.Level):
		next, says = accepted{}, false
		for name := range x.docs {
			if a, ok := x.says(x.peers[name], app); ok && (!says || cmp.Or(cmp.Compare(a.Level, next.Level), cmp.Compare(next.node, a.node)) > 0) {
				next, says = a, true
			}
		}
	case !says, known && old.node != q.name && cmp.Or(cmp.Compare(next.Level, old.Level), cmp.Compare(old.node, next.node)) <= 0:
		return
	}
	if says == known && next == old {
		return
	}
	if x.newest[app] = next; !says {
		delete(x.newest, app)
	}
	x.markAll(x.wanting)
}

// says is the newest commit of an app of which a node's document speaks: what it has accepted, which of
// this node is known better, or for which its pods were started.
func (x *index) says(q *peer, app string) (accepted, bool) {
	d := x.docs[q.name]
	if d == nil {
		return accepted{}, false
	}
	c, ok := d.Accepted[app]
	if q.name == x.self {
		c, ok = Commit{}, false
	}
	if m, is := q.newest[app]; is && (!ok || m.Level > c.Level) {
		c, ok = m, true
	}
	return accepted{c, q.name}, ok
}

// drop forgets a document.
func (x *index) drop(name string) {
	q := x.peers[name]
	if q == nil || q.doc == nil {
		return
	}
	for _, g := range q.tracked {
		x.replace(g, q, nil)
	}
	x.readReleases(q, nil)
	q.tracked, q.newest = nil, nil
	q.doc, q.last = nil, nil
	if name == x.self {
		clear(x.own)
	}
	x.count(q)
}

// readDocuments finds the documents that changed.
func (x *index) readDocuments(in *Input) {
	for _, name := range in.Without {
		if in.Partial {
			x.drop(name)
		}
	}
	for i := range in.Documents {
		d := &in.Documents[i]
		q := x.peer(d.Node)
		q.given = true
		if q.last.is(d) {
			continue
		}
		x.readDocument(q, d)
		if q.last = nil; !in.Partial || q.name == x.self {
			last := *d
			q.last = &last
		}
	}
	if in.Partial && len(in.Documents) < len(x.peers) {
		for i := range in.Documents {
			x.peers[in.Documents[i].Node].given = false
		}
		return
	}
	for _, q := range x.peers {
		if !q.given && !in.Partial {
			x.drop(q.name)
		}
		q.given = false
	}
}

// is reports whether a document is the very one that was given before. Its number does not tell: what cannot
// be true is struck out of documents by what is known at the time, which makes new lists.
func (d *Document) is(o *Document) bool {
	return d != nil && len(d.Instances) > 0 && d.Seq == o.Seq && d.Boot == o.Boot &&
		sameList(d.Instances, o.Instances) && sameList(d.Releases, o.Releases) && sameList(d.Declines, o.Declines)
}

func sameList[T any](a, b []T) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }

// readDocument finds what changed in a node's document.
func (x *index) readDocument(q *peer, d *Document) {
	self := q.name == x.self
	x.readInstances(q, d, self)
	x.readReleases(q, d.Releases)

	old := q.doc
	if old == nil {
		old = &Document{}
	}
	for _, list := range [][]Decline{old.Declines, d.Declines} {
		if slices.Equal(old.Declines, d.Declines) {
			break
		}
		for _, c := range list {
			if g := x.tracked[c.Slot.Workload]; g != nil {
				x.mark(g)
			}
		}
	}
	kept := *d
	if kept.Accepted = d.Accepted; !maps.Equal(old.Accepted, d.Accepted) {
		for _, g := range q.tracked {
			if g.w == nil {
				continue
			}
			app, level := g.w.object.Source.App, g.w.object.Commit.Level
			if (old.Accepted[app].Level < level) != (d.Accepted[app].Level < level) || x.draining() {
				x.mark(g)
			}
		}
	}
	kept.Instances = nil
	if self {
		kept.Instances = slices.Clone(d.Instances)
		clear(x.own)
		for i := range kept.Instances {
			x.own[kept.Instances[i].UID] = &kept.Instances[i]
		}
	} else {
		if !maps.Equal(x.vector, d.Accepted) {
			x.vector = d.Accepted
		}
		kept.Accepted = x.vector
		kept.Releases = nil
		kept.Capacity, kept.Allocatable, kept.Addresses, kept.Conditions, kept.NodeInfo = nil, nil, nil, nil, corev1.NodeSystemInfo{}
	}
	room, notReady := placement.ResourcesOf(d.Allocatable), slices.ContainsFunc(d.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue
	})
	if q.doc == nil || !room.Equal(q.room) || notReady != q.notReady || q.allocatable != (len(d.Allocatable) > 0) {
		q.room, q.notReady, q.allocatable = room, notReady, len(d.Allocatable) > 0
		q.doc = &kept
		x.move(q)
	}
	q.doc = &kept
	x.count(q)
}

// readInstances puts the pods of a document in the place of those of the last.
func (x *index) readInstances(q *peer, d *Document, self bool) {
	type entry struct {
		g *tracked
		r record
	}
	list := make([]entry, 0, len(d.Instances))
	var newest map[string]Commit
	for i := range d.Instances {
		m := &d.Instances[i]
		if m.Node != q.name {
			continue // nobody speaks for another node
		}
		list = append(list, entry{x.track(m.Slot.Workload), newRecord(q, m)})
		if c, ok := d.Accepted[m.App]; !ok || self || m.Commit.Level > c.Level {
			if old, ok := newest[m.App]; !ok || m.Commit.Level > old.Level {
				if newest == nil {
					newest = map[string]Commit{}
				}
				newest[m.App] = m.Commit
			}
		}
	}
	q.newest = newest
	slices.SortStableFunc(list, func(a, b entry) int { return cmp.Compare(a.g.uid, b.g.uid) })
	before := q.tracked
	now := make([]*tracked, 0, len(before))
	var run []record
	for len(list) > 0 {
		g := list[0].g
		run = run[:0]
		for len(list) > 0 && list[0].g == g {
			run, list = append(run, list[0].r), list[1:]
		}
		x.replace(g, q, run)
		now = append(now, g)
	}
	for _, g := range before {
		if _, still := slices.BinarySearchFunc(now, g, func(a, b *tracked) int { return cmp.Compare(a.uid, b.uid) }); !still {
			x.replace(g, q, nil)
		}
	}
	q.tracked = now
}

// replace puts records of one node in the place of those that a workload had of it.
func (x *index) replace(g *tracked, q *peer, run []record) {
	from, _ := slices.BinarySearchFunc(g.records, q.name, func(r record, name string) int { return cmp.Compare(r.from.name, name) })
	to := from
	for to < len(g.records) && g.records[to].from == q {
		to++
	}
	if slices.Equal(g.records[from:to], run) {
		return
	}
	g.records = slices.Replace(g.records, from, to, run...)
	x.mark(g)
}

// readReleases puts the releases of a document in the place of those of the last.
func (x *index) readReleases(q *peer, next []Release) {
	if slices.Equal(q.releases, next) {
		return
	}
	for _, r := range q.releases {
		g := x.track(r.Slot.Workload)
		g.releases = slices.DeleteFunc(g.releases, func(o released) bool { return o.node == q.name })
		x.mark(g)
	}
	for _, r := range next {
		g := x.track(r.Slot.Workload)
		g.releases = append(g.releases, released{r, q.name})
		x.mark(g)
	}
	q.releases = slices.Clone(next)
}

// instance is what a record says, of this node's own pods all of it.
func (x *index) instance(g *tracked, r *record) Instance {
	m := r.instance(g.uid)
	if r.from.name == x.self {
		if whole := x.own[m.UID]; whole != nil {
			return *whole
		}
	}
	return m
}
