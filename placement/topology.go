package placement

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// topology divides nodes into domains: those with the same value of a label.
type topology struct {
	id   string
	keys []string // the first divides; nodes that lack one of the others are left out
	// nodes of spreading rules are further restricted by the rule's inclusion policies.
	affinity, taints bool
	matcher          matcher

	domain []int32          // of each node; -1 for none
	ids    map[string]int32 // of label values
	nodes  []int32          // per domain
	live   int              // domains that have nodes
}

// topology returns the domains of a label. Those of equal content are shared.
func (p *Planner) topology(key string) *topology {
	return p.topologyOf(text(key), &topology{keys: []string{key}})
}

func (p *Planner) topologyOf(id string, t *topology) *topology {
	if known, ok := p.topologies[id]; ok {
		return known
	}
	t.id, t.ids, t.domain = id, map[string]int32{}, make([]int32, len(p.nodes))
	for n := range p.nodes {
		t.enter(int32(n), &p.nodes[n])
	}
	p.topologies[id] = t
	return t
}

// enter adds a node, unless its labels or the policies leave it out. A gone node has no domain: what
// is held for dead must not block the others' spreading.
func (t *topology) enter(n int32, node *Node) {
	t.domain[n] = -1
	if node.Gone {
		return
	}
	for _, k := range t.keys {
		if _, ok := node.Labels[k]; !ok {
			return
		}
	}
	if t.affinity {
		if ok, err := t.matcher.required.Match(affinityNode(node)); err != nil || !ok {
			return
		}
	}
	if t.taints {
		if _, bad := t.matcher.c.untolerated(node.Taints, corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute); bad || node.Unschedulable && !t.matcher.c.tolerates(cordon) {
			return
		}
	}
	value := node.Labels[t.keys[0]]
	d, ok := t.ids[value]
	if !ok {
		d = int32(len(t.nodes))
		t.ids[value], t.nodes = d, append(t.nodes, 0)
	}
	t.domain[n] = d
	if t.nodes[d]++; t.nodes[d] == 1 {
		t.live++
	}
}

// leave takes a node out; nothing may be counted there.
func (t *topology) leave(n int32) {
	if d := t.domain[n]; d >= 0 {
		if t.nodes[d]--; t.nodes[d] == 0 {
			t.live--
		}
		t.domain[n] = -1
	}
}

// counter counts pods by domain.
type counter struct {
	space *topology
	n     map[int32]int32 // by domain, without zeros
	total int
	// spreads says that the counter serves a spreading rule: terminating pods do not count, and the
	// lowest count of all domains is kept at hand.
	spreads bool
	with    []int32 // number of domains with each count, 0 aside
	low     int32   // no domain has a lower count, those with 0 aside
}

func (c *counter) at(n int32) int32 {
	if d := c.space.domain[n]; d >= 0 {
		return c.n[d]
	}
	return 0
}

// add counts by more pods on a node, or fewer.
func (c *counter) add(n, by int32) {
	d := c.space.domain[n]
	if d < 0 || by == 0 {
		return
	}
	before := c.n[d]
	after := before + by
	c.total += int(by)
	if after == 0 {
		delete(c.n, d)
	} else {
		c.n[d] = after
	}
	if !c.spreads {
		return
	}
	if grow := int(max(before, after)) + 1 - len(c.with); grow > 0 {
		c.with = append(c.with, slices.Repeat([]int32{0}, grow)...)
	}
	if before > 0 {
		c.with[before]--
	}
	if after > 0 {
		c.with[after]++
		c.low = min(c.low, after)
	}
}

// lowest is the count of the domain that has the fewest.
func (c *counter) lowest() int32 {
	if len(c.n) < c.space.live || len(c.n) == 0 {
		return 0
	}
	for c.low = max(c.low, 1); c.with[c.low] == 0; c.low++ {
	}
	return c.low
}
