package reconcile

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Back-off for slots whose pod ended as a whole: an eviction, a lost sandbox. Containers that crash
// are restarted in place, by the runtime's own back-off.
const (
	backOffFirst = 10 * time.Second
	backOffMax   = 5 * time.Minute
	backOffReset = 10 * time.Minute // of being available
)

// want is a pod that a slot lacks.
type want struct {
	w        *workload
	s        *slot
	template *Template
	cause    cause
	// beside is the old pod while the slot surges; nil when the slot is empty.
	beside *Instance
}

// decide goes through the slots of one workload: first those that have the wanted revision, then the
// others in order. A node may hold many of them, so the view of the rollout is kept up to date with
// what was decided for the slots before.
func (p *pass) decide(w *workload) {
	w.roll = p.rolloutOf(w)
	for _, m := range w.surplus {
		p.stop(m, w.object.Commit.ID, p.surplusReason(w, m))
	}
	taint, driven := p.evictedBy(w)
	for _, s := range w.slots {
		if driven {
			p.evict(s, taint)
		}
		if len(s.now) > 0 {
			p.replaced(w, s)
		}
	}
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

func (p *pass) surplusReason(w *workload, m Instance) string {
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
	for i, m := range s.old {
		switch {
		case ready:
			p.stop(m, w.object.Commit.ID, fmt.Sprintf("%s of revision %s is ready in its place", cur.Name, cur.Revision))
		case i > 0, !m.available(w, p.in.Now) && m.Claimed.After(cur.Claimed):
			// Of several old pods one is enough to wait with, and one that was started later than
			// the wanted revision's is the surplus of a change that was taken back.
			p.stop(m, w.object.Commit.ID, fmt.Sprintf("revision %s is not wanted any more", m.Revision))
		}
	}
	p.ended(s)
	if ready {
		if !slices.ContainsFunc(s.old, func(m Instance) bool { return !p.stopping[m.UID] }) {
			w.roll.places[s.index].surging, w.roll.places[s.index].updated = false, true
		}
		p.explain(w, s, RuleKeep, "")
		return
	}
	p.explain(w, s, RuleKeep, notReady(cur))
}

// outdated handles a slot that has pods of other revisions only.
func (p *pass) outdated(w *workload, s *slot) {
	for _, m := range s.old[1:] {
		p.stop(m, w.object.Commit.ID, fmt.Sprintf("revision %s is not wanted any more", m.Revision))
	}
	p.ended(s)
	m := s.old[0]
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
	switch {
	case how == wait:
		p.explain(w, s, RuleRollout, why)
	case how == stopFirst && !m.available(w, p.in.Now):
		p.change(w, s, m, fmt.Sprintf("is not ready and revision %s follows", w.revision))
	case how == stopFirst:
		p.change(w, s, m, fmt.Sprintf("revision %s follows", w.revision))
	default:
		w.roll.places[s.index].surging = true
		p.wants = append(p.wants, &want{w: w, s: s, template: &w.templates[0], cause: causeOf(w.object.Commit), beside: &m})
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
		memory := p.state.Slots[s.key]
		memory.Released = m.Epoch
		p.state.Slots[s.key] = memory
		p.explain(w, s, RuleStop, reason)
		return
	}
	p.explain(w, s, RuleRollout, fmt.Sprintf("waits for node %s to stop %s", m.Node, m.Name))
}

// empty handles a slot without a live pod.
func (p *pass) empty(w *workload, s *slot) {
	memory := p.state.Slots[s.key]
	if w.strategy.once {
		if len(s.ended) > 0 {
			memory.Finished = s.ended[0].Phase
			p.state.Slots[s.key] = memory
		}
		if memory.Finished != "" {
			p.explain(w, s, RuleFinished, "ran to its end: "+string(memory.Finished))
			return
		}
	}
	if len(s.leaving) > 0 {
		p.explain(w, s, RuleEnding, fmt.Sprintf("waits for %s to end", s.leaving[0].Name))
		return
	}
	if len(s.ended) > 0 && memory.Ended != s.ended[0].UID {
		memory.Ended = s.ended[0].UID
		memory.Failures++
		memory.Retry = p.in.Now.Add(backOff(backOffFirst, memory.Failures))
		p.state.Slots[s.key] = memory
	}
	if p.in.Now.Before(memory.Retry) {
		p.wakeAt(memory.Retry)
		reason := "its last pod ended"
		if len(s.ended) > 0 {
			reason = endedReason(s.ended[0])
		}
		p.explain(w, s, RuleBackOff, fmt.Sprintf("%s; the next starts at %s", reason, memory.Retry.UTC().Format(time.RFC3339)))
		return
	}
	if w.strategy.recreate {
		if why := p.othersEnd(w); why != "" {
			p.explain(w, s, RuleRollout, why)
			return
		}
	}
	t, why := p.revisionFor(w, s)
	if t == nil {
		p.explain(w, s, RuleRollout, why)
		return
	}
	p.wants = append(p.wants, &want{w: w, s: s, template: t, cause: p.causeOf(w, s)})
}

// othersEnd says which old pods keep a Recreate from starting new ones.
func (p *pass) othersEnd(w *workload) string {
	for _, s := range w.slots {
		for _, list := range [][]Instance{s.old, s.leaving} {
			for _, m := range list {
				if m.Revision != w.revision {
					return fmt.Sprintf("waits for %s to end", m.Name)
				}
			}
		}
	}
	for _, m := range w.surplus {
		if m.Revision != w.revision && !m.ended() {
			return fmt.Sprintf("waits for %s to end", m.Name)
		}
	}
	return ""
}

// revisionFor chooses what an empty slot starts: the wanted revision, but a slot that was lost
// during a rollout returns to the one that was last available in it until the order lets it change,
// so that a bad revision does not gain from a node's death.
func (p *pass) revisionFor(w *workload, s *slot) (*Template, string) {
	newest := &w.templates[0]
	memory := p.state.Slots[s.key]
	previous := w.template(memory.Revision)
	switch {
	case w.strategy.paused:
		if previous == nil {
			previous = p.running(w)
		}
		if previous == nil {
			return nil, "the Deployment is paused"
		}
		return previous, ""
	case w.strategy.recreate, w.strategy.onDelete, previous == nil, p.givenUp(s):
		return newest, ""
	case inOrder(w.roll, s.index, wait) != "":
		return previous, ""
	}
	return newest, ""
}

// running is the newest revision that any slot of the workload runs.
func (p *pass) running(w *workload) *Template {
	for i := range w.templates {
		for _, s := range w.slots {
			for _, list := range [][]Instance{s.now, s.old, s.leaving} {
				for _, m := range list {
					if m.Revision == w.templates[i].Revision {
						return &w.templates[i]
					}
				}
			}
		}
	}
	return nil
}

// givenUp reports whether the slot's last pod was stopped for a commit, and not lost.
func (p *pass) givenUp(s *slot) bool {
	memory := p.state.Slots[s.key]
	if memory.Released > 0 && memory.Released >= memory.Epoch {
		return true
	}
	r, ok := p.releases[s.key]
	return ok && r.Epoch >= memory.Epoch && r.By != ByEviction && r.By != ByEnded && r.By != ByDuplicate
}

// ended clears away this node's pods that ended, once the slot has another.
func (p *pass) ended(s *slot) {
	for _, m := range s.ended {
		p.stop(m, ByEnded, endedReason(m))
	}
}

// duplicates stops the junior of two pods of one revision: start on belief, stop on evidence.
func (p *pass) duplicates(w *workload, list []Instance) {
	for _, m := range list[1:] {
		if first := list[0]; p.in.Confirmed[first.UID] {
			p.stop(m, ByDuplicate, fmt.Sprintf("node %s runs the slot by an earlier right (epoch %d) and keeps it", first.Node, first.Epoch))
		}
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

// backOff doubles first with every failure after the first.
func backOff(first time.Duration, failures int32) time.Duration {
	d := first
	for range failures - 1 {
		if d *= 2; d >= backOffMax {
			return backOffMax
		}
	}
	return d
}
