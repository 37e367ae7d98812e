package reconcile

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/placement"
)

// index is what a State keeps of its inputs, so that a pass costs what has changed: the workloads with
// their pods, and what was decided from. All of it but the memory of slots and rollouts follows from the
// inputs, and a new State makes it again.
type index struct {
	self string
	now  time.Time // of the last pass

	given     []Node // as Input had them
	nodes     []Node // sorted by name
	peers     map[string]*peer
	docs      map[string]*Document // those that count, without their pods; this node's is whole
	own       map[types.UID]*Instance
	newest    map[string]accepted // per app, the newest commit that any document speaks of
	unheard   string              // whose document is waited for
	frozen    string              // as last given
	missing   bool                // that is to be looked at again
	vector    map[string]Commit   // the last accepted vector that a document had, to share it
	accepted  map[string]Commit
	answers   map[Ask]Answer
	registry  registry
	givenPods []*corev1.Pod
	pods      map[types.UID]ownPod

	objects    []Object
	namespaces map[string]map[string]string
	tracked    map[types.UID]*tracked
	byUID      map[types.UID]*workload
	order      []*tracked // those with a workload, in its order
	removed    []types.UID

	// Why workloads are decided again, and which.
	dirty     []*tracked
	next      []*tracked        // for the next pass
	timed     map[*tracked]bool // that wait for a time
	wanting   map[*tracked]bool // that lack pods
	listening map[*tracked]bool // that asked whether all documents are there
	fresh     map[*tracked]bool // with claims that may belong to a wave
	daemons   map[*tracked]bool
	kept      map[*tracked]bool // whose memory outlives a restart

	// The last whole decision, unless only news are asked for.
	partial  bool
	statuses []WorkloadStatus
	slots    []SlotDecision

	planner *placement.Planner
	plan    placement.Result
	planned bool // the plan is of what the planner holds
	waves   map[string]int
	moved   map[*peer]bool // nodes that the planner holds otherwise
	left    []string       // nodes that it still holds
	renamed bool           // the labels of namespaces changed
}

// ownPod is a pod of this node and what it asks for.
type ownPod struct {
	pod      *corev1.Pod
	requests placement.Resources
}

// peer is a node with what its document says, its pods aside.
type peer struct {
	name        string
	node        *Node // nil when it is not enrolled
	doc         *Document
	last        *Document           // as it was given; nil when only news are
	given       bool                // while documents are read: one of them
	room        placement.Resources // that it says it has
	allocatable bool                // it says so
	notReady    bool
	tracked     []*tracked // of which it has pods
	releases    []Release
	newest      map[string]Commit // where its pods are newer than what it accepted
}

// tracked is what is known of one workload, wanted or not.
type tracked struct {
	uid      types.UID
	rank     int       // in the order of workloads
	w        *workload // nil when no object wants it
	records  []record  // by node, and in the order of its document
	releases []released
	seats    []seat
	rollout  *RolloutState

	dirty   bool
	decided bool      // in this pass
	wake    time.Time // when it asks to be decided again
	due     time.Time // when it is to be decided again if there is a pass
	wants   []*want   // in the pass
	causes  []cause   // of the wants, for the next
	claimed []cause   // of the claims that may belong to a wave
	planned []string  // keys of its slots in the planner
	held    []placement.Held
	fits    map[*peer]fit // of a DaemonSet
	// What was said last, unless only news are asked for.
	status *WorkloadStatus
	slots  []SlotDecision
}

func newIndex(self string, m Memory) *index {
	x := &index{
		self: self, peers: map[string]*peer{}, docs: map[string]*Document{}, own: map[types.UID]*Instance{}, newest: map[string]accepted{},
		pods: map[types.UID]ownPod{}, tracked: map[types.UID]*tracked{}, byUID: map[types.UID]*workload{},
		timed: map[*tracked]bool{}, wanting: map[*tracked]bool{}, listening: map[*tracked]bool{}, answers: map[Ask]Answer{},
		fresh: map[*tracked]bool{}, daemons: map[*tracked]bool{}, kept: map[*tracked]bool{}, moved: map[*peer]bool{},
	}
	for key, s := range m.Slots {
		uid, end, _ := strings.Cut(key, "/")
		g := x.track(types.UID(uid))
		g.seat(slotOf(g.uid, end)).set(s)
		x.mark(g)
	}
	for uid, r := range m.Workloads {
		g := x.track(uid)
		g.rollout = &r
		x.mark(g)
	}
	return x
}

