package placement

import (
	"cmp"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// The resources that every node has, as indexes of a planner's vectors; extended ones follow.
const (
	cpu = iota
	memory
	ephemeral
	pods
	extended
)

// shareSteps is the resolution in which loads are compared: nodes whose share differs by less than
// a step are alike, and rendezvous order decides, so that a small change of load moves little.
const shareSteps = 32

// planner is one run of Plan. Nodes and slots go by their index in name and key order.
type planner struct {
	nodes  []Node
	byName map[string]int32
	hashes []uint64 // of the nodes' names
	names  []corev1.ResourceName
	alloc  []int64 // node × resource
	free   []int64 // node × resource
	total  []int64

	slots   []Slot
	hash    []uint64 // of the slots' keys
	class   []*class
	shape   []*shape
	node    []int32 // of each slot, -1 when none
	kept    []bool
	ranked  []int32 // choices per slot, -1 filled
	classes map[string]*class
	shapes  map[string]*shape
	best    finder
}

// class is a set of slots with equal constraints: the filters run once for all of them.
type class struct {
	id       int
	matcher  matcher
	reasons  []string // per node; "" where feasible
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
	nodes  []int32
	hashes []uint64
}

// shape is a set of slots with equal requests.
type shape struct {
	id   int
	need []int64
	size uint64 // dominant share of the whole flock, as a fraction of 2^32
	// full holds the classes in which no node has room left. Room only shrinks while slots are
	// placed, so this stays true.
	full map[int]bool
}

func newPlanner(in Input) *planner {
	p := &planner{
		nodes:   slices.SortedFunc(slices.Values(in.Nodes), func(a, b Node) int { return cmp.Compare(a.Name, b.Name) }),
		slots:   make([]Slot, len(in.Slots)),
		byName:  make(map[string]int32, len(in.Nodes)),
		classes: map[string]*class{},
		shapes:  map[string]*shape{},
	}
	byKey := make([]int32, len(in.Slots))
	for i := range byKey {
		byKey[i] = int32(i)
	}
	slices.SortFunc(byKey, func(a, b int32) int { return cmp.Compare(in.Slots[a].Key, in.Slots[b].Key) })
	for i, at := range byKey {
		p.slots[i] = in.Slots[at]
	}
	p.names = resourceNames(in)
	width := len(p.names)
	p.alloc = make([]int64, 0, len(p.nodes)*width)
	p.total = make([]int64, width)
	for i, n := range p.nodes {
		p.byName[n.Name] = int32(i)
		p.hashes = append(p.hashes, hashName(n.Name))
		v := p.vector(n.Allocatable)
		p.alloc = append(p.alloc, v...)
		for r := range v {
			p.total[r] += v[r]
		}
	}
	p.free = slices.Clone(p.alloc)
	for _, h := range in.Held {
		if n, ok := p.byName[h.Node]; ok {
			p.take(n, p.vector(h.Requests))
		}
	}
	p.classify()
	return p
}

// resourceNames lists the resources that anybody asks for.
func resourceNames(in Input) []corev1.ResourceName {
	more := map[corev1.ResourceName]bool{}
	for _, s := range in.Slots {
		for name := range s.Requests.Extended {
			more[name] = true
		}
	}
	base := []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourcePods}
	return append(base, slices.Sorted(maps.Keys(more))...)
}

func (p *planner) vector(r Resources) []int64 {
	v := make([]int64, len(p.names))
	v[cpu], v[memory], v[ephemeral], v[pods] = r.MilliCPU, r.Memory, r.EphemeralStorage, r.Pods
	for i := extended; i < len(v); i++ {
		v[i] = r.Extended[p.names[i]]
	}
	return v
}

// classify finds the class and the shape of every slot.
func (p *planner) classify() {
	n := len(p.slots)
	p.hash, p.class, p.shape = make([]uint64, n), make([]*class, n), make([]*shape, n)
	p.node, p.kept, p.ranked = make([]int32, n), make([]bool, n), make([]int32, n*choices)
	known := map[*Constraints]*class{}
	var key []byte
	for i := range p.slots {
		s := &p.slots[i]
		p.hash[i], p.node[i] = hashName(s.Key), -1
		c, ok := known[s.Constraints]
		if !ok {
			c = p.classOf(s.Constraints)
			known[s.Constraints] = c
		}
		p.class[i] = c
		r := s.Requests
		key = key[:0]
		for _, v := range [...]int64{r.MilliCPU, r.Memory, r.EphemeralStorage, r.Pods} {
			key = append(strconv.AppendInt(key, v, 36), ' ')
		}
		for _, name := range p.names[extended:] {
			key = append(strconv.AppendInt(key, r.Extended[name], 36), ' ')
		}
		sh, ok := p.shapes[string(key)]
		if !ok {
			sh = p.shapeOf(r)
			p.shapes[string(key)] = sh
		}
		p.shape[i] = sh
	}
	for i := range p.ranked {
		p.ranked[i] = -1
	}
}

