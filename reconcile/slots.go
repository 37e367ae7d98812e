package reconcile

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// key names a slot in maps, states and plans: "<workload uid>/<ordinal or node>".
func (s Slot) key() string {
	if s.Node != "" {
		return string(s.Workload) + "/" + s.Node
	}
	return string(s.Workload) + "/" + strconv.Itoa(int(s.Ordinal))
}

func (m *Instance) ended() bool {
	return m.Phase == corev1.PodSucceeded || m.Phase == corev1.PodFailed
}

// live reports whether the pod runs or is on its way to.
func (m *Instance) live() bool { return !m.Terminating && !m.ended() }

// available reports whether the pod has been ready for the workload's minReadySeconds.
func (m *Instance) available(w *workload, now time.Time) bool {
	return m.live() && m.Ready && !now.Before(m.ReadySince.Add(w.strategy.minReady))
}

// senior orders instances of one slot and revision, best first: higher epoch, then older claim,
// then node name. It is fixed when the claim is made. Readiness has no part in it, or both sides
// would take the other for the winner after one failed probe.
func senior(a, b Instance) int {
	return cmp.Or(cmp.Compare(b.Epoch, a.Epoch), a.Claimed.Compare(b.Claimed), cmp.Compare(a.Node, b.Node), cmp.Compare(a.UID, b.UID))
}

// slot is a place that a workload wants filled, and the pods in it.
type slot struct {
	id     Slot
	key    string
	index  int       // in the order of the rollout
	seat   int       // its memory among the workload's
	memory SlotState // as it stands in this pass
	said   *SlotDecision
	saying SlotDecision // that said points to

	now     []Instance // live, at the wanted revision, seniors first
	old     []Instance // live, at others: available before not, newest claim first
	leaving []Instance // terminating
	ended   []Instance
}

// live lists the pods that live, those of revisions that are not wanted any more first. The list is to be
// read alone: it may be the slot's own.
func (s *slot) live() []Instance {
	switch {
	case len(s.old) == 0:
		return s.now
	case len(s.now) == 0:
		return s.old
	}
	return append(slices.Clip(s.old), s.now...)
}

// holder is the pod that speaks for the slot; nil when there is none.
func (s *slot) holder() *Instance {
	for _, list := range [][]Instance{s.now, s.old, s.leaving, s.ended} {
		if len(list) > 0 {
			return &list[0]
		}
	}
	return nil
}

// fill sorts the instances of a workload into its slots, and remembers what was seen.
func (p *pass) fill(g *tracked) {
	x := p.index
	seats := g.sitAll(make([]int, len(g.records))) // of the records
	before := len(g.seats)
	for _, r := range g.releases {
		g.seat(r.Slot)
	}
	p.addSlots(g)
	if len(g.seats) > before {
		g.sitAll(seats)
		if g.w != nil {
			for _, s := range g.w.slots {
				s.seat = g.sit(s.id)
			}
		}
	}
	// An epoch is never given twice, so that those of gone nodes count as well.
	for i := range g.records {
		t := &g.seats[seats[i]]
		t.epoch = max(t.epoch, g.records[i].epoch)
	}
	for _, r := range g.releases {
		t := g.seat(r.Slot)
		t.epoch = max(t.epoch, r.Epoch)
	}
	for i := range g.records {
		if r := &g.records[i]; !x.isGone(r.from) {
			g.seats[seats[i]].see(r)
		}
	}
	if g.w == nil {
		delete(x.fresh, g)
		g.claimed = nil
		return
	}
	slots := make([]*slot, len(g.seats)) // by seat; nil where none is wanted
	for _, s := range g.w.slots {
		t := &g.seats[s.seat]
		s.key, s.memory = t.key, t.state()
		slots[s.seat] = s
	}
	for i := range g.records {
		r := &g.records[i]
		if x.isGone(r.from) {
			continue
		}
		m := x.instance(g, r)
		s := slots[seats[i]]
		switch {
		case s == nil:
			g.w.surplus = append(g.w.surplus, m)
		case m.Terminating:
			s.leaving = append(s.leaving, m)
		case m.ended():
			s.ended = append(s.ended, m)
		case m.Revision == g.w.revision:
			s.now = append(s.now, m)
		default:
			s.old = append(s.old, m)
		}
	}
	// By node, so that which of two equal ones counts does not depend on which came first.
	slices.SortStableFunc(g.releases, func(a, b released) int { return cmp.Compare(a.node, b.node) })
	for _, r := range g.releases {
		if x.docs[r.node] == nil {
			continue
		}
		key := r.Slot.key()
		last, ok := p.releases[key]
		if p.releases == nil {
			p.releases = map[string]released{}
		}
		if !ok || r.Epoch > last.Epoch || r.Epoch == last.Epoch && r.At.After(last.At) {
			p.releases[key] = r
		}
	}
	fresh := false
	g.claimed = g.claimed[:0]
	for _, s := range g.w.slots {
		p.settle(g.w, s)
		if live := s.live(); len(live) > 0 && p.fresh(live[0]) {
			fresh = true
			if c, ok := causeOfClaim(live[0]); ok && !slices.Contains(g.claimed, c) {
				g.claimed = append(g.claimed, c)
			}
			p.dueAt(live[0].Claimed.Add(waveSettles))
		}
	}
	put(x.fresh, g, fresh)
	for _, m := range g.w.surplus {
		if m.live() && m.Ready && !m.available(g.w, p.in.Now) {
			p.dueAt(m.ReadySince.Add(g.w.strategy.minReady)) // its status says so
		}
	}
}

