package placement

import (
	"cmp"
	"slices"
)

// class is a set of slots with equal rules about nodes: those filters run once for all of them.
type class struct {
	id       int
	matcher  matcher
	reasons  []string   // per node; "" where feasible
	scores   [][2]int64 // per node: preferred, avoided
	top      [2]int64   // of the feasible nodes
	feasible int
	tiers    []tier // most preferred first
}

// tier holds feasible nodes that are preferred alike, in groups of equal weight.
type tier struct {
	score  int64
	groups []group
}

type group struct {
	weight int64
	nodes  []int32 // ascending
	hashes []uint64
}

func (p *Planner) classOf(cs *Constraints) *class {
	key := cs.nodeRules()
	if c, ok := p.classes[key]; ok {
		return c
	}
	c := &class{id: len(p.classes), matcher: newMatcher(cs), reasons: make([]string, len(p.nodes)), scores: make([][2]int64, len(p.nodes))}
	p.classes[key] = c
	for i := range p.nodes {
		c.check(p, int32(i))
	}
	c.build(p)
	return c
}

// check runs the filters and scores of one node.
func (c *class) check(p *Planner, n int32) {
	node := &p.nodes[n]
	a := affinityNode(node)
	c.scores[n] = [2]int64{}
	if c.reasons[n] = c.matcher.admits(node, a); c.reasons[n] == "" {
		c.scores[n][0], c.scores[n][1] = c.matcher.scores(node, a)
	}
}

// build sorts the feasible nodes into tiers.
func (c *class) build(p *Planner) {
	c.top, c.feasible, c.tiers = c.highest(), 0, nil
	for i, reason := range c.reasons {
		if reason == "" {
			c.add(p, int32(i))
		}
	}
}

func (c *class) highest() (top [2]int64) {
	for _, s := range c.scores {
		top[0], top[1] = max(top[0], s[0]), max(top[1], s[1])
	}
	return top
}

// update checks a node that has changed; before it, remove has taken the node out.
func (c *class) update(p *Planner, n int32) {
	c.check(p, n)
	switch {
	case c.highest() != c.top: // all scores are scaled by it
		c.build(p)
	case c.reasons[n] == "":
		c.add(p, n)
	}
}

// preference adds the scheduler's scores of node affinity (weight 2) and of taints to avoid
// (weight 3), each scaled to 100 over the feasible nodes.
func preference(score, top [2]int64) int64 {
	total := int64(3 * 100)
	if top[0] > 0 {
		total += 2 * (100 * score[0] / top[0])
	}
	if top[1] > 0 {
		total -= 3 * (100 * score[1] / top[1])
	}
	return total
}

func (p *Planner) weight(n int32) int64 {
	return quantise(cmp.Or(p.nodes[n].Weight, p.nodes[n].Allocatable.MilliCPU))
}

// find returns where a feasible node stands, or is to stand.
func (c *class) find(p *Planner, n int32) (score, weight int64, t int, found bool) {
	score, weight = preference(c.scores[n], c.top), p.weight(n)
	t, found = slices.BinarySearchFunc(c.tiers, score, func(t tier, s int64) int { return cmp.Compare(s, t.score) })
	return score, weight, t, found
}

func (c *class) add(p *Planner, n int32) {
	c.feasible++
	score, weight, t, found := c.find(p, n)
	if !found {
		c.tiers = slices.Insert(c.tiers, t, tier{score: score})
	}
	groups := &c.tiers[t].groups
	g, found := slices.BinarySearchFunc(*groups, weight, func(g group, w int64) int { return cmp.Compare(g.weight, w) })
	if !found {
		*groups = slices.Insert(*groups, g, group{weight: weight})
	}
	at := &(*groups)[g]
	i, _ := slices.BinarySearch(at.nodes, n)
	at.nodes, at.hashes = slices.Insert(at.nodes, i, n), slices.Insert(at.hashes, i, p.hashes[n])
}

// remove takes a node out that is about to change.
func (c *class) remove(p *Planner, n int32) {
	if c.reasons[n] != "" {
		return
	}
	c.feasible--
	_, weight, t, _ := c.find(p, n)
	groups := &c.tiers[t].groups
	g := slices.IndexFunc(*groups, func(g group) bool { return g.weight == weight })
	at := &(*groups)[g]
	i, _ := slices.BinarySearch(at.nodes, n)
	at.nodes, at.hashes = slices.Delete(at.nodes, i, i+1), slices.Delete(at.hashes, i, i+1)
	if len(at.nodes) > 0 {
		return
	}
	if *groups = slices.Delete(*groups, g, g+1); len(*groups) == 0 {
		c.tiers = slices.Delete(c.tiers, t, t+1)
	}
}