func (p *planner) shapeOf(r Resources) *shape {
	sh := &shape{id: len(p.shapes), need: p.vector(r), full: map[int]bool{}}
	for i, need := range sh.need {
		if need > 0 {
			sh.size = max(sh.size, fraction(need, p.total[i]))
		}
	}
	return sh
}

// fraction returns 2^32 × a/b, at most 2^32.
func fraction(a, b int64) uint64 {
	if a >= b {
		return 1 << 32
	}
	hi, lo := bits.Mul64(uint64(a), 1<<32)
	q, _ := bits.Div64(hi, lo, uint64(b))
	return q
}

func (p *planner) classOf(cs *Constraints) *class {
	key := cs.fingerprint()
	if c, ok := p.classes[key]; ok {
		return c
	}
	c := &class{id: len(p.classes), matcher: newMatcher(cs), reasons: make([]string, len(p.nodes))}
	p.classes[key] = c
	scores := make([][2]int64, len(p.nodes))
	var top [2]int64
	for i := range p.nodes {
		n := &p.nodes[i]
		a := affinityNode(n)
		if c.reasons[i] = c.matcher.admits(n, a); c.reasons[i] != "" {
			continue
		}
		c.feasible++
		scores[i][0], scores[i][1] = c.matcher.scores(n, a)
		top[0], top[1] = max(top[0], scores[i][0]), max(top[1], scores[i][1])
	}
	for i := range p.nodes {
		if c.reasons[i] == "" {
			c.add(p, int32(i), preference(scores[i], top))
		}
	}
	slices.SortFunc(c.tiers, func(a, b tier) int { return cmp.Compare(b.score, a.score) })
	for _, t := range c.tiers {
		slices.SortFunc(t.groups, func(a, b group) int { return cmp.Compare(a.weight, b.weight) })
	}
	return c
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

func (c *class) add(p *planner, n int32, score int64) {
	t := slices.IndexFunc(c.tiers, func(t tier) bool { return t.score == score })
	if t < 0 {
		t = len(c.tiers)
		c.tiers = append(c.tiers, tier{score: score})
	}
	w := quantise(cmp.Or(p.nodes[n].Weight, p.nodes[n].Allocatable.MilliCPU))
	groups := &c.tiers[t].groups
	g := slices.IndexFunc(*groups, func(g group) bool { return g.weight == w })
	if g < 0 {
		g = len(*groups)
		*groups = append(*groups, group{weight: w})
	}
	(*groups)[g].nodes = append((*groups)[g].nodes, n)
	(*groups)[g].hashes = append((*groups)[g].hashes, p.hashes[n])
}

// keep gives settled slots the nodes that run them, whether or not the sum still fits: the room
// is taken already.
func (p *planner) keep() {
	for i := range p.slots {
		if s := &p.slots[i]; s.Claimed && s.Wave == 0 {
			if n, ok := p.runs(i); ok {
				p.node[i], p.kept[i] = n, true
				p.take(n, p.shape[i].need)
			}
		}
	}
}

// pin puts claimed slots of the waves back on the nodes that run them.
func (p *planner) pin() {
	for i := range p.slots {
		if s := &p.slots[i]; s.Claimed && s.Wave != 0 {
			if n, ok := p.runs(i); ok {
				p.node[i], p.kept[i] = n, true
			}
		}
	}
}

// runs returns the node that runs a claimed slot, if it may go on there.
func (p *planner) runs(i int) (int32, bool) {
	s := &p.slots[i]
	n, ok := p.byName[s.Incumbent]
	if !ok || s.Node != "" && s.Node != s.Incumbent {
		return -1, false
	}
	return n, p.class[i].matcher.c.Keeps(&p.nodes[n])
}

// order lists the slots to place: by wave, priority, fewest feasible nodes, size, and hash.
func (p *planner) order() []int {
	type entry struct {
		slot, wave, feasible int
		priority             int32
		size, hash           uint64
	}
	var list []entry
	for i := range p.slots {
		if p.node[i] >= 0 {
			continue
		}
		s := &p.slots[i]
		e := entry{slot: i, wave: s.Wave, feasible: p.class[i].feasible, priority: s.Priority, size: p.shape[i].size, hash: p.hash[i]}
		if s.Node != "" {
			e.feasible = 1
		}
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b entry) int {
		return cmp.Or(
			cmp.Compare(a.wave, b.wave),
			cmp.Compare(b.priority, a.priority),
			cmp.Compare(a.feasible, b.feasible),
			cmp.Compare(b.size, a.size),
			cmp.Compare(a.hash, b.hash),
			cmp.Compare(a.slot, b.slot),
		)
	})
	out := make([]int, len(list))
	for i, e := range list {
		out[i] = e.slot
	}
	return out
}

