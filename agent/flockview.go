package agent

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/agent/wake"
	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gossip"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/reconcile/gate"
	"github.com/pleachdev/pleach/state"
)

// others is what the decider asks of the flock; *flock is one.
type others interface {
	// look returns what is known of the other nodes.
	look(accepted *gitsync.Accepted, now time.Time) outlook
	// publish hands out this node's document; direct names nodes that get it straight.
	publish(ctx context.Context, d gossip.Sealed, direct []string)
	// changed has an element when look may return something else.
	changed() <-chan struct{}
	// ask puts questions to other nodes; each has an element of answers in the end.
	ask(ctx context.Context, questions []reconcile.Ask)
	answers() <-chan []reconcile.Answer
	// questions are other nodes', to be answered.
	questions() <-chan asked
	// leave hands out the last document of an agent that ends. backBy is what it is to say, zero for nothing.
	leave(last gossip.Sealed)
	backBy(now time.Time) time.Time
	// bootCounter is the number of this node's life.
	bootCounter() int64
}

// outlook is what is known of the other nodes at one moment.
type outlook struct {
	documents []*reconcile.Document // that count, without this node's own and without what cannot be true
	sealed    []gossip.Sealed       // the same as their nodes signed them
	states    map[string]gate.View
	contested bool   // another machine has this node's key: nothing may be claimed
	frozen    string // why nothing is moved; see reconcile.Input
}

// heard is a document of another node as it was read.
type heard struct {
	sealed gossip.Sealed
	backBy time.Time           // as it says
	fresh  *reconcile.Document // the whole, until it is judged
	// struck is the document without what cannot be true by one accepted state.
	struck   *reconcile.Document
	accepted *gitsync.Accepted
	judged   time.Time
}

// judgeAgain is the time after which entries of a document may be too old to count.
const judgeAgain = time.Minute

// show makes what drive found out visible to the others; drive calls it after each step.
func (f *flock) show(now time.Time) {
	if !f.stale {
		return
	}
	f.stale, f.shown = false, now
	states := make(map[string]gate.View, len(f.enrolled))
	for _, n := range f.enrolled {
		states[n] = f.watch.View(n, now)
	}
	v := view{
		documents: f.spread.Documents(), enrolled: f.enrolled, states: states, members: 1 + f.alive, contested: f.spread.Contested(),
		frozen: f.watch.Frozen(now),
	}
	f.mu.Lock()
	f.fresh = f.fresh || v.frozen != f.view.frozen
	f.view = v
	f.mu.Unlock()
	f.store.SetMembers(f.standings(v))
	if f.fresh {
		f.fresh = false
		wake.Poke(f.news)
	}
}

// seen returns what drive has last found out.
func (f *flock) seen() view {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.view
}

func (f *flock) changed() <-chan struct{} { return f.news }

func (f *flock) bootCounter() int64 { return f.number.Load() }

func (f *flock) publish(ctx context.Context, d gossip.Sealed, direct []string) {
	f.tell(ctx, gossip.Publish{Document: d, Direct: direct})
}

// look reads what is new of the others' documents, strikes out what cannot be true, and shows the rest
// to the readers of the store.
func (f *flock) look(accepted *gitsync.Accepted, now time.Time) outlook {
	v := f.seen()
	out := outlook{states: v.states, contested: v.contested, frozen: v.frozen}
	specs := &specs{accepted: accepted}
	kept := map[string]bool{}
	for _, sealed := range v.documents {
		if sealed.Node == f.Node {
			continue
		}
		kept[sealed.Node] = true
		if h := f.read(sealed); h != nil {
			f.judge(h, specs, now)
			out.documents, out.sealed = append(out.documents, h.struck), append(out.sealed, sealed)
		}
	}
	for node := range f.decoded {
		if !kept[node] {
			delete(f.decoded, node)
			f.store.DeleteDocument(node)
		}
	}
	return out
}

// read decodes a document once.
func (f *flock) read(sealed gossip.Sealed) *heard {
	before := f.decoded[sealed.Node]
	if before != nil && before.sealed.Version == sealed.Version {
		return before
	}
	d, err := sealed.Document()
	if err != nil {
		// Its node signed it, and the one before does not hold any more either.
		f.Log.Warn("the document of a node makes no sense; it counts as absent", "node", sealed.Node, "err", err)
		delete(f.decoded, sealed.Node)
		return nil
	}
	if before == nil && !d.BackBy.IsZero() || before != nil && !before.backBy.Equal(d.BackBy) {
		f.tell(f.outbox.ctx, gate.Planned{Node: sealed.Node, BackBy: d.BackBy})
	}
	h := &heard{sealed: sealed, backBy: d.BackBy, fresh: &d}
	f.decoded[sealed.Node] = h
	return h
}

