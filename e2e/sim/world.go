package sim

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pleachdev/pleach/gossip"
	"github.com/pleachdev/pleach/reconcile"
)

// allocatable is what every machine has for pods.
var allocatable = corev1.ResourceList{
	corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("16Gi"), corev1.ResourcePods: resource.MustParse("110"),
}

// Settle is the time within which a flock is to be whole after the last fault: five minutes of back-off
// after pods that failed, and one rollout.
const Settle = 12 * time.Minute

// stillness is how long a whole flock is watched on, that nothing moves any more.
const stillness = time.Minute

// world is a flock and everything around it.
type world struct {
	life      Life
	clock     clock
	network   *network
	nodes     []*node
	byName    map[string]*node
	names     []string // sorted
	members   *membership
	machines  []*corev1.Node
	opened    map[gossip.Version]*reconcile.Document // every document that was published, as others read it
	history   history
	rewound   int64 // commits that the remote does not show
	recording Recording
	story     []Line
	bend      func(*reconcile.Input)
}

// Line is one thing that happened.
type Line struct {
	At   time.Duration
	Node string // "" for the world
	Slot string // that it is about; "" when about none
	Text string
}

// Run lives a life to its end.
func Run(life Life) (*Recording, []Line) { return RunBent(life, nil) }

// RunBent lives a life in which every input of a decision is changed before it is decided on, so that tests
// can show what goes wrong then. A nil bend changes nothing.
func RunBent(life Life, bend func(*reconcile.Input)) (*Recording, []Line) {
	w := &world{life: life, bend: bend, byName: map[string]*node{}, opened: map[gossip.Version]*reconcile.Document{}}
	w.network = newNetwork(&w.clock, life.Seed, life.Nodes)
	w.members = newMembership(w)
	w.recording = Recording{Calm: life.Calm, Plans: map[string]string{}}
	for i := range life.Nodes {
		name := life.name(i)
		r := dice(life.Seed, name)
		n := &node{
			w: w, index: i, name: name, r: r, machine: true, key: key(name),
			watch:   watch{offset: upTo(r, 400*time.Millisecond), drift: (r.Float64() - 0.5) / 500},
			refused: map[string]int64{}, refuse: map[string]bool{},
		}
		if r.IntN(10) == 0 {
			n.watch.drift *= 20 // a bad clock: 2 % off at most
		}
		n.pods = newKubelet(n)
		w.nodes = append(w.nodes, n)
		w.byName[name] = n
		w.names = append(w.names, name)
		w.machines = append(w.machines, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
			Status:     corev1.NodeStatus{Allocatable: allocatable},
		})
	}
	if life.Given != nil {
		w.machines, w.history.given = life.Given.Machines, life.Given.revisions()
		w.recording.Names = slices.Clone(w.names)
	}
	w.history.base, w.history.machines = w.machines, w.machines
	slices.Sort(w.names)
	for _, n := range w.nodes {
		w.clock.after(upTo(n.r, time.Second), n.up)
	}
	for _, e := range life.Events {
		w.clock.at(e.At, func() { w.happen(e) })
	}
	w.clock.run(life.Calm)
	for end := life.Calm + Settle; w.clock.now < end; {
		w.clock.run(w.clock.now + 5*time.Second)
		w.finish()
		if life.Given == nil && w.recording.whole() == nil || w.quiet() {
			w.recording.Whole = w.clock.now
			w.clock.run(w.clock.now + stillness)
			break
		}
	}
	w.finish()
	return &w.recording, w.story
}

// finish writes down what stands at the end.
func (w *world) finish() {
	w.recording.End, w.recording.Quiet = w.clock.now, true
	for i := len(w.recording.History); i < len(w.history.revisions); i++ {
		w.recording.History = append(w.recording.History, w.history.revisions[i].committed())
	}
	for _, n := range w.nodes {
		if n.agent {
			w.recording.Plans[n.name] = n.plan()
		}
	}
}

func (w *world) say(node, format string, args ...any) {
	w.tell(node, "", format, args...)
}

// tell is say of a slot.
func (w *world) tell(node, slot, format string, args ...any) {
	w.story = append(w.story, Line{w.clock.now, node, slot, fmt.Sprintf(format, args...)})
}

