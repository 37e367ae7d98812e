package sim

import (
	"cmp"
	"slices"
	"time"

	"github.com/pleachdev/pleach/gossip"
)

// The rules of membership, as every node keeps them for itself. They stand in for the gate that holds a
// node for gone; what is decided from it is reconcile's.
const (
	failedAfter = 5 * time.Second // of silence
	holdDown    = 3 * time.Second // after that, doubled with each flap
	flapsCount  = 10 * time.Minute
	refusesFor  = 5 * time.Minute // a host that answers while its agent is down
	stableFor   = 10 * time.Minute
	stormWithin = 30 * time.Second
)

// peer is what a node believes of another.
type peer struct {
	silent time.Duration // since when; 0: it is heard
	gone   bool
	flaps  []time.Duration // when it came back
}

// watchOver looks at all other nodes, once a second.
func (n *node) watchOver() {
	n.inAgent(time.Second, n.watchOver)
	now := n.w.clock.now
	n.stable[n.index] = now
	reachable := gossip.Members{}
	for j := range n.view {
		p := &n.view[j]
		if j == n.index {
			continue
		}
		if n.w.nodes[j].agent && n.w.network.both(n.index, j) {
			reachable.Names = append(reachable.Names, NodeName(j))
		}
		if n.w.heard(n.index, j) {
			if p.silent != 0 && now-p.silent > failedAfter {
				p.flaps = append(p.flaps, now)
			}
			p.silent = 0
			n.stable[j] = now
		} else if p.silent == 0 {
			p.silent = now
		}
	}
	n.tell(reachable)
	for j := range n.view {
		if j != n.index && !n.view[j].gone && n.isGone(j) {
			n.hold(j)
		}
	}
}

// isGone is the gate.
func (n *node) isGone(j int) bool {
	now, p := n.w.clock.now, &n.view[j]
	p.flaps = slices.DeleteFunc(p.flaps, func(t time.Duration) bool { return now-t > flapsCount })
	if p.silent == 0 || now-p.silent < failedAfter+holdDown<<min(len(p.flaps), 6) {
		return false
	}
	if n.w.answers(n.index, j) && now-p.silent < refusesFor {
		return false
	}
	return !n.storm() && n.majority() && n.witnesses(j)
}

// hold takes a node for gone: what it said counts no more until it speaks for itself.
func (n *node) hold(j int) {
	n.view[j].gone = true
	n.tell(gossip.Gone{Node: NodeName(j)})
	n.w.say(n.name, "holds %s for gone", NodeName(j))
	n.poke()
}

// storm reports whether too many vanished at once.
func (n *node) storm() bool {
	members, vanished := 0, 0
	for j := range n.view {
		if !n.counts(j) {
			continue
		}
		members++
		if s := n.view[j].silent; s != 0 && n.w.clock.now-s-failedAfter < stormWithin && n.w.clock.now-s > failedAfter {
			vanished++
		}
	}
	return vanished > max(1, members/5)
}

// majority reports whether more than half of the stable members are in sight; at exactly half, the side
// with the lowest name.
func (n *node) majority() bool {
	members, seen, lowest := 0, 0, -1
	for j := range n.view {
		if !n.counts(j) {
			continue
		}
		members++
		if lowest < 0 {
			lowest = j
		}
		if n.view[j].silent == 0 {
			seen++
			if j == lowest {
				lowest = -2
			}
		}
	}
	return 2*seen > members || 2*seen == members && lowest == -2
}

// witnesses asks the first two others by hash.
func (n *node) witnesses(j int) bool {
	type candidate struct {
		node int
		hash uint64
	}
	var others []candidate
	for k, o := range n.w.nodes {
		if k != j && k != n.index && o.agent && n.w.network.both(n.index, k) {
			others = append(others, candidate{k, dice(uint64(k), NodeName(j)).Uint64()})
		}
	}
	slices.SortFunc(others, func(a, b candidate) int { return cmp.Compare(a.hash, b.hash) })
	for _, o := range others[:min(2, len(others))] {
		if n.w.heard(o.node, j) {
			return false
		}
	}
	return true
}

// counts reports whether a node is a stable member.
func (n *node) counts(j int) bool {
	return j == n.index || n.stable[j] != 0 && n.w.clock.now-n.stable[j] < stableFor
}