// judge strikes out what cannot be true.
func (f *flock) judge(h *heard, s *specs, now time.Time) {
	if h.struck != nil && h.accepted == s.accepted && now.Sub(h.judged) < judgeAgain {
		return
	}
	if h.fresh == nil { // the whole is not kept in memory
		d, err := h.sealed.Document()
		if err != nil {
			return // never: it was read before
		}
		h.fresh = &d
	}
	d, why := *h.fresh, []string(nil)
	h.fresh = nil
	if n := enrolledNode(s.accepted, d.Node); n != nil {
		truth := gossip.Truth{Node: n, Level: s.accepted.ClusterCommit.Level, Hosts: f.hosts(d.Node), Spec: s.of, Now: now}
		d, why = truth.Strike(d)
	}
	if len(why) > 0 && (h.struck == nil || h.accepted != s.accepted) {
		f.Log.Warn("a node says what cannot be true; that much of its document does not count", "node", d.Node, "struck", len(why), "first", why[0])
		f.happened("DocumentStruck", "node "+d.Node+" says what cannot be true: "+strings.Join(why[:min(3, len(why))], "; "))
	}
	h.accepted, h.judged = s.accepted, now
	if h.struck != nil && sameEntries(h.struck, &d) {
		return // nothing new for anybody
	}
	h.struck = &d
	f.store.SetDocument(&d)
}

// sameEntries reports whether the same was struck of one document both times.
func sameEntries(a, b *reconcile.Document) bool {
	amounts := func(a, b corev1.ResourceList) bool {
		return maps.EqualFunc(a, b, func(x, y resource.Quantity) bool { return x.Cmp(y) == 0 })
	}
	return slices.Equal(a.Instances, b.Instances) && slices.Equal(a.Releases, b.Releases) && slices.Equal(a.Declines, b.Declines) &&
		amounts(a.Capacity, b.Capacity) && amounts(a.Allocatable, b.Allocatable)
}

// hosts returns the addresses at which a node itself is reached.
func (f *flock) hosts(node string) []netip.Addr {
	var out []netip.Addr
	for _, at := range f.book.Addresses(node) {
		if a, err := netip.ParseAddrPort(at); err == nil {
			out = append(out, a.Addr())
		}
	}
	return out
}

func enrolledNode(a *gitsync.Accepted, name string) *corev1.Node {
	i, ok := slices.BinarySearchFunc(a.Nodes, name, func(n *corev1.Node, name string) int { return strings.Compare(n.Name, name) })
	if !ok {
		return nil
	}
	return a.Nodes[i]
}

// specs finds the pod specs of instances in what is accepted. It looks at the objects when it is first
// asked.
type specs struct {
	accepted *gitsync.Accepted
	byUID    map[types.UID][]reconcile.Template
}

func (s *specs) of(m reconcile.Instance) *corev1.PodSpec {
	if s.byUID == nil {
		s.byUID = map[types.UID][]reconcile.Template{}
		for _, app := range s.accepted.Apps {
			for _, o := range app.Objects {
				if len(o.Templates) > 0 {
					s.byUID[o.Object.GetUID()] = o.Templates
				}
			}
		}
	}
	for i, t := range s.byUID[m.Slot.Workload] {
		if t.Revision == m.Revision {
			return &s.byUID[m.Slot.Workload][i].Spec.Spec
		}
	}
	return nil
}

// standings says how each other node is held, for people.
func (f *flock) standings(v view) []state.Member {
	var out []state.Member
	for _, node := range v.enrolled {
		if node == f.Node {
			continue
		}
		s := v.states[node]
		m := state.Member{Node: node, Standing: state.Alive, Since: s.Since, Heard: f.heardAt[node]}
		switch {
		case s.Gone:
			m.Standing, m.Reason = state.Gone, "its slots are given to other nodes"
		case s.Failed && s.BackBy.After(time.Now()):
			m.Standing, m.Reason = state.Failed, "its agent was asked to end, and means to be back by "+s.BackBy.UTC().Format(time.RFC3339)
		case s.Failed && s.Answer == gate.Refused:
			m.Standing, m.Reason = state.Failed, "its host answers and its agent does not"
		case s.Failed:
			m.Standing, m.Reason = state.Failed, "membership has lost it"
		}
		out = append(out, m)
	}
	return out
}

// nodesOf joins the accepted nodes with what is believed of them.
func nodesOf(a *gitsync.Accepted, self string, states map[string]gate.View) []reconcile.Node {
	out := make([]reconcile.Node, 0, len(a.Nodes))
	for _, n := range a.Nodes {
		v, known := states[n.Name]
		if n.Name == self {
			out = append(out, reconcile.Node{Node: n, Stable: true})
			continue
		}
		// One that was enrolled this very moment is waited for until the gate has heard of it.
		out = append(out, reconcile.Node{Node: n, Gone: v.Gone, Failed: v.Failed, Stable: v.Stable || !known})
	}
	return out
}

// directTo returns who is to hear of claims at once: the candidates of the slots that were claimed.
func directTo(slots []reconcile.SlotDecision) []string {
	to := map[string]bool{}
	for _, s := range slots {
		if s.Rule == reconcile.RuleStart {
			for _, c := range s.Candidates {
				to[c] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(to))
}
