package reconcile

import (
	"cmp"
	"fmt"
	"maps"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/placement"
)

// What a registrar promises is kept in memory alone, and one that has just started promises nothing for
// a while: what it said before its start has been acted on by then and stands in documents, or is void.
// That costs no write to the disk between question and answer, and holds also when the disk was lost.
const (
	startsFor   = 2 * time.Second // after its start a node promises nothing, and relies on nothing it may have promised
	claimHolds  = 5 * time.Second // that nobody else gets the slot; by then the claim is in the registrar's documents
	tokenHolds  = 5 * time.Second // unless documents show sooner that it was used
	tokenAgain  = 3 * time.Second // for so long it is given to the same again, whose answer is then over before it is another's
	wordHolds   = 2 * time.Second // that a pod stays whose node has said so
	grantForget = time.Minute
)

// registry is what a node has promised others.
type registry struct {
	boot   int64
	since  time.Time
	claims map[claimKey]grant
	tokens map[types.UID]grant     // by workload
	words  map[types.UID]time.Time // until when a pod of this node stays
}

type claimKey struct {
	slot     Slot
	revision string
}

// grant is a yes.
type grant struct {
	ask Ask
	at  time.Time
}

// readRegistry begins anew after a start, and forgets what is over.
func (x *index) readRegistry(in *Input) {
	r := &x.registry
	if r.claims == nil || r.boot != in.Boot {
		*r = registry{boot: in.Boot, since: in.Now, claims: map[claimKey]grant{}, tokens: map[types.UID]grant{}, words: map[types.UID]time.Time{}}
	}
	over := func(g grant) bool { return in.Now.Sub(g.at) >= grantForget }
	maps.DeleteFunc(r.claims, func(_ claimKey, g grant) bool { return over(g) })
	maps.DeleteFunc(r.tokens, func(_ types.UID, g grant) bool { return over(g) })
	maps.DeleteFunc(r.words, func(_ types.UID, until time.Time) bool { return !in.Now.Before(until) })
}

// young says why this node promises nothing yet; "" in a flock of one, which nobody was promised anything.
func (p *pass) young() string {
	until := p.index.registry.since.Add(startsFor)
	if !p.in.Now.Before(until) || p.in.without == ruleYoung {
		return ""
	}
	for i := range p.nodes {
		if n := &p.nodes[i]; n.Node.Name != p.in.Self && n.Stable {
			return fmt.Sprintf("node %s has just started", p.in.Self)
		}
	}
	return ""
}

// notYet refuses what a node cannot judge that has just started.
func (p *pass) notYet(out *Answer) bool {
	if out.Reason = p.young(); out.Reason != "" {
		out.until = p.index.registry.since.Add(startsFor)
		return true
	}
	out.Reason = p.index.unheard
	return out.Reason != ""
}

// registrar is the node that is asked about a key: the first in the key's rendezvous order (Thaler and
// Ravishankar 1998) that this node can reach. Others may reach other nodes: what rests on a registrar holds
// while the nodes that ask reach the same.
func (p *pass) registrar(key string) string {
	best, weight := p.in.Self, uint64(0)
	for i := range p.nodes {
		n := &p.nodes[i]
		name := n.Node.Name
		if name != p.in.Self && (n.Gone || n.Failed || !n.Stable && p.docs[name] == nil) {
			continue
		}
		if w := placement.Hash(key + "\x00" + name); cmp.Or(cmp.Compare(w, weight), cmp.Compare(best, name)) > 0 || weight == 0 {
			if name == p.in.Self || !p.index.unreachable(name) {
				best, weight = name, w
			}
		}
	}
	return best
}

// mayClaim answers whether a pod may be started in a slot: once for a slot, epoch and revision, again to who
// asked the same, and not against what this node's own documents say.
func (p *pass) mayClaim(out *Answer) {
	a := out.Ask
	if p.notYet(out) {
		return
	}
	for _, m := range p.inSlot(a.Slot) {
		// Who asks knows its own pods better. What leaves its node has a second pod at its revision.
		if m.live() && m.Node != a.From && (!a.Surge || m.Revision == a.Revision && !p.drained(m.Node)) {
			out.Reason = fmt.Sprintf("node %s runs %s in the slot", m.Node, m.Name)
			return
		}
	}
	key := claimKey{a.Slot, a.Revision}
	old, given := p.index.registry.claims[key]
	switch {
	case given && old.ask == a: // the promise begins anew, or it would end before the answer that rests on it
		if p.in.without == ruleAgain {
			return
		}
	case given && old.ask.From != a.From && p.in.Now.Sub(old.at) < claimHolds && p.in.without != ruleOnce:
		out.Reason, out.until = fmt.Sprintf("node %s was given the slot", old.ask.From), old.at.Add(claimHolds)
		return
	}
	known := p.index.epoch(a.Slot)
	if given {
		known = max(known, old.ask.Epoch)
	}
	if a.Epoch <= known && (!given || old.ask != a) && p.in.without != ruleOnce {
		out.Reason, out.Epoch = fmt.Sprintf("epoch %d of the slot was given before", known), known
		return
	}
	p.index.registry.claims[key] = grant{a, p.in.Now}
}

// epoch is the highest of a slot that was ever heard of, from gone nodes as well.
func (x *index) epoch(id Slot) (highest int64) {
	g := x.tracked[id.Workload]
	if g == nil {
		return 0
	}
	if i, ok := g.find(id); ok {
		highest = g.seats[i].epoch
	}
	for i := range g.records {
		if r := &g.records[i]; r.slot(g.uid) == id {
			highest = max(highest, r.epoch)
		}
	}
	for _, r := range g.releases {
		if r.Slot == id {
			highest = max(highest, r.Epoch)
		}
	}
	return highest
}

// inSlot lists the pods of a slot by the documents that count.
func (p *pass) inSlot(id Slot) (out []Instance) {
	g := p.index.tracked[id.Workload]
	if g == nil {
		return nil
	}
	for i := range g.records {
		if r := &g.records[i]; !p.index.isGone(r.from) && r.slot(g.uid) == id {
			out = append(out, p.index.instance(g, r))
		}
	}
	return out
}

// register asks the slot's registrar for a claim, and says with which epoch.
func (p *pass) register(x *want) (epoch int64, why string) {
	a := Ask{
		Kind: AskClaim, To: p.registrar(x.s.key), Slot: x.s.id, Revision: x.template.Revision,
		Epoch: x.s.memory.Epoch + 1, Surge: x.beside != nil,
	}
	if g, given := p.index.registry.claims[claimKey{a.Slot, a.Revision}]; given && a.To == p.in.Self && (g.ask.From != p.in.Self || g.ask.Boot != p.in.Boot) {
		a.Epoch = max(a.Epoch, g.ask.Epoch+1)
	}
	return a.Epoch, p.consent(a)
}
