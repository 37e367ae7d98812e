package reconcile

import (
	"cmp"
	"fmt"
	"strconv"
)

// rollout is what the documents say of a workload's slots, as far as the rules of a rolling update
// read it. The rules hold under any delay, loss or order of documents:
//
//   - A ready pod is stopped for a commit only if every other holder has accepted that commit or a
//     later one (a promise to start no change for an older one), and fewer than maxUnavailable
//     other slots are not ready or about to be stopped first.
//   - Slots change in order: with w = maxSurge + maxUnavailable, slot i waits until every slot up to
//     i - w is ready at the new revision.
//   - Slot i surges (the new pod beside the old) if i mod w < maxSurge, else stops first. So any w
//     slots in a row hold exactly maxUnavailable that stop first. All one way would break one of
//     the two bounds, because the counts that a node sees are stale.
//   - A slot that is not ready may change at once: there is nothing to lose.
type rollout struct {
	surge       int
	unavailable int
	places      []place
	checks      []check
	without     rule
}

// place is one slot in a rollout.
type place struct {
	label    string // "web[2]", or the node of a DaemonSet's
	ready    bool   // a pod of any revision is available
	updated  bool   // a pod of the new revision is available and no old one lives beside it
	surging  bool   // has more than one live pod
	overdue  bool   // not ready at the new revision for longer than the progress deadline
	promised bool   // its holders have accepted the commit or a later one; true without a holder
	holder   string // of whom the promise is missing
}

// change is how a slot goes from one revision to the next.
type change int

const (
	wait change = iota
	stopFirst
	surgeBeside
)

// check says why slot i must wait with its change; "" when it need not, as far as the check goes.
type check func(r *rollout, i int, how change) string

// rolloutChecks are the conditions under which a ready pod may change.
var rolloutChecks = []check{promises, inOrder, withinUnavailable, withinSurge}

// may says whether slot i, which has a pod of an older revision and none of the new, may change
// now and how, or what it waits for.
func (r *rollout) may(i int) (change, string) {
	if !r.places[i].ready {
		return stopFirst, ""
	}
	how := r.manner(i)
	for _, c := range r.checks {
		if why := c(r, i, how); why != "" {
			return wait, why
		}
	}
	return how, ""
}

// window is how many slots may be under way at once.
func (r *rollout) window() int { return max(r.surge+r.unavailable, 1) }

// manner is how a ready slot changes.
func (r *rollout) manner(i int) change {
	switch {
	case r.without == ruleStops && r.surge > 0:
		return surgeBeside
	case r.without == ruleSurges && r.unavailable > 0:
		return stopFirst
	}
	if i%r.window() < r.surge {
		return surgeBeside
	}
	return stopFirst
}

func promises(r *rollout, _ int, _ change) string {
	// The slot's own holder is asked as well: its surge may be another node's to start.
	for _, o := range r.places {
		if !o.promised {
			return fmt.Sprintf("waits for node %s, which runs %s, to accept the commit", o.holder, o.label)
		}
	}
	return ""
}

func inOrder(r *rollout, i int, _ change) string {
	for j := 0; j <= i-r.window(); j++ {
		if o := r.places[j]; !o.updated && (!o.overdue || r.without == ruleOverdue) {
			return fmt.Sprintf("waits for %s to be ready", o.label)
		}
	}
	return ""
}

func withinUnavailable(r *rollout, i int, how change) string {
	if how != stopFirst {
		return ""
	}
	return r.within(i, how, r.unavailable, "to be ready: maxUnavailable", func(o place) bool { return !o.ready })
}

func withinSurge(r *rollout, i int, how change) string {
	if how != surgeBeside {
		return ""
	}
	return r.within(i, how, r.surge, "to have one pod: maxSurge", func(o place) bool { return o.surging })
}

// within counts the other slots that are under way, and says what to wait for when they are as many
// as the limit. Lower slots of the window that change in the same manner count until they are
// updated, whether or not they are seen under way: their nodes may be about to. So the highest of the
// slots that are under way for a commit has counted all the others, and what an earlier commit left
// under way besides, which every holder's promise has shown it.
func (r *rollout) within(i int, how change, limit int, what string, underWay func(place) bool) string {
	n, label := 0, ""
	for j, o := range r.places {
		if j == i {
			continue
		}
		ahead := j < i && j > i-r.window() && r.manner(j) == how && !o.updated
		if underWay(o) || ahead {
			n++
			label = cmp.Or(label, o.label)
		}
	}
	switch {
	case n < limit:
		return ""
	case n == 1:
		return fmt.Sprintf("waits for %s %s is %d", label, what, limit)
	}
	return fmt.Sprintf("waits for %s and %d more %s is %d", label, n-1, what, limit)
}

// rolloutOf reads the documents.
func (p *pass) rolloutOf(w *workload) *rollout {
	r := &rollout{surge: w.strategy.surge, unavailable: w.strategy.unavailable, checks: rolloutChecks, without: p.in.without, places: make([]place, 0, len(w.slots))}
	for _, s := range w.slots {
		o := place{label: w.label(s), promised: true}
		for _, list := range [][]Instance{s.now, s.old} {
			for i := range list {
				m := &list[i]
				o.ready = o.ready || m.available(w, p.in.Now)
				if p.accepted(m.Node, w.object.Source.App).Level < w.object.Commit.Level {
					o.promised, o.holder = false, m.Node
				}
			}
		}
		// For this commit, or for an earlier one and not yet taken back; on the move from a drained node, which may
		// be in service again meanwhile; or duplicates (seeds 20173 with 5 and 60298 with 3 nodes of the simulator).
		o.surging = len(s.now)+len(s.old) > 1
		if len(s.now) > 0 {
			o.updated = len(s.old) == 0 && s.now[0].available(w, p.in.Now)
		}
		if since := s.memory.Unready; !o.updated && !since.IsZero() && w.strategy.deadline > 0 {
			o.overdue = p.in.Now.Sub(since) >= w.strategy.deadline
			if !o.overdue {
				p.wakeAt(since.Add(w.strategy.deadline))
			}
		}
		r.places = append(r.places, o)
	}
	return r
}

// accepted is the commit of an app that a node says it has accepted.
func (p *pass) accepted(node, app string) Commit {
	if node == p.in.Self {
		return p.in.Accepted[app]
	}
	if d := p.docs[node]; d != nil {
		return d.Accepted[app]
	}
	return Commit{}
}

// label names a slot for people.
func (w *workload) label(s *slot) string {
	switch w.kind {
	case kindPod:
		return w.name
	case kindDaemonSet:
		return w.name + " on " + s.id.Node
	default:
		return w.name + "[" + strconv.Itoa(int(s.id.Ordinal)) + "]"
	}
}
