package reconcile

import (
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
)

// want is a pod that a slot lacks.
type want struct {
	w        *workload
	s        *slot
	template *Template
	cause    cause
	// beside is the old pod while the slot surges; nil when the slot is empty.
	beside *Instance
	token  bool   // is needed besides the claim
	moves  bool   // from a drained node
	epoch  int64  // that the registrar has given; 0 before
	until  string // says what a Recreate waits for before it may start: the slot is planned, and not claimed; "" when nothing
}

// decide goes through the slots of one workload: first those that have the wanted revision or more
// pods than one, then the others in order. A node may hold many of them, so the view of the rollout
// is kept up to date with what was decided for the slots before.
func (p *pass) decide(w *workload) {
	w.roll = p.rolloutOf(w)
	for _, m := range w.surplus {
		if !p.ahead(m) {
			p.stop(m, w.object.Commit.ID, w.surplusReason(m))
		}
	}
	taint, driven := p.evictedBy(w)
	for _, s := range w.slots {
		if driven {
			p.evict(s, taint)
		}
		switch {
		case len(s.now) > 0:
			p.replaced(w, s)
		case len(s.old) > 1:
			p.thin(w, s)
		}
	}
	w.moving = p.moving(w)
	for _, s := range w.slots {
		switch {
		case len(s.now) > 0:
		case len(s.old) > 0:
			p.outdated(w, s)
		default:
			p.empty(w, s)
		}
	}
}

func (w *workload) surplusReason(m Instance) string {
	if w.kind == kindDaemonSet {
		return fmt.Sprintf("%s does not select node %s any more", w.name, m.Node)
	}
	return fmt.Sprintf("%s wants %d replicas", w.name, w.desired)
}

// evict stops pods that a NoExecute taint drives from this node.
func (p *pass) evict(s *slot, taint corev1.Taint) {
	for _, list := range [][]Instance{s.now, s.old} {
		for _, m := range list {
			p.stop(m, ByEviction, fmt.Sprintf("node %s has taint {%s: %s} with effect NoExecute since commit %s",
				p.in.Self, taint.Key, taint.Value, p.in.Accepted[clusterUnit].ID))
		}
	}
}

// replaced handles a slot that has a pod of the wanted revision.
func (p *pass) replaced(w *workload, s *slot) {
	cur := s.now[0]
	ready := cur.available(w, p.in.Now)
	p.duplicates(w, s.now)
	p.duplicates(w, s.old)
	for _, m := range s.old {
		switch {
		case p.ahead(m):
		case ready:
			p.endFor(m, cur, w.object.Commit.ID, fmt.Sprintf("%s of revision %s is ready in its place", cur.Name, cur.Revision))
		case !m.available(w, p.in.Now) && m.Claimed.After(cur.Claimed) && m.Node == p.in.Self && !p.promised(m):
			// It was started later than the wanted revision's: the surplus of a change that was taken back.
			p.stop(m, w.object.Commit.ID, fmt.Sprintf("revision %s is not wanted any more", m.Revision))
		}
	}
	p.ended(s)
	if p.relocate(w, s, cur) {
		return
	}
	if ready {
		if !slices.ContainsFunc(s.old, func(m Instance) bool { return !p.stopping[m.UID] }) {
			w.roll.places[s.index].surging, w.roll.places[s.index].updated = false, true
		}
		p.explain(w, s, RuleKeep, "runs on node "+cur.Node+", opened by "+cur.Cause+" (epoch "+strconv.FormatInt(cur.Epoch, 10)+")")
		return
	}
	p.explain(w, s, RuleKeep, notReady(cur))
}

// thin leaves one pod to a slot that has several of other revisions than the wanted one. Of two that are
// not ready there is nothing to lose: the junior ends by belief, or neither ever would.
func (p *pass) thin(w *workload, s *slot) {
	if slices.ContainsFunc(s.old, p.ahead) {
		return
	}
	p.duplicates(w, s.old)
	first := slices.MinFunc(s.old, senior)
	for _, m := range s.old {
		idle := !m.available(w, p.in.Now) && !first.available(w, p.in.Now)
		if idle && m.UID != first.UID && m.Node == p.in.Self && !p.promised(m) {
			p.stop(m, w.object.Commit.ID, fmt.Sprintf("revision %s is not wanted any more", m.Revision))
		}
	}
	if remain := slices.DeleteFunc(slices.Clone(s.old), func(m Instance) bool { return p.stopping[m.UID] }); len(remain) == 1 {
		w.roll.places[s.index].surging = false
	}
}

