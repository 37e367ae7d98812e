package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/reconcile"
)

// Violation is a rule that was broken.
type Violation struct {
	At   time.Duration
	Rule string // the same words for the same rule
	Node string // whose document shows it; "" for all
	Slot string // "web[2]", "logs@n1"
	Text string
}

func (v *Violation) Error() string {
	where := v.Slot
	if v.Node != "" {
		where = strings.TrimSpace(where + " on " + v.Node)
	}
	return fmt.Sprintf("%s: %s: %s (at %s)", v.Rule, where, v.Text, clockTime(v.At))
}

const (
	// heardWithin is how long documents take to be everywhere while the network is sound.
	heardWithin = 15 * time.Second
	// healedWithin is how long nodes take to count each other again after they were cut off.
	healedWithin = 30 * time.Second
	// answeredWithin is how old evidence may be on which a duplicate is stopped.
	answeredWithin = 5 * time.Second
	// lostFor is how long after a node was lost, or is back, its slots are filled in its name.
	lostFor = 2 * time.Minute
)

// judge reads a recording in the order of time.
type judge struct {
	r        *Recording
	now      time.Duration
	fault    int                            // of the recording's, the next
	docs     map[string]*reconcile.Document // of nodes that are on
	before   map[string]*reconcile.Document // the last of every node
	off      map[string]time.Duration       // when nodes that are off were switched off
	releases map[releaseKey][]release       // who asked for the end of a pod, in the order of time
	seen     map[types.UID]reconcile.Instance
	left     map[types.UID]bool
	ready    map[types.UID]time.Duration // when a pod was last seen ready
	since    map[types.UID]time.Duration // when a pod became ready
	rolling  map[reconcile.Slot]string   // slots emptied for a commit, and by which node
	removed  map[types.UID]int64         // the level at which a workload went
	changed  map[types.UID]bool          // workloads of which the last document empties a slot or starts a pod
	emptied  map[types.UID]bool          // of them, those of which it empties a slot
	begun    []reconcile.Instance        // pods that the last document names first
	moved    map[types.UID]time.Duration // when a pod of a workload last left a drained node
	gaps     map[string][]gap            // by node
	lost     map[string][]gap            // by node, when it may be held for gone
	names    []string                    // of all nodes that ever wrote, sorted
	newest   *Committed                  // that any document has accepted
}

type releaseKey struct {
	node  string
	slot  reconcile.Slot
	epoch int64
	// A node that lost its memory may give a slot an epoch that it had before.
	revision string
}

type release struct {
	at   time.Duration // of the first document that names it
	said time.Time
	by   string
}

// releasedBy says who asked for the end of a pod that was ending at t.
func (j *judge) releasedBy(m reconcile.Instance, t time.Duration) (by string, ok bool) {
	for _, x := range j.releases[releaseKey{m.Node, m.Slot, m.Epoch, m.Revision}] {
		if x.at >= t {
			return x.by, true
		}
	}
	return "", false
}

func newJudge(r *Recording) *judge {
	j := &judge{
		r: r, docs: map[string]*reconcile.Document{}, before: map[string]*reconcile.Document{}, releases: map[releaseKey][]release{},
		seen: map[types.UID]reconcile.Instance{}, left: map[types.UID]bool{}, ready: map[types.UID]time.Duration{}, since: map[types.UID]time.Duration{},
		rolling: map[reconcile.Slot]string{}, off: map[string]time.Duration{}, removed: map[types.UID]int64{},
		moved: map[types.UID]time.Duration{},
	}
	for i := range r.Records {
		for _, x := range r.Records[i].Document.Releases {
			key := releaseKey{r.Records[i].Document.Node, x.Slot, x.Epoch, x.Revision}
			if old := j.releases[key]; len(old) == 0 || !old[len(old)-1].said.Equal(x.At) {
				j.releases[key] = append(old, release{r.Records[i].At, x.At, x.By})
			}
		}
	}
	names := map[string]bool{}
	for i := range r.Records {
		names[r.Records[i].Document.Node] = true
	}
	j.names = sortedKeys(names)
	j.gaps, j.lost = r.gaps(), j.unheard()
	present := map[types.UID]bool{}
	for i := range r.History {
		now := map[types.UID]bool{}
		for _, w := range r.History[i].Workloads {
			now[w.UID] = true
		}
		for uid := range present {
			if !now[uid] && j.removed[uid] == 0 {
				j.removed[uid] = r.History[i].Level
			}
		}
		present = now
	}
	return j
}

