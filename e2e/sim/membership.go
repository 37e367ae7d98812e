package sim

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/pleachdev/pleach/gossip"
	"github.com/pleachdev/pleach/reconcile/gate"
)

// membership says who is there, as Serf with its defaults does: a node that can be reached by nobody has
// failed some seconds later, everywhere at nearly the same time; one that is back is alive a moment later.
// It looks at what changes only, so that a large flock costs nothing while nothing happens.
type membership struct {
	w *world
	r *rand.Rand
	// reach and said are by observer and node: whether the one hears the other, since when it does or does
	// not, and what it was told.
	reach     [][]bool
	since     [][]time.Duration
	said      [][]word
	suspicion time.Duration
}

// word is what membership last said.
type word uint8

const (
	nothing word = iota
	alive
	failed
)

func newMembership(w *world) *membership {
	n := w.life.Nodes
	m := &membership{
		w: w, r: dice(w.life.Seed, "membership"), reach: make([][]bool, n), since: make([][]time.Duration, n), said: make([][]word, n),
		suspicion: time.Duration(4 * max(1, math.Log10(float64(n))) * float64(time.Second)),
	}
	for i := range n {
		m.reach[i], m.since[i], m.said[i] = make([]bool, n), make([]time.Duration, n), make([]word, n)
	}
	return m
}

// started: an agent joins. What it hears of at once it is told of at once.
func (m *membership) started(i int) {
	clear(m.said[i])
	for j := range m.reach[i] {
		m.reach[i][j], m.since[i][j] = false, m.w.clock.now
	}
	joined := 100*time.Millisecond + upTo(m.r, 900*time.Millisecond)
	m.w.nodes[i].inAgent(joined, func() {
		for j := range m.reach[i] {
			if j != i && m.w.heard(i, j) {
				m.reach[i][j] = true
				m.tell(i, j, alive)
			}
		}
		m.review(i)
	})
}

// review looks at who hears a node, and while the network is cut, at who hears whom through it.
func (m *membership) review(j int) {
	if m.w.network.cut > 0 {
		m.reviewAll()
		return
	}
	m.about(j)
}

// reviewAll looks at everybody, after a change of the network.
func (m *membership) reviewAll() {
	for j := range m.w.nodes {
		m.about(j)
	}
}

func (m *membership) about(j int) {
	fails := time.Second + upTo(m.r, time.Second) + m.suspicion // until it is probed, and the suspicion
	returns := 100*time.Millisecond + upTo(m.r, 600*time.Millisecond)
	for i := range m.w.nodes {
		m.pair(i, j, fails, returns)
	}
}

func (m *membership) pair(i, j int, fails, returns time.Duration) {
	if i == j || !m.w.nodes[i].agent {
		return
	}
	heard := m.w.heard(i, j)
	if heard == m.reach[i][j] {
		return
	}
	now := m.w.clock.now
	m.reach[i][j], m.since[i][j] = heard, now
	wait, what := fails, failed
	if heard {
		wait, what = returns, alive
	}
	m.w.nodes[i].inAgent(wait+upTo(m.r, 300*time.Millisecond), func() {
		if m.since[i][j] == now && m.reach[i][j] == heard {
			m.tell(i, j, what)
		}
	})
}

// tell gives word to a node, together with what else there is to say.
func (m *membership) tell(i, j int, what word) {
	if m.said[i][j] == what || m.said[i][j] == nothing && what == failed {
		return // of who was never there, nothing is said
	}
	m.said[i][j] = what
	n := m.w.nodes[i]
	if what == alive {
		n.news.Alive = append(n.news.Alive, n.w.nodes[j].name)
	} else {
		n.news.Failed = append(n.news.Failed, n.w.nodes[j].name)
	}
	if len(n.news.Alive)+len(n.news.Failed) == 1 {
		n.inAgent(50*time.Millisecond, n.membersChanged)
	}
}

// lie says of a node that it failed, and takes that back when the node has refuted it.
func (m *membership) lie(i, j int, refuted time.Duration) {
	if !m.w.nodes[i].agent || m.said[i][j] != alive {
		return
	}
	m.tell(i, j, failed)
	m.w.nodes[i].inAgent(refuted, func() {
		if m.reach[i][j] {
			m.tell(i, j, alive)
		}
	})
}

