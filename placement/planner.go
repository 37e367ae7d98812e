package placement

import (
	"cmp"
	"maps"
	"math/bits"
	"slices"

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

// Planner plans again and again. Its plans are those that Plan makes of the same input from nothing,
// at the cost of what has changed and of the slots that are open. It is for one goroutine.
//
// Nodes and slots go by index. What is settled (held room, and slots that go on where they run) is
// counted always; what a plan adds to that is undone before the next.
type Planner struct {
	nodes      []Node // by name at first; never removed
	byName     map[string]int32
	hashes     []uint64 // of the nodes' names
	names      []corev1.ResourceName
	alloc      []int64 // node × resource
	free       []int64 // node × resource
	lent       []int64 // node × resource, of what is taken: it does not count as load
	total      []int64
	ports      [][]HostPort // in use, per node
	on         [][]int32    // slots per node, in no order
	heldOn     [][]*holding // likewise
	namespaces map[string]map[string]string
	version    uint64   // grows with every change of what is planned anywhere
	versions   []uint64 // as of the last change on each node

	slots []place
	byKey map[string]int32
	spare []int32 // indexes of slots that are no more
	open  map[int32]bool
	held  map[string][]*holding // by the name under which it is held

	classes    map[string]*class
	shapes     map[shapeKey]*shape
	kinds      map[string]*kind
	byPointer  map[*Constraints]*kind // of kinds, the last that were looked up
	topologies map[string]*topology
	counters   map[string]*counter
	countings  map[string][]counting // by a label that the selected pods have
	readers    map[string][]reader   // likewise
	byLabel    map[string][]*kind
	serial     int // of kinds
	dead       int // kinds without slots

	pass pass
	best finder
}

// place is a slot and where it is planned.
type place struct {
	Slot
	hash   uint64 // of the key
	kind   *kind
	shape  *shape
	node   int32 // -1 when none
	kept   bool
	ranked [choices]int32 // -1 filled
	waits  bool           // for the room on node, until pods have ended there
	by     int32          // the slot that preempts this one; -1 when none
}

// holding is held room.
type holding struct {
	Held
	node int32 // -1: a node that is not known, where it takes nothing
	kind *kind
	need []int64
}

// shape is a set of slots with equal requests.
type shape struct {
	id   int
	need []int64
	size uint64 // dominant share of the whole flock, as a fraction of 2^32
	// full holds the classes in which no node has had room left, as of a number of the pass. Room
	// only shrinks while the number stays.
	full map[int]int
}

// shapeKey tells shapes apart. Extended is "" for most.
type shapeKey struct {
	cpu, memory, ephemeral, pods int64
	extended                     string
}

// NewPlanner returns a planner of the input. It keeps the input's constraints and labels, which may
// not be changed afterwards.
func NewPlanner(in Input) *Planner {
	p := &Planner{
		nodes:      slices.SortedFunc(slices.Values(in.Nodes), func(a, b Node) int { return cmp.Compare(a.Name, b.Name) }),
		byName:     make(map[string]int32, len(in.Nodes)),
		ports:      make([][]HostPort, len(in.Nodes)),
		on:         make([][]int32, len(in.Nodes)),
		namespaces: in.Namespaces,
		version:    1,
		versions:   make([]uint64, len(in.Nodes)),
		slots:      make([]place, 0, len(in.Slots)),
		byKey:      make(map[string]int32, len(in.Slots)),
		open:       map[int32]bool{},
		held:       map[string][]*holding{},
		heldOn:     make([][]*holding, len(in.Nodes)),
		classes:    map[string]*class{},
		shapes:     map[shapeKey]*shape{},
		kinds:      map[string]*kind{},
		byPointer:  map[*Constraints]*kind{},
		topologies: map[string]*topology{},
		counters:   map[string]*counter{},
		countings:  map[string][]counting{},
		readers:    map[string][]reader{},
		byLabel:    map[string][]*kind{},
	}
	p.names = resourceNames(in.Slots)
	p.total = make([]int64, len(p.names))
	for i, n := range p.nodes {
		p.byName[n.Name] = int32(i)
		p.hashes = append(p.hashes, Hash(n.Name))
		v := p.vector(n.Allocatable)
		p.alloc = append(p.alloc, v...)
		for r := range v {
			p.total[r] += v[r]
		}
	}
	p.free = slices.Clone(p.alloc)
	p.lent = make([]int64, len(p.alloc))
	for i := range in.Slots {
		p.addSlot(in.Slots[i])
	}
	p.hold("", in.Held)
	for i := range p.slots {
		p.settle(int32(i))
	}
	return p
}

// resourceNames lists the resources that anybody asks for.
func resourceNames(slots []Slot) []corev1.ResourceName {
	more := map[corev1.ResourceName]bool{}
	for i := range slots {
		for name := range slots[i].Requests.Extended {
			more[name] = true
		}
	}
	base := []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourcePods}
	return append(base, slices.Sorted(maps.Keys(more))...)
}