// Check returns the first violation of a recording, or nil.
func Check(r *Recording) *Violation {
	j := newJudge(r)
	for i := range r.Records {
		x := &r.Records[i]
		j.advance(x.At)
		j.changed, j.emptied = map[types.UID]bool{}, map[types.UID]bool{}
		for _, rule := range []func(*Record) *Violation{j.numbers, j.identities, j.starts, j.stops} {
			if v := rule(x); v != nil {
				return v
			}
		}
		j.put(x)
		if j.doubt(x) {
			continue
		}
		if v := j.bounds(x); v != nil {
			return v
		}
	}
	if !r.Quiet {
		return nil
	}
	return r.whole()
}

// advance takes the documents away of nodes that are switched off until t.
func (j *judge) advance(t time.Duration) {
	j.now = t
	for ; j.fault < len(j.r.Faults) && j.r.Faults[j.fault].At <= t; j.fault++ {
		f := j.r.Faults[j.fault]
		if !f.Kind.off() && f.Kind != Replaced {
			continue
		}
		name := j.r.name(f.Node)
		if f.Kind.off() {
			delete(j.docs, name)
			j.off[name] = f.At
			for slot, node := range j.rolling {
				if node == name {
					delete(j.rolling, slot)
				}
			}
		}
		if old := j.before[name]; f.Kind != PowerOff && old != nil {
			for _, m := range old.Instances {
				j.left[m.UID] = true
			}
			delete(j.before, name) // what comes does not go on from what was
		}
	}
}

// put takes a document in.
func (j *judge) put(x *Record) {
	d := &x.Document
	if old := j.before[d.Node]; old != nil {
		for _, m := range old.Instances {
			if !has(d, m.UID) {
				j.left[m.UID] = true
			}
			if m.Ready {
				j.ready[m.UID] = x.At
			}
		}
	}
	for _, m := range d.Instances {
		last := j.seen[m.UID]
		j.seen[m.UID] = m
		if !m.Ready {
			delete(j.since, m.UID)
			continue
		}
		// Its readiness may have come and gone while the agent was down.
		if _, ok := j.since[m.UID]; !ok || !last.ReadySince.Equal(m.ReadySince) {
			j.since[m.UID] = x.At
		}
		j.ready[m.UID] = x.At
		delete(j.rolling, m.Slot)
	}
	j.docs[d.Node], j.before[d.Node] = d, d
	if level := d.Accepted[clusterUnit].Level; j.newest == nil || level > j.newest.Level {
		if c := j.commitOf(d); c != nil {
			j.newest = c
		}
	}
	delete(j.off, d.Node)
}

func (j *judge) fail(x *Record, m reconcile.Instance, rule, format string, args ...any) *Violation {
	v := &Violation{At: x.At, Rule: rule, Node: x.Writer, Text: fmt.Sprintf(format, args...)}
	if m.Owner != "" {
		v.Slot = slotName(m)
	}
	return v
}

// numbers: a document is its writer's, and numbered one after the other.
func (j *judge) numbers(x *Record) *Violation {
	const rule = "numbered by its writer"
	d, old := &x.Document, j.before[x.Document.Node]
	switch {
	case d.Node != x.Writer:
		return j.fail(x, reconcile.Instance{}, rule, "wrote a document of %s", d.Node)
	case old == nil || d.Boot > old.Boot:
		if d.Seq != 1 && !j.r.Partial {
			return j.fail(x, reconcile.Instance{}, rule, "boot %d begins with document %d", d.Boot, d.Seq)
		}
	case d.Boot < old.Boot || d.Seq <= old.Seq || d.Seq != old.Seq+1 && !j.r.Partial:
		return j.fail(x, reconcile.Instance{}, rule, "document %d/%d follows %d/%d", d.Boot, d.Seq, old.Boot, old.Seq)
	}
	return nil
}

// identities: what a claim fixed never changes, and who left does not come back.
func (j *judge) identities(x *Record) *Violation {
	const rule = "fixed by the claim"
	slots := map[string]types.UID{}
	for _, m := range x.Document.Instances {
		name, uid := m.PodID()
		old, known := j.seen[m.UID]
		switch {
		case m.Node != x.Writer:
			return j.fail(x, m, rule, "%s is a pod of %s", m.Name, m.Node)
		case name != m.Name || uid != m.UID:
			return j.fail(x, m, rule, "%s has another name or uid than its claim gives", m.Name)
		case j.left[m.UID]:
			return j.fail(x, m, rule, "%s had ended and is there again", m.Name)
		case known && fixed(old) != fixed(m):
			return j.fail(x, m, rule, "%s was %s and is %s", m.Name, fixed(old), fixed(m))
		}
		if other, ok := slots[fmt.Sprint(m.Slot, m.Revision)]; ok && live(m) && live(j.seen[other]) {
			return j.fail(x, m, "once on a node", "%s has the slot and revision of another pod of its node", m.Name)
		}
		if live(m) {
			slots[fmt.Sprint(m.Slot, m.Revision)] = m.UID
		}
	}
	return nil
}

