package sim

import (
	"crypto/ed25519"
	"crypto/sha256"
	"time"

	"github.com/pleachdev/pleach/gossip"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/reconcile/gate"
)

// key is a node's signing key.
func key(node string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(node))
	return ed25519.NewKeyFromSeed(seed[:])
}

// joinSpread begins with nothing, as a starting agent does.
func (n *node) joinSpread() {
	n.gossip, n.tick = gossip.NewState(n.name, n.w.life.Seed+uint64(n.boot)), 0
	n.tell(gossip.Enrolled{Names: n.w.names})
}

// spread signs this node's new document and hands it out, claims straight to the candidates of their slots.
func (n *node) spread() {
	sealed, err := gossip.Encode(n.document, n.key)
	if err != nil {
		panic(err) // what the simulation writes can be written
	}
	d, err := sealed.Document()
	if err != nil {
		panic(err)
	}
	n.w.opened[sealed.Version] = &d
	e := gossip.Publish{Document: sealed}
	for _, s := range n.decided.Slots {
		if s.Rule == reconcile.RuleStart {
			e.Direct = append(e.Direct, s.Candidates...)
		}
	}
	n.tell(e)
}

// tell takes a step of the spread and carries out what it asks for.
func (n *node) tell(e gossip.Event) {
	var effects []gossip.Effect
	n.gossip, effects = gossip.Step(n.gossip, e, n.watch.read(n.w.clock.now))
	for _, x := range effects {
		switch x := x.(type) {
		case gossip.Send:
			other := n.w.byName[x.To]
			received := gossip.Event(gossip.Receive{From: n.name, Message: x.Message})
			n.w.network.send(n.index, other.index, func() {
				if other.agent {
					other.tell(received)
				}
			})
		case gossip.Changed:
			for _, name := range x.Nodes {
				n.changed(n.w.byName[name].index)
			}
		case gossip.Look:
			n.inAgent(0, n.look)
		case gossip.Renumber:
			n.boot, n.seq = max(n.boot, int64(x.Boot)), 0
			n.inAgent(0, n.publish)
		case gossip.Contested:
			panic("two machines with the key of " + n.name)
		}
	}
	n.tickAt(n.watch.when(n.gossip.Wake()))
}

func (n *node) tickAt(t time.Duration) {
	t = max(t, n.w.clock.now+time.Millisecond)
	if n.tick != 0 && n.tick <= t {
		return
	}
	n.tick = t
	n.inAgent(t-n.w.clock.now, func() {
		if n.tick == t {
			n.tick = 0
			n.tell(gossip.Tick{})
		}
	})
}

// changed reads a document that was replaced. A node that was held for gone and whose document counts
// again has handed it over itself.
func (n *node) changed(j int) {
	if j == n.index {
		return
	}
	name := n.w.nodes[j].name
	if _, ok := n.gossip.Document(name); ok && n.believes(j).Gone {
		n.judge(gate.HandedOver{Node: name})
	}
	old := n.docs[j]
	n.docs[j], n.known.news[j] = nil, true
	if sealed, ok := n.gossip.Document(name); ok {
		d := n.w.opened[sealed.Version]
		n.docs[j] = d
		if old == nil && !d.BackBy.IsZero() || old != nil && !old.BackBy.Equal(d.BackBy) {
			n.judge(gate.Planned{Node: name, BackBy: d.BackBy})
		}
	}
	if len(n.w.nodes) >= large {
		n.passAt(n.w.clock.now + hearLarge)
		return
	}
	n.passAt(n.w.clock.now + hearEvery)
}