// outdated handles a slot that has pods of other revisions only.
func (p *pass) outdated(w *workload, s *slot) {
	if i := slices.IndexFunc(s.old, p.ahead); i >= 0 {
		p.explain(w, s, RuleKeep, fmt.Sprintf("%s was started for commit %s, which node %s has not accepted", s.old[i].Name, s.old[i].Commit.ID, p.in.Self))
		return
	}
	p.ended(s)
	m := s.old[0]
	if (w.strategy.paused || w.strategy.onDelete) && p.in.without != ruleLeaves && p.relocate(w, s, m) {
		return // no commit changes its revision, and its node is drained all the same
	}
	switch {
	case w.strategy.paused:
		p.explain(w, s, RuleRollout, "the Deployment is paused")
		return
	case w.strategy.onDelete:
		p.explain(w, s, RuleKeep, fmt.Sprintf("keeps revision %s until its pod is deleted", m.Revision))
		return
	case w.strategy.recreate:
		p.change(w, s, m, "all old pods end before a new one starts")
		return
	case len(s.leaving) > 0 || len(s.old) > 1:
		p.explain(w, s, RuleEnding, fmt.Sprintf("waits for %s to end", s.extra().Name))
		return
	}
	how, why := w.roll.may(s.index)
	if !m.available(w, p.in.Now) && m.Commit.Level >= w.object.Commit.Level {
		// It was lost, and started again at its previous revision under this very commit: it waits
		// for its turn, or it would change before it was ready.
		if why = inOrder(w.roll, s.index, how); why != "" {
			how = wait
		}
	}
	if how != wait && m.available(w, p.in.Now) {
		if why = p.unheard(); why != "" {
			how = wait
		}
	}
	if how == wait && p.relocate(w, s, m) {
		return
	}
	token := w.moving && m.available(w, p.in.Now)
	if how == stopFirst && token && m.Node == p.in.Self {
		if why = p.token(w, s, m, false); why != "" {
			how = wait
		}
	}
	switch {
	case how == wait:
		p.explain(w, s, RuleRollout, why)
	case how == stopFirst && !m.available(w, p.in.Now):
		p.change(w, s, m, fmt.Sprintf("is not ready and revision %s follows", w.revision))
	case how == stopFirst:
		p.change(w, s, m, fmt.Sprintf("revision %s follows", w.revision))
	default:
		w.roll.places[s.index].surging = true
		old := m // so that only what a want keeps is made
		p.wants = append(p.wants, &want{w: w, s: s, template: &w.templates[0], cause: causeOf(w.object.Commit), beside: &old, token: token})
	}
}

// extra is the pod that is to go before the slot can change.
func (s *slot) extra() Instance {
	if len(s.leaving) > 0 {
		return s.leaving[0]
	}
	return s.old[len(s.old)-1]
}

// change stops an old pod for the workload's commit, if it is this node's.
func (p *pass) change(w *workload, s *slot, m Instance, reason string) {
	w.roll.places[s.index].ready = false
	p.stop(m, w.object.Commit.ID, reason)
	if m.Node == p.in.Self {
		s.memory.Released = m.Epoch
		p.explain(w, s, RuleStop, reason)
		return
	}
	p.explain(w, s, RuleRollout, fmt.Sprintf("waits for node %s to stop %s", m.Node, m.Name)).Stops = m.Node
}

// ended clears away this node's pods that ended, once the slot has another.
func (p *pass) ended(s *slot) {
	for _, m := range s.ended {
		p.stop(m, ByEnded, endedReason(m))
	}
}

func endedReason(m Instance) string {
	what := "ended: " + string(m.Phase)
	if m.Reason != "" {
		what = "ended: " + m.Reason
	}
	if m.Message != "" {
		what += ": " + m.Message
	}
	return m.Name + " " + what
}

// notReady says why a pod is not ready, in its own words where it has any.
func notReady(m Instance) string {
	switch {
	case m.Reason != "" && m.Message != "":
		return m.Reason + ": " + m.Message
	case m.Reason != "":
		return m.Reason
	case m.Ready:
		return "ready, waits for minReadySeconds"
	case m.Phase == corev1.PodRunning:
		return "runs, is not ready yet"
	default:
		return "starts"
	}
}
