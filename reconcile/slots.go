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

func (m Instance) ended() bool {
	return m.Phase == corev1.PodSucceeded || m.Phase == corev1.PodFailed
}

// live reports whether the pod runs or is on its way to.
func (m Instance) live() bool { return !m.Terminating && !m.ended() }

// available reports whether the pod has been ready for the workload's minReadySeconds.
func (m Instance) available(w *workload, now time.Time) bool {
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
	id    Slot
	key   string
	index int // in the order of the rollout

	now     []Instance // live, at the wanted revision, seniors first
	old     []Instance // live, at others: available before not, newest claim first
	leaving []Instance // terminating
	ended   []Instance
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

// collect sorts the instances of all documents into slots, and remembers what was seen.
func (p *pass) collect() {
	slots := map[string]*slot{}
	for _, w := range p.workloads {
		for _, s := range w.slots {
			slots[s.key] = s
		}
	}
	// An epoch is never given twice, so that those of gone nodes count as well.
	for _, d := range p.in.Documents {
		for _, m := range d.Instances {
			p.reached(m.Slot, m.Epoch)
		}
		for _, r := range d.Releases {
			p.reached(r.Slot, r.Epoch)
		}
	}
	for _, name := range p.names() {
		if name != p.in.Self {
			for app, c := range p.docs[name].Accepted {
				p.hear(app, accepted{c, name})
			}
		}
		for _, m := range p.docs[name].Instances {
			if m.Node != name {
				continue // nobody speaks for another node
			}
			p.see(m)
			p.hear(m.App, accepted{m.Commit, name})
			w := p.byUID[m.Slot.Workload]
			s := slots[m.Slot.key()]
			switch {
			case w == nil:
				p.strays = append(p.strays, m)
			case s == nil:
				w.surplus = append(w.surplus, m)
			case m.Terminating:
				s.leaving = append(s.leaving, m)
			case m.ended():
				s.ended = append(s.ended, m)
			case m.Revision == w.revision:
				s.now = append(s.now, m)
			default:
				s.old = append(s.old, m)
			}
		}
		for _, r := range p.docs[name].Releases {
			key := r.Slot.key()
			last, ok := p.releases[key]
			if !ok || r.Epoch > last.Epoch || r.Epoch == last.Epoch && r.At.After(last.At) {
				p.releases[key] = released{r, name}
			}
		}
	}
	for _, w := range p.workloads {
		for _, s := range w.slots {
			p.settle(w, s)
		}
	}
}

// accepted is a commit and a node that has accepted it, or once had: a pod tells for which commit it
// was started.
type accepted struct {
	Commit
	node string
}

// hear remembers the newest commit of an app.
func (p *pass) hear(app string, a accepted) {
	if old, ok := p.newest[app]; !ok || a.Level > old.Level {
		p.newest[app] = a
	}
}

// ahead reports whether a pod was started for a commit of its app that this node does not have. A node
// whose store was lost, and whose remote shows an older head, would take back what it runs.
func (p *pass) ahead(m Instance) bool { return m.Commit.Level > p.in.Accepted[m.App].Level }

// released is a release and the node that gave the slot up.
type released struct {
	Release
	node string
}

// reached remembers the highest epoch of a slot.
func (p *pass) reached(id Slot, epoch int64) {
	key := id.key()
	if s := p.state.Slots[key]; epoch > s.Epoch {
		s.Epoch = epoch
		p.state.Slots[key] = s
	}
}

// see remembers what an instance tells of its slot.
func (p *pass) see(m Instance) {
	key := m.Slot.key()
	s := p.state.Slots[key]
	if m.Epoch >= s.Epoch {
		s.Epoch, s.Node, s.Boot = m.Epoch, m.Node, m.Boot
	}
	if m.App != "" {
		s.App = m.App
	}
	p.state.Slots[key] = s
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

	m := p.state.Slots[s.key]
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
	if len(s.now) > 0 && s.now[0].available(w, now) && now.Sub(s.now[0].ReadySince) > backOffReset {
		m.Failures = 0
	}
	if len(s.now) > 0 || len(s.old) > 0 && !m.OpenBeside {
		m.Open, m.OpenRevision, m.OpenBeside = time.Time{}, "", false
	}
	p.state.Slots[s.key] = m
}

// open says since when a slot is seen to lack the pod; planning again does not restart it.
func (p *pass) open(x *want) time.Time {
	m := p.state.Slots[x.s.key]
	if m.OpenRevision != x.template.Revision || m.OpenBeside != (x.beside != nil) {
		m.Open, m.OpenRevision, m.OpenBeside = p.in.Now, x.template.Revision, x.beside != nil
		p.state.Slots[x.s.key] = m
	}
	return m.Open
}
