package sim

import (
	"crypto/ed25519"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/gossip"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/reconcile/gate"
)

// node is one machine. What is under "disk" outlives the agent and the machine; the rest is lost with
// the agent.
type node struct {
	w     *world
	index int
	name  string
	r     *rand.Rand
	watch watch
	key   ed25519.PrivateKey

	machine bool // is on
	agent   bool // is running
	run     int  // counts runs of the agent: what was planned in an earlier one is void

	// disk
	boot     int64
	pods     kubelet
	declines []reconcile.Decline
	accepted map[string]reconcile.Commit // nil before anything was accepted
	left     *gate.Durable               // what the gate remembers; nil: nothing
	refused  map[string]int64            // the level that each app refuses

	// faults under way
	away, sluggish int
	refuse         map[string]bool // apps that refuse the next commit
	crash          int             // actions until the agent is killed; -1: not

	// memory
	memory   reconcile.State
	seq      int64
	document reconcile.Document
	backBy   time.Time
	gossip   gossip.State
	tick     time.Duration         // of the spread, that is planned; 0: none
	docs     []*reconcile.Document // by node; nil: none counts
	gate     gate.State
	judged   time.Duration      // of the gate's tick, that is planned; 0: none
	news     gate.Members       // of membership, not yet handed on
	answers  []reconcile.Answer // for the next pass
	asked    map[reconcile.Ask]bool
	next     time.Duration // of the pass that is planned; 0: none
	decided  reconcile.Decision
	known    known
}

const (
	passEvery = 100 * time.Millisecond // the least time between two passes of a node
	hearEvery = 250 * time.Millisecond // documents that come one after the other make one pass
	hearLarge = time.Second            // the same in a large flock
)

// later does something on the machine unless the pod has started or ended meanwhile.
func (n *node) later(d time.Duration, p *pod, do func()) {
	life := p.life
	n.w.clock.after(d, func() {
		if n.machine && p.life == life {
			do()
		}
	})
}

// inAgent does something unless this run of the agent has ended meanwhile.
func (n *node) inAgent(d time.Duration, do func()) {
	run := n.run
	n.w.clock.after(d, func() {
		if n.agent && n.run == run {
			do()
		}
	})
}

// poke asks for a pass soon.
func (n *node) poke() {
	n.known.touched = true
	n.passAt(n.w.clock.now + passEvery)
}

func (n *node) passAt(t time.Duration) {
	t = max(t, n.w.clock.now+time.Millisecond)
	if !n.agent || n.next != 0 && n.next <= t {
		return
	}
	if n.w.network.late[n.index] > 0 {
		t += upTo(n.w.network.r, 3*time.Second)
	}
	n.next = t
	n.inAgent(t-n.w.clock.now, func() {
		if n.next == t {
			n.next = 0
			n.pass()
		}
	})
}

// up starts the agent.
func (n *node) up() {
	if n.agent || !n.machine {
		return
	}
	n.agent = true
	n.run++
	n.boot++
	n.seq, n.memory, n.document, n.decided = 0, reconcile.State{}, reconcile.Document{}, reconcile.Decision{}
	n.known = known{slots: map[types.UID][]reconcile.SlotDecision{}, news: map[int]bool{}}
	n.docs = make([]*reconcile.Document, len(n.w.nodes))
	n.gate, n.judged, n.news = gate.NewState(n.name, n.left, n.watch.read(n.w.clock.now)), 0, gate.Members{}
	n.answers, n.asked = nil, map[reconcile.Ask]bool{}
	n.next, n.crash, n.backBy = 0, -1, time.Time{}
	n.joinSpread()
	n.judge(gate.Enrolled{Names: n.w.names})
	n.publish() // before anything else: others hold what an earlier boot said
	n.inAgent(upTo(n.r, time.Second), n.poll)
	n.w.members.started(n.index)
	n.poke()
}

// down ends the agent; pods run on.
func (n *node) down() {
	if n.agent {
		left := n.gate.Durable(n.watch.read(n.w.clock.now))
		n.left = &left
	}
	n.agent = false
	n.run++
	n.w.members.review(n.index)
}

// off and on are the machine's power.
func (n *node) off() {
	n.down()
	n.machine = false
	n.pods.powerOff()
}

func (n *node) on() {
	n.machine = true
	n.watch.offset += upTo(n.r, 400*time.Millisecond) - 200*time.Millisecond
	n.pods.powerOn()
	n.up()
}

// forget loses what the agent keeps on disk besides its pods and its boot counter. A node that does not
// remember who its peers were waits for all that are enrolled.
func (n *node) forget() {
	n.accepted, n.declines, n.pods.releases, n.left = nil, nil, nil, nil
}

// wipe is another disk, which begins to count boots at the second of the clock.
func (n *node) wipe() {
	n.forget()
	n.boot, n.refused = int64(n.watch.read(n.w.clock.now).Sub(start)/time.Second), map[string]int64{}
	n.pods.pods = map[types.UID]*pod{}
}

// leave says when the agent, which was asked to end, means to be back.
func (n *node) leave(lasts time.Duration) {
	n.backBy, n.known.touched = n.watch.read(n.w.clock.now+lasts).UTC().Truncate(time.Microsecond), true
	n.publish()
}

// poll looks at the remote every few seconds.
func (n *node) poll() {
	n.look()
	n.inAgent(2*time.Second+upTo(n.r, 2*time.Second), n.poll)
}