func (p *Planner) vector(r Resources) []int64 {
	v := make([]int64, len(p.names))
	v[cpu], v[memory], v[ephemeral], v[pods] = r.MilliCPU, r.Memory, r.EphemeralStorage, r.Pods
	for i := extended; i < len(v); i++ {
		v[i] = r.Extended[p.names[i]]
	}
	return v
}

func (p *Planner) shapeOf(r Resources) *shape {
	key := shapeKey{cpu: r.MilliCPU, memory: r.Memory, ephemeral: r.EphemeralStorage, pods: r.Pods}
	if len(r.Extended) > 0 {
		key.extended = text(r.Extended)
	}
	sh, ok := p.shapes[key]
	if !ok {
		sh = &shape{id: len(p.shapes), need: p.vector(r), full: map[int]int{}}
		sh.measure(p.total)
		p.shapes[key] = sh
	}
	return sh
}

func (sh *shape) measure(total []int64) {
	sh.size = 0
	for i, need := range sh.need {
		if need > 0 {
			sh.size = max(sh.size, fraction(need, total[i]))
		}
	}
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

// addSlot adds a slot, which is open until settle.
func (p *Planner) addSlot(s Slot) int32 {
	x := place{Slot: s, hash: Hash(s.Key), kind: p.kindOf(s.Constraints), shape: p.shapeOf(s.Requests), node: -1, by: -1}
	p.joinKind(x.kind)
	i := int32(len(p.slots))
	if n := len(p.spare); n > 0 {
		i, p.spare = p.spare[n-1], p.spare[:n-1]
		p.slots[i] = x
	} else {
		p.slots = append(p.slots, x)
	}
	p.byKey[s.Key] = i
	p.open[i] = true
	return i
}

// dropSlot forgets a slot.
func (p *Planner) dropSlot(i int32) {
	p.unsettle(i)
	s := &p.slots[i]
	p.leaveKind(s.kind)
	delete(p.byKey, s.Key)
	delete(p.open, i)
	p.slots[i] = place{node: -1}
	p.spare = append(p.spare, i)
}

func (p *Planner) joinKind(k *kind) {
	if k.slots++; k.dead {
		k.dead = false
		p.dead--
	}
}

func (p *Planner) leaveKind(k *kind) {
	if k.slots--; k.slots == 0 {
		k.dead = true
		p.dead++
	}
}

// settle gives a claimed slot that belongs to no wave the node that runs it, whether or not the sum
// still fits: the room is taken already.
func (p *Planner) settle(i int32) {
	s := &p.slots[i]
	if s.Claimed && s.Wave == 0 && s.node < 0 {
		if n, ok := p.runs(i); ok {
			p.put(i, n)
			s.kept = true
			delete(p.open, i)
		}
	}
}

// unsettle is the reverse.
func (p *Planner) unsettle(i int32) {
	if s := &p.slots[i]; s.node >= 0 {
		p.pull(i)
		s.kept = false
		p.open[i] = true
	}
}

// runs returns the node that runs a claimed slot, if it may go on there.
func (p *Planner) runs(i int32) (int32, bool) {
	s := &p.slots[i]
	n, ok := p.byName[s.Incumbent]
	if !ok || s.Node != "" && s.Node != s.Incumbent {
		return -1, false
	}
	return n, s.kind.c.Keeps(&p.nodes[n])
}

// hold takes the room of pods that are no slots of the plan, as far as their nodes are known.
func (p *Planner) hold(name string, list []Held) {
	for _, h := range list {
		x := &holding{Held: h, node: -1}
		if n, ok := p.byName[h.Node]; ok {
			x.node, x.kind, x.need = n, p.kindOf(h.Constraints), p.vector(h.Requests)
			p.joinKind(x.kind)
			p.occupy(x, 1)
			p.heldOn[n] = append(p.heldOn[n], x)
		}
		p.held[name] = append(p.held[name], x)
	}
}

// letGo gives back the room that is held under a name.
func (p *Planner) letGo(name string) {
	for _, x := range p.held[name] {
		if x.node >= 0 {
			p.occupy(x, -1)
			p.leaveKind(x.kind)
			p.heldOn[x.node] = slices.DeleteFunc(p.heldOn[x.node], func(o *holding) bool { return o == x })
		}
	}
	delete(p.held, name)
}

func (p *Planner) occupy(h *holding, sign int32) {
	p.take(h.node, h.need, int64(sign))
	if !h.Returns {
		p.lend(h.node, h.need, int64(sign))
	}
	p.tally(h.kind, h.node, sign, h.Leaving && !h.Returns)
}

// lend leaves what is taken out of the node's load.
func (p *Planner) lend(n int32, need []int64, sign int64) {
	for r, v := range need {
		p.lent[int(n)*len(need)+r] += sign * v
	}
}

// put plans a slot on a node and takes its room.
func (p *Planner) put(i, n int32) {
	s := &p.slots[i]
	s.node = n
	p.on[n] = append(p.on[n], i)
	p.take(n, s.shape.need, 1)
	if s.Beside {
		p.lend(n, s.shape.need, 1)
	}
	p.tally(s.kind, n, 1, false)
}

// pull is the reverse.
func (p *Planner) pull(i int32) {
	s := &p.slots[i]
	n := s.node
	s.node = -1
	list := p.on[n]
	last := len(list) - 1
	list[slices.Index(list, i)] = list[last]
	p.on[n] = list[:last]
	p.take(n, s.shape.need, -1)
	if s.Beside {
		p.lend(n, s.shape.need, -1)
	}
	p.tally(s.kind, n, -1, false)
}

func (p *Planner) take(n int32, need []int64, sign int64) {
	p.version++
	p.versions[n] = p.version
	free := p.free[int(n)*len(need):][:len(need)]
	for r, v := range need {
		free[r] -= sign * v
	}
}

// tally counts one pod more or less, where anybody's rules look.
func (p *Planner) tally(k *kind, n, by int32, leaving bool) {
	k.at[n] += by
	if leaving {
		k.going[n] += by
	}
	for _, c := range k.counted {
		if !c.spreads || !leaving {
			c.add(n, by)
		}
	}
	for _, h := range k.c.HostPorts {
		if by > 0 {
			p.ports[n] = append(p.ports[n], h)
		} else {
			p.ports[n] = slices.Delete(p.ports[n], slices.Index(p.ports[n], h), slices.Index(p.ports[n], h)+1)
		}
	}
}

func (p *Planner) fits(n int32, need []int64) bool {
	free := p.free[int(n)*len(need):][:len(need)]
	for r, v := range need {
		if v > 0 && v > free[r] {
			return false
		}
	}
	return true
}
