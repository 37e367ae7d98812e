package sim

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Kind says what an Event is.
type Kind string

// The kinds of events. Those with a duration end by themselves.
const (
	Push      Kind = "push"            // a commit
	Restart   Kind = "restart"         // the agent is down for a while; the pods run on
	Planned   Kind = "planned restart" // the same, and the agent was asked to end: it says when it means to be back
	Crash     Kind = "crash"           // the agent is killed in its next pass after some actions, and is down for a while
	Forget    Kind = "forget"          // as Restart, and Git store, accepted state and cached documents are lost
	PowerOff  Kind = "power off"       // the machine is off for a while, or for good
	NewDisk   Kind = "new disk"        // the machine is off for a while, and its disk is an empty one when it is on again
	Replaced  Kind = "replaced"        // the node has an empty disk and a new key, and begins to count anew; not drawn
	PodFails  Kind = "pod fails"       // a pod of the node ends: a lost sandbox, an eviction by the kernel
	PodFlaps  Kind = "pod flaps"       // a pod of the node is not ready for a while
	SlowPods  Kind = "slow pods"       // pods take long to start and to end
	NoImages  Kind = "no images"       // no image can be pulled
	GitAway   Kind = "git away"        // the node cannot reach the remote
	GitSlow   Kind = "git slow"        // fetching takes long
	GitRewind Kind = "git rewind"      // the remote shows an older head to all
	Refuse    Kind = "refuse"          // the node refuses the next commit for one app
	Cut       Kind = "cut"             // nothing goes from the node to its peer; the way back is open
	Partition Kind = "partition"       // the nodes of Group and the others do not hear each other
	Loss      Kind = "loss"            // every message may be lost, and some are late
	Starve    Kind = "starve"          // the node gets hardly any processor: it is late, is suspected, and suspects others
)

// Event is one thing that happens to the flock.
type Event struct {
	At    time.Duration
	Kind  Kind
	Node  int           // whom it happens to; -1: all
	Peer  int           // of Cut
	Group []int         // of Partition
	For   time.Duration // until it is over; -1: never
	Count int           // of Crash: actions before it; of GitRewind: commits
	Share float64       // of Loss: of messages lost
	Push  []Change      // of Push
	App   string        // of Refuse
}

// NodeName is the name of a node by its index.
func NodeName(i int) string { return fmt.Sprintf("n%d", i) }

// String is the event in a story.
func (e Event) String() string { return e.words(NodeName) }

// words is String with the nodes' own names.
func (e Event) words(name func(int) string) string {
	var b strings.Builder
	b.WriteString(string(e.Kind))
	switch e.Kind {
	case Push:
		for i, c := range e.Push {
			if i > 0 {
				b.WriteString(";")
			}
			b.WriteString(" " + c.String())
		}
		return b.String()
	case Cut:
		fmt.Fprintf(&b, " from %s to %s", name(e.Node), name(e.Peer))
	case Partition:
		var names []string
		for _, i := range e.Group {
			names = append(names, name(i))
		}
		fmt.Fprintf(&b, " of %s from the others", strings.Join(names, ", "))
	case Loss:
		fmt.Fprintf(&b, " of %.0f %%", 100*e.Share)
	case GitRewind:
		fmt.Fprintf(&b, " by %d commits", e.Count)
	case Crash:
		fmt.Fprintf(&b, " of %s after %d actions", name(e.Node), e.Count)
	case Refuse:
		fmt.Fprintf(&b, " %s by %s", e.App, name(e.Node))
	default:
		if e.Node >= 0 {
			b.WriteString(" of " + name(e.Node))
		}
	}
	switch {
	case e.For < 0:
		b.WriteString(" for good")
	case e.For > 0:
		fmt.Fprintf(&b, " for %s", e.For.Round(100*time.Millisecond))
	}
	return b.String()
}

// Life is everything that is to happen to a flock.
type Life struct {
	Seed   uint64
	Nodes  int
	Calm   time.Duration // from here on there are no faults
	Events []Event       // sorted by time; the last is the push of a good state at Calm
	Given  *Given        // of whom the life is; nil for a flock that is drawn
}

// chance is how often a kind of fault happens, relative to the others.
type chance struct {
	weight int
	nodes  int // the smallest flock to which it can happen
	make   func(*maker) Event
}

// off reports whether the fault switches a machine off.
func (k Kind) off() bool { return k == PowerOff || k == NewDisk }

// silences reports whether the fault ends a node's agent for a while.
func (k Kind) silences() bool {
	return k.off() || k == Restart || k == Planned || k == Crash || k == Forget
}

// hides reports whether the fault keeps nodes from hearing of each other.
func (k Kind) hides() bool { return k.silences() || k == Cut || k == Partition || k == Loss }

// forgets reports whether the fault takes a node's memory.
func (k Kind) forgets() bool { return k == Forget || k == NewDisk || k == Replaced }