func (x *index) track(uid types.UID) *tracked {
	g := x.tracked[uid]
	if g == nil {
		g = &tracked{uid: types.UID(strings.Clone(string(uid))), rank: -1}
		x.tracked[g.uid] = g
	}
	return g
}

// mark asks for a new decision.
func (x *index) mark(g *tracked) {
	if !g.dirty {
		g.dirty = true
		x.dirty = append(x.dirty, g)
	}
}

func (x *index) markAll(set map[*tracked]bool) {
	for g := range set {
		x.mark(g)
	}
}

// read takes over what is new in an input, and marks what it touches.
func (x *index) read(in *Input) {
	if in.Now.Before(x.now) || x.partial && !in.Partial { // somebody has set the clock back, or asks for all
		for _, g := range x.tracked {
			x.mark(g)
		}
	}
	x.now, x.partial = in.Now, in.Partial
	x.readObjects(in.Objects)
	x.readNodes(in.Nodes)
	if in.Frozen != x.frozen {
		x.frozen = in.Frozen
		x.markAll(x.wanting)
	}
	x.readDocuments(in)
	x.readPods(in.Pods)
	x.readAccepted(in.Accepted)
	x.readAnswers(in.Answers)
	x.readRegistry(in)
	if x.missing {
		x.missing = false
		if u := x.unheardNow(); u != x.unheard {
			x.unheard = u
			x.markAll(x.listening)
			x.markAll(x.wanting)
		}
	}
	for g := range x.timed {
		if !g.wake.IsZero() && !x.now.Before(g.wake) || !g.due.IsZero() && !x.now.Before(g.due) {
			x.mark(g)
		}
	}
}

// readObjects parses the workloads that changed.
func (x *index) readObjects(objects []Object) {
	if len(objects) == len(x.objects) && (len(objects) == 0 || &objects[0] == &x.objects[0] || slices.EqualFunc(objects, x.objects, Object.same)) {
		return
	}
	x.objects = objects
	seen := make(map[*tracked]bool, len(objects))
	order := make([]*tracked, 0, len(objects))
	namespaces := map[string]map[string]string{}
	for _, o := range objects {
		if n, ok := o.Object.(*corev1.Namespace); ok {
			namespaces[n.Name] = with(n.Labels, corev1.LabelMetadataName, n.Name)
		}
		if len(o.Templates) == 0 {
			continue
		}
		if old := x.byUID[o.Object.GetUID()]; old != nil && old.object.same(o) {
			seen[old.at] = true
			order = append(order, old.at)
			continue
		}
		w := newWorkload(o)
		if w == nil {
			continue
		}
		w.at = x.track(w.uid)
		w.at.w, w.at.fits, x.byUID[w.uid] = w, nil, w
		if w.kind == kindDaemonSet {
			x.daemons[w.at] = true
		}
		seen[w.at] = true
		order = append(order, w.at)
		x.mark(w.at)
	}
	for _, g := range x.order {
		if !seen[g] {
			g.w, g.rank = nil, -1
			delete(x.byUID, g.uid)
			delete(x.daemons, g)
			x.removed = append(x.removed, g.uid)
			x.mark(g)
		}
	}
	slices.SortFunc(order, func(a, b *tracked) int { return a.w.compare(b.w) })
	x.order = order
	for i, g := range order {
		g.rank = i
	}
	if !maps.EqualFunc(namespaces, x.namespaces, maps.Equal) || x.namespaces == nil {
		x.namespaces, x.renamed = namespaces, true
	}
}

