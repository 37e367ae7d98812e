package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// reasonKey tells apart slots with different reasons.
type reasonKey struct {
	kind, shape int
	node        string // the only node that will do
}

// reason counts, as the scheduler's FitError does, why the nodes cannot take a slot.
func (p *Planner) reason(s *place) string {
	key := reasonKey{s.kind.id, s.shape.id, s.Node}
	if why, ok := p.pass.reasons[key]; ok {
		return why
	}
	counts := map[string]int{}
	nodes := 0
	for n := range p.nodes {
		if s.Node != "" && s.Node != p.nodes[n].Name {
			continue
		}
		nodes++
		for _, why := range p.reasonsOn(s, int32(n)) {
			counts[why]++
		}
	}
	why := "no nodes available to schedule pods"
	if nodes > 0 {
		lines := make([]string, 0, len(counts))
		for reason, n := range counts {
			lines = append(lines, fmt.Sprintf("%d %s", n, reason))
		}
		slices.Sort(lines)
		why = fmt.Sprintf("0/%d nodes are available: %s.", nodes, strings.Join(lines, ", "))
	}
	p.pass.reasons[key] = why
	return why
}

// reasonsOn says why a node cannot take a slot: those of the first filter that it fails.
func (p *Planner) reasonsOn(s *place, n int32) (out []string) {
	if why := s.kind.class.reasons[n]; why != "" {
		return []string{why}
	}
	if !p.portsFree(s.kind, n) {
		return []string{reasonPorts}
	}
	for r, need := range s.shape.need {
		switch {
		case need <= 0 || need <= p.free[int(n)*len(s.shape.need)+r]:
		case r == pods:
			out = append(out, "Too many pods")
		default:
			out = append(out, "Insufficient "+string(p.names[r]))
		}
	}
	if why := s.kind.blocked(n); out == nil && why != "" {
		return []string{why}
	}
	return out
}

// Verdict is what a plan finds of one node for one slot.
type Verdict struct {
	Node string
	// Reasons are the scheduler's for why the slot may not go there; none when it may.
	Reasons []string
	// Preference is the score of what the slot prefers; the highest goes first, whatever the load.
	Preference int64
	// Share is the part of the node's scarcest resource in use once the slot is there, in 1/32.
	Share int64
	// Cost is the node's place in the slot's rendezvous order, lowest first.
	Cost uint64
}

// Explain weighs all nodes for a slot as if it were the last to be planned, best first: those that
// it may go to by preference and rendezvous order, then the others by name. It tells of the plan
// that Plan has made; nil for a key that is unknown.
func (p *Planner) Explain(key string) []Verdict {
	i, ok := p.byKey[key]
	if !ok {
		return nil
	}
	s := &p.slots[i]
	if at := s.node; at >= 0 {
		p.pull(i)
		defer p.put(i, at)
	}
	var f finder
	if s.kind.scored() {
		other := *s // the ranking stays as it is
		f.findScored(p, &other)
	}
	out := make([]Verdict, len(p.nodes))
	for n := range p.nodes {
		v := &out[n]
		*v = Verdict{Node: p.nodes[n].Name, Reasons: p.reasonsOn(s, int32(n)), Share: p.share(int32(n), s.shape.need)}
		v.Cost = cost(draw(s.hash, mix(s.hash+0x9e3779b97f4a7c15)|1, p.hashes[n]), p.weight(int32(n)))
		if len(v.Reasons) == 0 {
			v.Preference = preference(s.kind.class.scores[n], s.kind.class.top)
		}
	}
	for _, c := range f.scored {
		out[c.node].Preference = c.score
	}
	slices.SortFunc(out, func(a, b Verdict) int {
		return cmp.Or(
			cmp.Compare(min(len(a.Reasons), 1), min(len(b.Reasons), 1)),
			cmp.Compare(b.Preference, a.Preference),
			cmp.Compare(a.Cost*uint64(1-min(len(a.Reasons), 1)), b.Cost*uint64(1-min(len(b.Reasons), 1))),
			cmp.Compare(a.Node, b.Node),
		)
	})
	return out
}