// sitAll finds the seats of all records, and makes those that are not there.
func (g *tracked) sitAll(seats []int) []int {
	before := len(g.seats)
	for i := range g.records {
		seats[i] = g.sit(g.records[i].slot(g.uid))
	}
	if len(g.seats) > before { // some moved on
		return g.sitAll(seats)
	}
	return seats
}

// findStrays lists this node's pods of workloads that are not wanted.
func (p *pass) findStrays() {
	d := p.docs[p.in.Self]
	if d == nil {
		return
	}
	for _, m := range d.Instances {
		if m.Node == d.Node && p.index.byUID[m.Slot.Workload] == nil {
			p.strays = append(p.strays, m)
		}
	}
}

// accepted is a commit and a node that has accepted it, or once had: a pod tells for which commit it
// was started.
type accepted struct {
	Commit
	node string
}

// ahead reports whether a pod was started for a commit of its app that this node does not have. A node
// whose store was lost, and whose remote shows an older head, would take back what it runs.
func (p *pass) ahead(m Instance) bool { return m.Commit.Level > p.in.Accepted[m.App].Level }

// released is a release and the node that gave the slot up.
type released struct {
	Release
	node string
}

// settle orders the pods of one slot and updates its timers.
func (p *pass) settle(w *workload, s *slot) {
	now := p.in.Now
	slices.SortFunc(s.now, senior)
	slices.SortFunc(s.old, func(a, b Instance) int {
		if x, y := a.available(w, now), b.available(w, now); x != y {
			if x {
				return -1
			}
			return 1
		}
		return cmp.Or(b.Claimed.Compare(a.Claimed), senior(a, b))
	})
	slices.SortFunc(s.leaving, senior)
	slices.SortFunc(s.ended, senior)

	m := &s.memory
	m.App = w.object.Source.App
	for _, list := range [][]Instance{s.old, s.now} {
		for _, x := range list {
			if x.available(w, now) {
				m.Revision = x.Revision
			} else if x.Ready {
				p.wakeAt(x.ReadySince.Add(w.strategy.minReady))
			}
		}
	}
	if len(s.now) > 0 && s.now[0].available(w, now) || len(s.now) == 0 && len(s.old) > 0 {
		m.Unready, m.UnreadyRevision = time.Time{}, ""
	} else if m.UnreadyRevision != w.revision {
		m.Unready, m.UnreadyRevision = now, w.revision
	}
	if m.Failures > 0 && len(s.now) > 0 && s.now[0].available(w, now) {
		if now.Sub(s.now[0].ReadySince) > backOffReset {
			m.Failures = 0
		} else {
			p.dueAt(s.now[0].ReadySince.Add(backOffReset + 1))
		}
	}
	live := s.live()
	beside := m.OpenBeside && len(live) == 1 && (len(s.old) == 1 || p.leaves(w, live[0]))
	if len(live) > 0 && !beside {
		m.Open, m.OpenRevision, m.OpenBeside = time.Time{}, "", false
	}
}

// open says since when a slot is seen to lack the pod; planning again does not restart it.
func (p *pass) open(x *want) time.Time {
	m := &x.s.memory
	if m.OpenRevision != x.template.Revision || m.OpenBeside != (x.beside != nil) || p.in.without == ruleOpen {
		m.Open, m.OpenRevision, m.OpenBeside = p.in.Now, x.template.Revision, x.beside != nil
	}
	return m.Open
}