// chances lists all faults. Left out is a pod that finds no room beside its older one in a flock.
var chances = []chance{
	{5, 1, func(m *maker) Event { return Event{Kind: Restart, Node: m.node(), For: m.mostly(10, 120)} }},
	{2, 1, func(m *maker) Event { return Event{Kind: Planned, Node: m.node(), For: m.mostly(10, 120)} }},
	{1, 1, func(m *maker) Event { return Event{Kind: NewDisk, Node: m.node(), For: m.mostly(30, 120)} }},
	{3, 1, func(m *maker) Event {
		return Event{Kind: Crash, Node: m.node(), For: m.mostly(5, 30), Count: m.r.IntN(4)}
	}},
	{2, 1, func(m *maker) Event { return Event{Kind: Forget, Node: m.node(), For: m.mostly(5, 30)} }},
	{4, 1, func(m *maker) Event { return Event{Kind: PowerOff, Node: m.node(), For: m.mostly(30, 120)} }},
	{4, 1, func(m *maker) Event { return Event{Kind: PodFails, Node: m.node()} }},
	{6, 1, func(m *maker) Event { return Event{Kind: PodFlaps, Node: m.node(), For: m.mostly(5, 60)} }},
	{2, 1, func(m *maker) Event { return Event{Kind: SlowPods, Node: m.node(), For: m.mostly(30, 90)} }},
	{2, 1, func(m *maker) Event { return Event{Kind: NoImages, Node: m.node(), For: m.mostly(20, 60)} }},
	{3, 1, func(m *maker) Event { return Event{Kind: GitAway, Node: m.nodeOrAll(), For: m.mostly(20, 120)} }},
	{2, 1, func(m *maker) Event { return Event{Kind: GitSlow, Node: m.nodeOrAll(), For: m.mostly(60, 120)} }},
	{2, 1, func(m *maker) Event {
		return Event{Kind: GitRewind, Node: -1, For: m.mostly(20, 60), Count: 1 + m.r.IntN(3)}
	}},
	{2, 1, func(m *maker) Event { return Event{Kind: Refuse, Node: m.node(), App: apps[m.r.IntN(len(apps))]} }},
	{4, 2, func(m *maker) Event {
		a := m.node()
		b := (a + 1 + m.r.IntN(m.nodes-1)) % m.nodes
		return Event{Kind: Cut, Node: a, Peer: b, For: m.mostly(20, 120)}
	}},
	{3, 3, func(m *maker) Event {
		group := m.r.Perm(m.nodes)[:1+m.r.IntN(m.nodes-1)]
		slices.Sort(group)
		return Event{Kind: Partition, Node: -1, Group: group, For: m.mostly(20, 90)}
	}},
	{3, 2, func(m *maker) Event {
		return Event{Kind: Loss, Node: -1, Share: m.r.Float64() * 0.4, For: m.mostly(30, 120)}
	}},
	{3, 2, func(m *maker) Event { return Event{Kind: Starve, Node: m.node(), For: m.mostly(30, 120)} }},
}

// maker draws a life.
type maker struct {
	r     *rand.Rand
	nodes int
}

func (m *maker) node() int { return m.r.IntN(m.nodes) }

func (m *maker) nodeOrAll() int {
	if m.r.IntN(2) == 0 {
		return -1
	}
	return m.node()
}

// mostly draws up to so many seconds, and sometimes up to more.
func (m *maker) mostly(seconds, more int) time.Duration {
	if m.r.IntN(4) == 0 {
		seconds = more
	}
	return time.Second/2 + upTo(m.r, time.Duration(seconds)*time.Second)
}

// Generate draws the life of a flock: for so long things happen to it, then there is calm.
func Generate(seed uint64, nodes int, length time.Duration) Life {
	m := &maker{r: dice(seed, "life"), nodes: nodes}
	life := Life{Seed: seed, Nodes: nodes, Calm: length}
	author := newAuthor(m.r, nodes)
	life.Events = append(life.Events, Event{At: time.Second, Kind: Push, Node: -1, Push: author.first()})
	total := 0
	var possible []chance
	for _, c := range chances {
		if nodes >= c.nodes {
			possible, total = append(possible, c), total+c.weight
		}
	}
	for t := 10 * time.Second; ; {
		gap := 15 * time.Second
		if m.r.IntN(4) == 0 {
			gap = 2 * time.Second // while what came before is under way
		}
		t += time.Second/5 + upTo(m.r, gap)
		if t >= length {
			break
		}
		if m.r.IntN(3) == 0 {
			push := author.next
			if nodes > 1 && m.r.IntN(4) == 0 {
				push = author.service
			}
			life.Events = append(life.Events, Event{At: t, Kind: Push, Node: -1, Push: push()})
			continue
		}
		pick := m.r.IntN(total)
		for _, c := range possible {
			if pick -= c.weight; pick < 0 {
				e := c.make(m)
				e.At, e.For = t, min(e.For, length-t)
				life.Events = append(life.Events, e)
				break
			}
		}
	}
	if nodes >= 4 && m.r.IntN(4) == 0 {
		life.Events = append(life.Events, Event{At: upTo(m.r, length), Kind: PowerOff, Node: m.node(), For: -1})
	}
	life.Events = append(life.Events, Event{At: length, Kind: Push, Node: -1, Push: author.last()})
	slices.SortStableFunc(life.Events, func(a, b Event) int { return cmp.Compare(a.At, b.At) })
	return life
}