func fixed(m reconcile.Instance) string {
	return fmt.Sprint(m.Slot, m.Revision, m.Epoch, m.Node, m.Boot, m.Claimed.UnixMicro(), m.Cause, m.Commit.ID, m.App)
}

// news lists the pods that a document names and none before did.
func (j *judge) news(x *Record) (out []reconcile.Instance) {
	for _, m := range x.Document.Instances {
		if _, ok := j.seen[m.UID]; !ok {
			out = append(out, m)
		}
	}
	return out
}

// starts: nothing is moved but from a node that was lost, and nothing removed comes back.
func (j *judge) starts(x *Record) *Violation {
	j.begun = j.news(x)
	for _, m := range j.begun {
		j.changed[m.Slot.Workload] = true
		if slices.ContainsFunc(j.inSlot(m.Slot), func(o reconcile.Instance) bool {
			return o.UID != m.UID && live(o) && j.drainedBy(m.Cause, o.Node)
		}) {
			j.moved[m.Slot.Workload] = x.At
		}
		if lost, _, ok := strings.Cut(m.Cause, "/"); ok && !j.wasAway(lost, x.At) {
			return j.fail(x, m, "nothing moves without a loss", "%s starts for the loss of %s, which was there", m.Name, lost)
		}
		if level := j.removed[m.Slot.Workload]; level > 0 && j.knew(x, m.App, level) {
			return j.fail(x, m, "what was removed stays away", "%s starts, and %s removed its workload", m.Name, j.remover(level))
		}
		if c := j.commitOf(&x.Document); c != nil && x.Document.Seq > 2 && !c.admits(m) {
			return j.fail(x, m, "nothing starts out of service", "%s starts, and %s takes %s out of service", m.Name, short(c.ID), m.Node)
		}
		if j.r.Whole > 0 && x.At > j.r.Whole {
			return j.fail(x, m, "still when whole", "%s starts", m.Name)
		}
	}
	return nil
}

// knew reports whether a node had the means to know that an app was accepted at a level.
func (j *judge) knew(x *Record, app string, level int64) bool {
	if x.Document.Seq <= 2 {
		return false // claimed by the boot before, which was cut short
	}
	for i := range j.r.Records {
		o := &j.r.Records[i]
		if o.At >= x.At {
			return false
		}
		if o.Document.Accepted[app].Level < level {
			continue
		}
		own := o.Writer == x.Writer && !j.during(o.At, x.At, 0, Kind.forgets)
		if own || x.At-o.At > heardWithin && !j.during(o.At, x.At, heardWithin, Kind.hides) {
			return true
		}
	}
	return false
}

// stops: a ready pod ends for a reason that the documents and the history bear out.
func (j *judge) stops(x *Record) *Violation {
	old := j.before[x.Document.Node]
	if old == nil {
		return nil
	}
	for _, m := range old.Instances {
		i := slices.IndexFunc(x.Document.Instances, func(o reconcile.Instance) bool { return o.UID == m.UID })
		if m.Terminating || i >= 0 && !x.Document.Instances[i].Terminating {
			continue
		}
		by, ok := j.releasedBy(m, x.At)
		switch {
		case !ok && i < 0 && !j.forgot(x.Writer):
			return j.fail(x, m, "stopped for a reason", "%s is gone and nothing says who ended it", m.Name)
		case !ok || !m.Ready:
			continue
		}
		if v := j.reason(x, m, by); v != nil {
			return v
		}
		if j.r.Whole > 0 && x.At > j.r.Whole {
			return j.fail(x, m, "still when whole", "%s ends", m.Name)
		}
	}
	return nil
}