// readNodes finds the nodes that changed.
func (x *index) readNodes(nodes []Node) {
	if slices.Equal(nodes, x.given) {
		return
	}
	x.missing = true
	if slices.EqualFunc(nodes, x.given, func(a, b Node) bool { return a.Node.Name == b.Node.Name }) {
		for i, n := range nodes {
			if n != x.given[i] {
				q := x.peers[n.Node.Name]
				before := *q.node
				x.given[i], *q.node = n, n
				x.nodeChanged(q, &before)
			}
		}
		return
	}
	x.given = slices.Clone(nodes)
	old := x.nodes
	x.nodes = slices.SortedFunc(slices.Values(nodes), func(a, b Node) int { return cmp.Compare(a.Node.Name, b.Node.Name) })
	seen := make(map[*peer]bool, len(nodes))
	for i := range x.nodes {
		n := &x.nodes[i]
		q := x.peer(n.Node.Name)
		seen[q] = true
		before := q.node
		q.node = n
		x.nodeChanged(q, before)
	}
	for _, n := range old {
		if q := x.peers[n.Node.Name]; !seen[q] {
			q.node = nil
			x.left = append(x.left, q.name)
			delete(x.moved, q)
			x.refit(q)
			x.markAll(asSet(q.tracked))
			x.markAll(x.wanting)
			x.count(q)
		}
	}
}

// nodeChanged marks what depends on a node, unless it is as before.
func (x *index) nodeChanged(q *peer, before *Node) {
	if before != nil && before.Node == q.node.Node && before.Gone == q.node.Gone {
		return
	}
	x.move(q)
	x.markAll(asSet(q.tracked)) // a taint may drive them away
	x.markAll(x.wanting)        // for the loss of a node, or that of its cordon
	x.count(q)
}

func asSet(list []*tracked) map[*tracked]bool {
	set := make(map[*tracked]bool, len(list))
	for _, g := range list {
		set[g] = true
	}
	return set
}

// move lets the planner and the DaemonSets look at a node again.
func (x *index) move(q *peer) {
	if q.node != nil { // else it has a document, and no place in the plan
		x.moved[q] = true
		x.left = slices.DeleteFunc(x.left, func(name string) bool { return name == q.name })
	}
	x.refit(q)
}

// refit decides again which DaemonSets have a slot on a node.
func (x *index) refit(q *peer) {
	for g := range x.daemons {
		old, known := g.fits[q]
		if !known || q.node == nil || x.fit(g.w, q) != old {
			delete(g.fits, q)
			x.mark(g)
		}
	}
}

// readPods tells apart what the pods of this node ask for.
func (x *index) readPods(pods []*corev1.Pod) {
	if slices.Equal(pods, x.givenPods) {
		return
	}
	x.givenPods = slices.Clone(pods)
	old := x.pods
	x.pods = make(map[types.UID]ownPod, len(pods))
	for _, pod := range pods {
		if o := old[pod.UID]; o.pod == pod {
			x.pods[pod.UID] = o
		} else {
			x.pods[pod.UID] = ownPod{pod, placement.RequestsOf(&pod.Spec)}
		}
	}
	for uid, m := range x.own {
		a, b := old[uid], x.pods[uid]
		if a.pod != b.pod && (a.pod == nil || b.pod == nil || !a.requests.Equal(b.requests)) {
			x.mark(x.track(m.Slot.Workload))
		}
	}
}

// readAccepted marks the workloads that look at commits between the old accepted one of an app and the
// new, and those that may lack pods for want of it.
func (x *index) readAccepted(next map[string]Commit) {
	old := x.accepted
	if maps.Equal(old, next) {
		return
	}
	x.accepted = maps.Clone(next)
	x.markAll(x.wanting)
	for _, g := range x.tracked {
		if x.looks(g, old, next) {
			x.mark(g)
		}
	}
}

func (x *index) looks(g *tracked, old, next map[string]Commit) bool {
	between := func(app string, level int64) bool {
		a, was := old[app]
		b, is := next[app]
		return was != is || (a.Level < level) != (b.Level < level)
	}
	if g.w == nil || x.draining() {
		return true // it may be forgotten, or moved
	}
	if g.w.object.Commit.Level > 0 && between(g.w.object.Source.App, g.w.object.Commit.Level) {
		return true
	}
	return slices.ContainsFunc(g.records, func(r record) bool {
		c := r.common.Value()
		return between(c.app, c.commit.Level)
	})
}

// unheardNow says whose document has not arrived yet. A node that has just started does not know what
// the others run, and not even on which of them a DaemonSet has slots.
func (x *index) unheardNow() string {
	for i := range x.nodes {
		n := &x.nodes[i]
		if name := n.Node.Name; n.Stable && !n.Gone && name != x.self && x.docs[name] == nil {
			return "waits for the document of node " + name
		}
	}
	return ""
}