// look fetches the head that the remote shows.
func (n *node) look() {
	if n.away > 0 {
		return
	}
	wait := 50*time.Millisecond + upTo(n.r, 300*time.Millisecond)
	if n.sluggish > 0 {
		wait += upTo(n.r, 15*time.Second)
	}
	head := n.w.shown()
	n.inAgent(wait, func() { n.accept(head) })
}

// accept moves every app to the commit at that level. The trusted position only ever advances.
func (n *node) accept(level int64) {
	if level == 0 || level <= n.accepted[clusterUnit].Level {
		return
	}
	c := n.w.history.at(level).Commit
	next := map[string]reconcile.Commit{clusterUnit: c}
	for _, app := range n.w.life.apps() {
		if n.refuse[app] {
			n.refuse[app] = false
			n.refused[app] = level
		}
		if n.refused[app] == level {
			if old, ok := n.accepted[app]; ok {
				next[app] = old
			}
			n.w.say(n.name, "refuses %s of %s", app, short(c.ID))
			continue
		}
		next[app] = c
	}
	n.accepted, n.known.lookedAt = next, 0
	n.w.say(n.name, "accepts %s", short(c.ID))
	n.tell(gossip.Verified{Head: c})
	n.poke()
}

// write makes this node's document, numbered anew when it says something new.
func (n *node) write() (changed bool) {
	now := n.watch.read(n.w.clock.now)
	said := len(n.pods.releases) + len(n.declines)
	n.pods.releases = slices.DeleteFunc(n.pods.releases, func(r reconcile.Release) bool { return now.Sub(r.At) > keepReleases })
	n.declines = slices.DeleteFunc(n.declines, func(d reconcile.Decline) bool { return now.Sub(d.At) > keepReleases })
	if n.seq > 0 && !n.known.touched && said == len(n.pods.releases)+len(n.declines) {
		return false
	}
	n.known.touched = false
	d := reconcile.Document{
		Node: n.name, Boot: n.boot, Seq: n.seq, Accepted: n.accepted, Head: n.accepted[clusterUnit], Versions: []int32{1},
		BackBy: n.backBy, Allocatable: n.w.machines[n.index].Status.Allocatable, Releases: slices.Clone(n.pods.releases), Declines: slices.Clone(n.declines),
	}
	for _, p := range n.pods.sorted() {
		d.Instances = append(d.Instances, p.instance)
	}
	if n.seq > 0 && reflect.DeepEqual(d, n.document) {
		return false
	}
	n.seq++
	d.Seq = n.seq
	n.document = d
	return true
}

func (n *node) publish() {
	if n.write() {
		n.w.record(n.document)
		n.spread()
	}
}

// pass is what the agent does: read everything once, decide, carry out, and say so.
func (n *node) pass() {
	n.publish()
	if n.accepted == nil {
		return // nothing was ever accepted: nothing is started and nothing stopped
	}
	in := n.input()
	n.memory, n.decided = reconcile.Step(n.memory, in)
	n.known.keep(&n.decided)
	for _, a := range n.decided.Asks {
		n.ask(a)
	}
	for _, uid := range n.decided.Resume {
		n.pods.resume(uid)
	}
	for i, a := range n.decided.Actions {
		if n.crash >= 0 && i >= n.crash {
			n.w.say(n.name, "agent is killed before: %s", a)
			n.down()
			return
		}
		n.w.tell(n.name, slotName(a.Instance), "%s, by %s", a, short(a.By))
		switch a.Kind {
		case reconcile.Start:
			n.pods.start(a)
		case reconcile.Stop:
			n.pods.stop(a.Instance.UID, a.By)
		}
	}
	n.declines = append(n.declines, n.decided.Declines...)
	n.known.touched = n.known.touched || len(n.decided.Actions)+len(n.decided.Declines) > 0
	n.publish()
	if len(n.decided.Actions) > 0 {
		n.poke()
	}
	if wake := n.decided.Wake; !wake.IsZero() {
		n.passAt(n.watch.when(wake))
	}
}

// ask carries a question to another node by a direct call, once at a time, and what came of it back.
func (n *node) ask(a reconcile.Ask) {
	other := n.w.byName[a.To]
	if other == nil || n.asked[a] {
		return
	}
	n.asked[a] = true
	at := n.watch.read(n.w.clock.now)
	come := func(x reconcile.Answer) {
		if n.asked[a] {
			delete(n.asked, a)
			x.At = at
			n.answers = append(n.answers, x)
			n.passAt(n.w.clock.now)
		}
	}
	n.inAgent(reconcile.AskWithin, func() { come(reconcile.Answer{Ask: a, Unreachable: true}) })
	var answer *reconcile.Answer
	n.call(other, func() { answer = other.reply(a) }, func(gate.Answer) {
		if answer != nil {
			come(*answer)
		}
	})
}

// reply answers a question by what this node knows; nil when it knows nothing yet.
func (n *node) reply(a reconcile.Ask) *reconcile.Answer {
	n.publish()
	if n.accepted == nil {
		return nil
	}
	var answer reconcile.Answer
	n.memory, answer = reconcile.Reply(n.memory, n.input(), a)
	n.passAt(n.w.clock.now + hearEvery) // what was read for the answer is decided on, too
	return &answer
}

func short(text string) string {
	var level int64
	if len(text) == 40 {
		if _, err := fmt.Sscanf(text, "c%x", &level); err == nil {
			return fmt.Sprintf("commit %d", level)
		}
	}
	return text
}