// shown is the level of the head that the remote shows.
func (w *world) shown() int64 { return max(w.history.head()-w.rewound, min(1, w.history.head())) }

// heard reports whether a node hears of another, be it through a third.
func (w *world) heard(i, j int) bool {
	if !w.nodes[j].agent {
		return false
	}
	if w.network.both(i, j) {
		return true
	}
	for k, o := range w.nodes {
		if o.agent && k != i && k != j && w.network.both(i, k) && w.network.both(k, j) {
			return true
		}
	}
	return false
}

// happen lets an event begin, and plans its end.
func (w *world) happen(e Event) {
	w.say("", "%s", e.words(w.life.name))
	w.recording.Faults = append(w.recording.Faults, e)
	if e.Kind == Push {
		w.rewound = 0
		w.history.push(e.Push)
		if e.At >= w.life.Calm {
			for _, n := range w.nodes {
				clear(n.refuse)
			}
		}
		return
	}
	if e.Kind == GitRewind {
		w.rewound = int64(e.Count)
		w.clock.after(e.For, func() { w.rewound = 0 })
		return
	}
	switch e.Kind {
	case Cut:
		w.network.cuts[e.Node][e.Peer]++
		w.network.cut++
		w.members.reviewAll()
		w.clock.after(e.For, func() {
			w.network.cuts[e.Node][e.Peer]--
			w.members.reviewAll()
			w.network.cut--
		})
	case Partition:
		w.network.split(e.Group, 1)
		w.members.reviewAll()
		w.clock.after(e.For, func() {
			w.network.split(e.Group, -1)
			w.members.reviewAll()
		})
	case Loss:
		w.network.loss = append(w.network.loss, e.Share)
		w.clock.after(e.For, func() {
			i := slices.Index(w.network.loss, e.Share)
			w.network.loss = slices.Delete(w.network.loss, i, i+1)
		})
	default:
		for i, n := range w.nodes {
			if e.Node < 0 || e.Node == i {
				n.suffer(e)
			}
		}
	}
}

// suffer is a fault of one node.
func (n *node) suffer(e Event) {
	during := func(counter *int) {
		*counter++
		n.w.clock.after(e.For, func() { *counter-- })
	}
	back := func(do func()) {
		run := n.run
		n.w.clock.after(e.For, func() {
			if n.run == run {
				do()
			}
		})
	}
	pick := func() *pod {
		if running := n.pods.running(); n.machine && len(running) > 0 {
			return running[n.r.IntN(len(running))]
		}
		return nil
	}
	switch e.Kind {
	case Restart, Forget:
		if n.agent {
			n.down()
			back(n.up)
		}
		if e.Kind == Forget && !n.agent {
			n.forget()
		}
	case Crash:
		if n.agent {
			n.crash = e.Count
			n.w.clock.after(e.For, func() {
				n.crash = -1
				n.up()
			})
		}
	case Planned:
		if n.agent {
			n.leave(e.For)
			n.inAgent(100*time.Millisecond, func() {
				n.down()
				back(n.up)
			})
		}
	case PowerOff, NewDisk:
		was := n.machine
		if was || e.For < 0 { // one that is off already does not come back
			n.off()
		}
		if e.Kind == NewDisk {
			n.wipe()
		}
		if was && e.For >= 0 {
			back(n.on)
		}
	case PodFails:
		if p := pick(); p != nil {
			n.pods.fail(p)
		}
	case PodFlaps:
		if p := pick(); p != nil {
			n.pods.flap(p, e.For)
		}
	case SlowPods:
		during(&n.pods.slow)
	case NoImages:
		during(&n.pods.noImages)
	case GitAway:
		during(&n.away)
	case GitSlow:
		during(&n.sluggish)
	case Starve:
		during(&n.w.network.late[n.index])
		n.w.members.starve(n.index, n.w.clock.now+e.For)
	case Refuse:
		n.refuse[e.App] = true
	case Push, GitRewind, Cut, Partition, Loss, Replaced:
		panic("not for a node of a drawn life: " + e.Kind)
	}
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