// place finds a node for one slot and takes its room.
func (p *planner) place(i int) {
	s, c, sh := &p.slots[i], p.class[i], p.shape[i]
	ranked := p.ranked[i*choices : (i+1)*choices]
	if s.Node != "" {
		if n, ok := p.byName[s.Node]; ok && c.reasons[n] == "" && p.fits(n, sh.need) {
			ranked[0] = n
		}
	} else if !sh.full[c.id] {
		found := p.best.find(p, c, sh.need, p.hash[i], ranked)
		if !found {
			sh.full[c.id] = true
		}
		if n, ok := p.byName[s.Incumbent]; ok && found && !s.Claimed && c.reasons[n] == "" && p.fits(n, sh.need) {
			first(ranked, n)
		}
	}
	if ranked[0] >= 0 {
		p.node[i] = ranked[0]
		p.take(ranked[0], sh.need)
	}
}

// first moves n to the front of the ranking; what falls off its end is forgotten.
func first(ranked []int32, n int32) {
	at := slices.Index(ranked, n)
	if at < 0 {
		at = len(ranked) - 1
	}
	copy(ranked[1:at+1], ranked[:at])
	ranked[0] = n
}

func (p *planner) fits(n int32, need []int64) bool {
	free := p.free[int(n)*len(need):][:len(need)]
	for r, v := range need {
		if v > 0 && v > free[r] {
			return false
		}
	}
	return true
}

func (p *planner) take(n int32, need []int64) {
	free := p.free[int(n)*len(need):][:len(need)]
	for r, v := range need {
		free[r] -= v
	}
}

// share is the node's dominant share in steps once need is placed there.
func (p *planner) share(n int32, need []int64) int64 {
	at := int(n) * len(need)
	var top int64
	for r, v := range need {
		if alloc := p.alloc[at+r]; alloc > 0 && (r < extended || v > 0) {
			top = max(top, (alloc-p.free[at+r]+v)*shareSteps/alloc)
		}
	}
	return top
}

func (p *planner) result() Result {
	out := make([]Assignment, len(p.slots))
	names := make([]string, 0, len(p.slots))
	why := map[[3]int]string{}
	for i := range p.slots {
		a := Assignment{Key: p.slots[i].Key, Kept: p.kept[i]}
		start := len(names)
		switch n := p.node[i]; {
		case n < 0:
			at := [3]int{p.class[i].id, p.shape[i].id, -1}
			if s := p.slots[i].Node; s != "" {
				at[2] = len(p.nodes)
				if n, ok := p.byName[s]; ok {
					at[2] = int(n)
				}
			}
			reason, ok := why[at]
			if !ok {
				reason = p.explain(p.class[i], p.shape[i], at[2])
				why[at] = reason
			}
			a.Reason = reason
		case p.kept[i]:
			a.Node = p.nodes[n].Name
			names = append(names, a.Node)
		default:
			a.Node = p.nodes[n].Name
			for _, c := range p.ranked[i*choices : (i+1)*choices] {
				if c >= 0 {
					names = append(names, p.nodes[c].Name)
				}
			}
		}
		if len(names) > start {
			a.Candidates = names[start:len(names):len(names)]
		}
		out[i] = a
	}
	return Result{Assignments: out}
}

// explain counts, as the scheduler's FitError does, why the nodes cannot take a slot; only is the
// one node in question, or -1 for all.
func (p *planner) explain(c *class, sh *shape, only int) string {
	counts := map[string]int{}
	nodes := 0
	for i := range p.nodes {
		if only >= 0 && i != only {
			continue
		}
		nodes++
		if c.reasons[i] != "" {
			counts[c.reasons[i]]++
			continue
		}
		for r, need := range sh.need {
			if need <= 0 || need <= p.free[i*len(sh.need)+r] {
				continue
			}
			if r == pods {
				counts["Too many pods"]++
			} else {
				counts["Insufficient "+string(p.names[r])]++
			}
		}
	}
	if nodes == 0 {
		return "no nodes available to schedule pods"
	}
	lines := make([]string, 0, len(counts))
	for reason, n := range counts {
		lines = append(lines, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(lines)
	return fmt.Sprintf("0/%d nodes are available: %s.", nodes, strings.Join(lines, ", "))
}