// starve is a node that gets no processor for a while: it is suspected, and suspects others.
func (m *membership) starve(x int, until time.Duration) {
	if m.w.clock.now >= until {
		return
	}
	refuted := time.Second + upTo(m.r, 6*time.Second)
	by := m.r.Float64()
	for i := range m.w.nodes {
		if i == x {
			continue
		}
		if m.r.Float64() < by {
			m.lie(i, x, refuted+upTo(m.r, 300*time.Millisecond))
		}
		if m.r.IntN(4) == 0 {
			m.lie(x, i, upTo(m.r, 8*time.Second))
		}
	}
	m.w.clock.after(4*time.Second+upTo(m.r, 10*time.Second), func() { m.starve(x, until) })
}

// membersChanged hands on what membership said since the last time.
func (n *node) membersChanged() {
	news := n.news
	n.news = gate.Members{}
	n.judge(news)
	var reachable gossip.Members
	for j, what := range n.w.members.said[n.index] {
		if what == alive {
			reachable.Names = append(reachable.Names, n.w.nodes[j].name)
		}
	}
	n.tell(reachable)
}

// judge takes a step of the gate and carries out what it asks for.
func (n *node) judge(e gate.Event) {
	var effects []gate.Effect
	n.gate, effects = gate.Step(n.gate, e, n.watch.read(n.w.clock.now))
	for _, x := range effects {
		switch x := x.(type) {
		case gate.Check:
			n.check(n.w.byName[x.Node])
		case gate.Ask:
			for _, w := range x.Witnesses {
				n.askWitness(n.w.byName[w], x.About)
			}
		case gate.Reply:
			to := n.w.byName[x.To]
			n.w.network.send(n.index, to.index, func() {
				if to.agent {
					to.judge(gate.Witnessed{Witness: n.name, About: x.About, Answer: x.Answer})
				}
			})
		case gate.Gone:
			n.known.lookedAt = 0
			n.w.say(n.name, "holds %s for gone: %s", x.Node, x.Reason)
			n.tell(gossip.Gone{Node: x.Node})
			n.poke()
		case gate.Back:
			n.known.lookedAt = 0
			n.w.say(n.name, "hears %s again", x.Node)
			n.poke()
		case gate.EndpointsOff, gate.EndpointsOn:
		}
	}
	if why := n.frozen(); why != n.known.frozen {
		n.known.frozen = why
		n.poke()
	}
	wake := n.gate.Wake()
	if wake.IsZero() {
		return
	}
	t := max(n.watch.when(wake), n.w.clock.now+time.Millisecond)
	if n.w.network.late[n.index] > 0 {
		t += upTo(n.w.network.r, 3*time.Second)
	}
	if n.judged == 0 || t < n.judged {
		n.judged = t
		n.inAgent(t-n.w.clock.now, func() {
			if n.judged == t {
				n.judged = 0
				n.judge(gate.Tick{})
			}
		})
	}
}

// callTimeout is how long a direct call waits for an answer.
const callTimeout = 2 * time.Second

// call is a direct call: it needs the way there and the way back, and goes over a connection that resends
// what is lost. At last done is told what it came to.
func (n *node) call(to *node, served func(), done func(gate.Answer)) {
	none := func(answer gate.Answer) { n.inAgent(callTimeout, func() { done(answer) }) }
	switch {
	case n.w.network.late[n.index] > 0 && n.w.network.r.IntN(2) == 0, !to.machine, !n.w.network.both(n.index, to.index), n.w.network.loses():
		none(gate.NoAnswer)
	case to.agent && n.w.network.late[to.index] > 0 && n.w.network.r.IntN(3) > 0:
		none(gate.Refused) // it was accepted, and nobody came
	default:
		n.w.clock.after(time.Millisecond+upTo(n.w.network.r, 20*time.Millisecond), func() {
			answer := gate.Answered
			switch {
			case !to.machine:
				none(gate.NoAnswer)
				return
			case !to.agent:
				answer = gate.Refused
			default:
				served()
			}
			n.inAgent(time.Millisecond+upTo(n.w.network.r, 20*time.Millisecond), func() { done(answer) })
		})
	}
}

func (n *node) check(to *node) {
	n.call(to, func() {}, func(answer gate.Answer) { n.judge(gate.Checked{Node: to.name, Answer: answer}) })
}

func (n *node) askWitness(w *node, about string) {
	n.call(w, func() { w.judge(gate.Asked{By: n.name, About: about}) }, func(answer gate.Answer) {
		if answer != gate.Answered {
			n.judge(gate.Witnessed{Witness: w.name, About: about, Answer: gate.Unknown})
		}
	})
}

// believes is what the gate believes of a node.
func (n *node) believes(j int) gate.View {
	return n.gate.View(n.w.nodes[j].name, n.watch.read(n.w.clock.now))
}

// frozen is what the gate says against moving anything.
func (n *node) frozen() string { return n.gate.Frozen(n.watch.read(n.w.clock.now)) }