// reason judges why a ready pod was stopped.
func (j *judge) reason(x *Record, m reconcile.Instance, by string) *Violation {
	const rule = "stopped for a reason"
	switch by {
	case reconcile.ByEnded:
		// It failed after the document in which it was ready.
		return nil
	case reconcile.ByDrain, reconcile.ByEviction:
		switch c := j.commitOf(&x.Document); {
		case c == nil || x.Document.Seq == 1: // decided in a boot that was cut short
		case c.keeps(m):
			return j.fail(x, m, rule, "%s was stopped by %s, and %s keeps pods on its node", m.Name, by, short(c.ID))
		case by == reconcile.ByEviction && slices.Contains(c.Drained, m.Node) && !slices.Contains(c.Tainted, m.Node):
			return j.fail(x, m, rule, "%s was evicted, and its node is only drained", m.Name)
		case by == reconcile.ByDrain:
			j.moved[m.Slot.Workload] = x.At
			j.empties(m, j.known(m.Slot.Workload), x.At)
		}
		return nil
	case reconcile.ByDuplicate:
		if x.Document.Seq == 1 || j.missing(x.At) {
			return nil // decided in a boot that was cut short, by what was known then; or by what is missing
		}
		// Pods of one revision are duplicates, and those of earlier revisions together. What is not available
		// yet may withdraw in favour of any of them that is ready.
		group := func(o reconcile.Instance) bool {
			wanted := j.revisionAt(x.Document.Accepted[m.App], m.Slot.Workload)
			return o.Revision == m.Revision || o.Revision != wanted && m.Revision != wanted
		}
		w := j.known(m.Slot.Workload)
		young := w != nil && x.At-j.since[m.UID] < time.Duration(w.MinReadySeconds+1)*time.Second
		for _, name := range sortedKeys(j.before) {
			off, isOff := j.off[name]
			for _, o := range j.before[name].Instances {
				at, was := j.ready[o.UID]
				switch {
				case o.Slot != m.Slot || o.UID == m.UID || !was || !group(o) || !senior(o, m) && !young:
				case isOff && x.At-off > answeredWithin:
				case o.Ready || x.At-at <= answeredWithin:
					return nil
				}
			}
		}
		return j.fail(x, m, rule, "%s was stopped as a duplicate, and no pod with an earlier right was ready", m.Name)
	}
	if c := j.commitOf(&x.Document); c != nil && m.Slot.Node != "" && slices.Contains(c.Tainted, m.Node) {
		return nil // a DaemonSet has no slot there any more
	}
	at := slices.IndexFunc(j.r.History, func(v Committed) bool { return v.ID == by })
	if at < 0 {
		return j.fail(x, m, rule, "%s was ready and was stopped by %q", m.Name, by)
	}
	v := &j.r.History[at]
	switch {
	case v.Level < m.Commit.Level:
		return j.fail(x, m, rule, "%s was started for %s and stopped for the older %s", m.Name, short(m.Commit.ID), short(by))
	case !v.wants(m.Slot):
		return nil
	case v.workload(m.Slot.Workload).Kind == "ReplicaSet" && j.missing(x.At):
		return nil
	case v.workload(m.Slot.Workload).Kind == "ReplicaSet" && slices.ContainsFunc(j.inSlot(m.Slot), func(o reconcile.Instance) bool {
		at, was := j.ready[o.UID]
		return o.UID != m.UID && o.Revision != m.Revision && was && (o.Ready || x.At-at <= answeredWithin)
	}):
		return nil // a second pod, which was started while the first could not be seen
	case v.workload(m.Slot.Workload).Revision == m.Revision || v.workload(m.Slot.Workload).Kind == "ReplicaSet": // no commit ends its pods
		return j.fail(x, m, rule, "%s was ready and stopped for %s, which wants it", m.Name, short(by))
	}
	j.empties(m, v.workload(m.Slot.Workload), x.At)
	return nil
}

// empties takes note of a slot that is emptied on purpose, if it is.
func (j *judge) empties(m reconcile.Instance, w *Wanted, t time.Duration) {
	if w == nil || !w.Rolling || t-j.since[m.UID] < time.Duration(w.MinReadySeconds+1)*time.Second {
		return // it was not available yet
	}
	for _, o := range j.inSlot(m.Slot) {
		if _, was := j.ready[o.UID]; was && live(o) && o.UID != m.UID {
			return
		}
	}
	j.rolling[m.Slot] = m.Node
	j.changed[m.Slot.Workload], j.emptied[m.Slot.Workload] = true, true
}

// inSlot lists the pods of a slot by the documents of nodes that are on.
func (j *judge) inSlot(slot reconcile.Slot) (out []reconcile.Instance) {
	for _, name := range sortedKeys(j.docs) {
		for _, m := range j.docs[name].Instances {
			if m.Slot == slot {
				out = append(out, m)
			}
		}
	}
	return out
}

// senior reports whether a has the earlier right to the slot of both.
func senior(a, b reconcile.Instance) bool {
	switch {
	case a.Epoch != b.Epoch:
		return a.Epoch > b.Epoch
	case !a.Claimed.Equal(b.Claimed):
		return a.Claimed.Before(b.Claimed)
	}
	return a.Node < b.Node
}

func has(d *reconcile.Document, uid types.UID) bool {
	return slices.ContainsFunc(d.Instances, func(m reconcile.Instance) bool { return m.UID == uid })
}
