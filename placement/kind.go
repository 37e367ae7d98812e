package placement

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// kind is a set of slots with equal constraints: what their pods count as, and what their rules read.
type kind struct {
	id    int
	c     *Constraints
	class *class
	slots int             // and held pods
	dead  bool            // had some, and has none any more
	at    map[int32]int32 // pods by node, as far as they are settled or planned
	going map[int32]int32 // those of them that are leaving

	counted []*counter // that count this kind's pods

	near    []*counter // of required affinity, one per term
	selfish bool       // near selects this kind's own pods
	apart   []*counter // of required anti-affinity
	shunned []*counter // whose pods' anti-affinity selects this kind
	spread  []spreading
	soft    []spreading
	drawn   []drawn // preferred terms, of this kind's and of others about it
}

// spreading is a topology spread constraint.
type spreading struct {
	count      *counter
	label      *topology // of all nodes
	skew       int32
	minDomains int32
	self       int32 // 1 when the pod itself is counted
}

// factor makes counts in topologies of many domains weigh more, by the logarithm of their number, in
// fractions of 2^16.
func (s *spreading) factor() int64 {
	return int64((log2(uint64(s.count.space.live+2)) >> 16 * ln2) >> 32)
}

type drawn struct {
	count  *counter
	weight int64
}

// ruled reports whether other pods matter for where this kind may go.
func (k *kind) ruled() bool {
	return len(k.near)+len(k.apart)+len(k.shunned)+len(k.spread)+len(k.c.HostPorts) > 0
}

// scored reports whether other pods matter for which nodes it prefers.
func (k *kind) scored() bool { return len(k.soft)+len(k.drawn) > 0 }

// reader is a kind that reads a counter of owners if the query selects it.
type reader struct {
	query *query
	count *counter
	join  func(k *kind, c *counter)
}

// kindOf returns the kind of the constraints.
func (p *Planner) kindOf(c *Constraints) *kind {
	if c == nil {
		c = &none
	}
	if k, ok := p.byPointer[c]; ok {
		return k
	}
	id := text(c)
	k, ok := p.kinds[id]
	if !ok {
		k = &kind{id: p.serial, c: c, class: p.classOf(c), at: map[int32]int32{}, going: map[int32]int32{}}
		p.serial++
		p.kinds[id] = k
		p.readRules(k)
		p.joinOthers(k)
	}
	p.byPointer[c] = k
	return k
}

var none Constraints

// readRules makes the counters that the kind's own rules read.
func (p *Planner) readRules(k *kind) {
	if a := k.c.Affinity; a != nil {
		if list := a.RequiredDuringSchedulingIgnoredDuringExecution; len(list) > 0 {
			q := newQuery(k.c, list...)
			for _, t := range list {
				k.near = append(k.near, p.count(q, p.topology(t.TopologyKey), false))
			}
			k.selfish = q.matches(p, k.c)
		}
		p.readPreferred(k, a.PreferredDuringSchedulingIgnoredDuringExecution, 1)
	}
	if a := k.c.AntiAffinity; a != nil {
		for _, t := range a.RequiredDuringSchedulingIgnoredDuringExecution {
			q, space := newQuery(k.c, t), p.topology(t.TopologyKey)
			k.apart = append(k.apart, p.count(q, space, false))
			p.own(k, q, space, text(t.TopologyKey), func(other *kind, c *counter) { other.shunned = append(other.shunned, c) })
		}
		p.readPreferred(k, a.PreferredDuringSchedulingIgnoredDuringExecution, -1)
	}
	for _, when := range []corev1.UnsatisfiableConstraintAction{corev1.DoNotSchedule, corev1.ScheduleAnyway} {
		p.readSpread(k, when)
	}
}

func (p *Planner) readPreferred(k *kind, list []corev1.WeightedPodAffinityTerm, sign int64) {
	for _, t := range list {
		q, space, weight := newQuery(k.c, t.PodAffinityTerm), p.topology(t.PodAffinityTerm.TopologyKey), sign*int64(t.Weight)
		k.drawn = append(k.drawn, drawn{p.count(q, space, false), weight})
		p.own(k, q, space, text(t.PodAffinityTerm.TopologyKey, weight), func(other *kind, c *counter) {
			other.drawn = append(other.drawn, drawn{c, weight})
		})
	}
}

func (p *Planner) readSpread(k *kind, when corev1.UnsatisfiableConstraintAction) {
	var keys []string
	for _, s := range k.c.Spread {
		if s.WhenUnsatisfiable == when {
			keys = append(keys, s.TopologyKey)
		}
	}
	for i := range k.c.Spread {
		s := &k.c.Spread[i]
		if s.WhenUnsatisfiable != when {
			continue
		}
		t := &topology{
			keys:     slices.Concat([]string{s.TopologyKey}, keys),
			affinity: s.NodeAffinityPolicy == nil || *s.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor,
			taints:   s.NodeTaintsPolicy != nil && *s.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor,
			matcher:  k.class.matcher,
		}
		id := []any{t.keys, t.affinity, t.taints}
		if t.affinity {
			id = append(id, k.c.NodeSelector, k.c.Required)
		}
		if t.taints {
			id = append(id, k.c.Tolerations)
		}
		q := spreadQuery(k.c, s)
		r := spreading{
			count: p.count(q, p.topologyOf(text(id...), t), true), label: p.topology(s.TopologyKey),
			skew: s.MaxSkew, minDomains: 1,
		}
		if s.MinDomains != nil {
			r.minDomains = *s.MinDomains
		}
		if q.matches(p, k.c) {
			r.self = 1
		}
		if when == corev1.DoNotSchedule {
			k.spread = append(k.spread, r)
		} else {
			k.soft = append(k.soft, r)
		}
	}
}

