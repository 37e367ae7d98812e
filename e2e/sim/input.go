package sim

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/reconcile"
)

// known is what a node keeps of its input from one pass to the next, so that a pass costs what is new.
type known struct {
	begun   bool         // a pass was made: from now on news are enough
	news    map[int]bool // nodes whose documents were replaced, or count no more
	touched bool         // this node's own document may say something new

	accepted map[string]reconcile.Commit // that objects are of
	objects  []reconcile.Object
	nodes    []reconcile.Node
	lookedAt time.Duration // at the gate, for nodes; 0: look again
	frozen   string        // what the gate last said against moving anything

	slots map[types.UID][]reconcile.SlotDecision // as last decided, by workload
}

// nodesEvery is how long what the gate believes is taken for the same, unless the gate says something:
// whether a node was seen lately changes with time alone.
const nodesEvery = 5 * time.Second

// keep takes note of what was decided.
func (k *known) keep(d *reconcile.Decision) {
	for _, uid := range d.Removed {
		delete(k.slots, uid)
	}
	for _, w := range d.Workloads {
		delete(k.slots, w.UID) // it may have no slots any more
	}
	for i := 0; i < len(d.Slots); {
		from, uid := i, d.Slots[i].Slot.Workload
		for i < len(d.Slots) && d.Slots[i].Slot.Workload == uid {
			i++
		}
		k.slots[uid] = d.Slots[from:i]
	}
}

// plan is a digest of where everything runs, as the node sees it.
func (n *node) plan() string {
	h := sha256.New()
	for _, uid := range sortedKeys(n.known.slots) {
		for _, s := range n.known.slots[uid] {
			fmt.Fprintln(h, s.Slot, s.Node, s.Pod, s.Revision)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:6])
}

func (n *node) input() reconcile.Input {
	k := &n.known
	in := reconcile.Input{
		Self: n.name, Boot: n.boot, Now: n.watch.read(n.w.clock.now), Apps: n.w.life.apps(), Accepted: n.accepted,
		Objects: n.objects(), Nodes: n.enrolled(), Frozen: n.frozen(), Documents: []reconcile.Document{n.document}, Partial: k.begun,
		Pods: make([]*corev1.Pod, 0, len(n.pods.pods)), Answers: n.answers,
	}
	n.answers = nil
	if !k.begun {
		for i := range n.docs {
			k.news[i] = true
		}
	}
	for _, i := range sortedKeys(k.news) {
		if d := n.docs[i]; d != nil {
			in.Documents = append(in.Documents, *d)
		} else if i != n.index {
			in.Without = append(in.Without, n.w.nodes[i].name)
		}
	}
	clear(k.news)
	k.begun = true
	for _, p := range n.pods.sorted() {
		in.Pods = append(in.Pods, p.spec)
		if p.found {
			in.Found = append(in.Found, p.instance.UID)
		}
	}
	if n.w.bend != nil {
		n.w.bend(&in)
	}
	return in
}

// objects are those of the accepted commits, the same slice until another is accepted.
func (n *node) objects() []reconcile.Object {
	k := &n.known
	same := len(k.accepted) == len(n.accepted)
	for app, c := range n.accepted {
		same = same && k.accepted[app] == c
	}
	if same {
		return k.objects
	}
	k.accepted, k.objects = n.accepted, nil
	for _, app := range n.w.life.apps() {
		if c, ok := n.accepted[app]; ok {
			k.objects = append(k.objects, n.w.history.at(c.Level).Objects[app]...)
		}
	}
	return k.objects
}

// enrolled are the nodes as this one believes them to be.
func (n *node) enrolled() []reconcile.Node {
	k := &n.known
	if k.lookedAt == 0 || n.w.clock.now-k.lookedAt >= nodesEvery {
		at := n.w.history.at(n.accepted[clusterUnit].Level)
		k.nodes, k.lookedAt = make([]reconcile.Node, 0, len(at.Machines)), n.w.clock.now
		for _, m := range at.Machines {
			v := n.believes(n.w.byName[m.Name].index)
			k.nodes = append(k.nodes, reconcile.Node{Node: m, Gone: v.Gone, Failed: v.Failed, Stable: v.Stable})
		}
	}
	return k.nodes
}