// counting is a query and a counter of the pods that it selects.
type counting struct {
	query *query
	count *counter
}

// count returns the counter of the pods of a query by domain, and lets all known kinds join it.
func (p *Planner) count(q *query, space *topology, spreads bool) *counter {
	id := text(q.id, spreads) + space.id
	if c, ok := p.counters[id]; ok {
		return c
	}
	c := &counter{space: space, n: map[int32]int32{}, spreads: spreads}
	p.counters[id] = c
	if spreads && q.terms[0].selector.Empty() {
		return c // as the scheduler has it, an empty selector counts no pods
	}
	pair := q.pair()
	p.countings[pair] = append(p.countings[pair], counting{q, c})
	for _, k := range p.byLabel[pair] {
		if q.matches(p, k.c) {
			k.join(c)
		}
	}
	return c
}

// own counts the kind's pods as owners of a rule, which the kinds that the rule selects read.
func (p *Planner) own(k *kind, q *query, space *topology, id string, join func(*kind, *counter)) {
	id = "own" + q.id + id
	c, ok := p.counters[id]
	if !ok {
		c = &counter{space: space, n: map[int32]int32{}}
		p.counters[id] = c
		pair := q.pair()
		p.readers[pair] = append(p.readers[pair], reader{q, c, join})
		for _, other := range p.byLabel[pair] {
			if q.matches(p, other.c) {
				join(other, c)
			}
		}
	}
	k.join(c)
}

// joinOthers lets the counters and rules of other kinds, and its own, select a new kind.
func (p *Planner) joinOthers(k *kind) {
	pairs := []string{""}
	for name, v := range k.c.Labels {
		pairs = append(pairs, name+"="+v)
	}
	slices.Sort(pairs)
	for _, pair := range pairs {
		for _, c := range p.countings[pair] {
			if c.query.matches(p, k.c) {
				k.join(c.count)
			}
		}
		for _, r := range p.readers[pair] {
			if r.query.matches(p, k.c) {
				r.join(k, r.count)
			}
		}
		p.byLabel[pair] = append(p.byLabel[pair], k)
	}
}

// join adds the kind's pods to a counter.
func (k *kind) join(c *counter) {
	if slices.Contains(k.counted, c) {
		return
	}
	k.counted = append(k.counted, c)
	for n, pods := range k.at {
		if c.spreads {
			pods -= k.going[n]
		}
		c.add(n, pods)
	}
}

// What the scheduler says of nodes that other pods keep a pod from.
const (
	reasonPorts        = "node(s) didn't have free ports for the requested pod ports"
	reasonSpread       = "node(s) didn't match pod topology spread constraints"
	reasonSpreadLabel  = reasonSpread + " (missing required label)"
	reasonAffinity     = "node(s) didn't match pod affinity rules"
	reasonAntiAffinity = "node(s) didn't match pod anti-affinity rules"
	reasonShunned      = "node(s) didn't satisfy existing pods anti-affinity rules"
)

// blocked says why other pods keep a pod of the kind from a node; "" when they do not. The filters
// are the scheduler's, in its order, host ports aside, which come before resources.
func (k *kind) blocked(n int32) string {
	for i := range k.spread {
		s := &k.spread[i]
		if s.label.domain[n] < 0 {
			return reasonSpreadLabel
		}
		var lowest int32
		if s.count.space.live >= int(s.minDomains) {
			lowest = s.count.lowest()
		}
		if s.count.at(n)+s.self-lowest > s.skew {
			return reasonSpread
		}
	}
	if !k.nearby(n) {
		return reasonAffinity
	}
	for _, c := range k.apart {
		if c.at(n) > 0 {
			return reasonAntiAffinity
		}
	}
	for _, c := range k.shunned {
		if c.at(n) > 0 {
			return reasonShunned
		}
	}
	return ""
}

// nearby checks required affinity. The first pod of a set that wants to be together may go anywhere
// with the labels.
func (k *kind) nearby(n int32) bool {
	missing, total := false, 0
	for _, c := range k.near {
		if c.space.domain[n] < 0 {
			return false
		}
		missing = missing || c.at(n) == 0
		total += c.total
	}
	return !missing || total == 0 && k.selfish
}

// portsFree reports whether the node's ports that a pod of the kind opens are free.
func (p *Planner) portsFree(k *kind, n int32) bool {
	for _, h := range k.c.HostPorts {
		if slices.ContainsFunc(p.ports[n], h.conflicts) {
			return false
		}
	}
	return true
}

// attraction is the scheduler's raw score of preferred affinity.
func (k *kind) attraction(n int32) int64 {
	var sum int64
	for _, d := range k.drawn {
		sum += d.weight * int64(d.count.at(n))
	}
	return sum
}

// crowd is the scheduler's raw score of soft spreading, in fractions of 2^16, fewer is better; false
// for nodes that lack a label. Counts in topologies of many domains weigh more, by the logarithm of
// their number.
func (k *kind) crowd(n int32) (int64, bool) {
	var sum int64
	for i := range k.soft {
		s := &k.soft[i]
		if s.label.domain[n] < 0 {
			return 0, false
		}
		sum += int64(s.count.at(n))*s.factor() + int64(s.skew-1)<<16
	}
	return sum, true
}
