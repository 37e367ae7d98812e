package reconcile

import (
	"fmt"
	"time"
)

// Back-off for slots whose pod ended as a whole: an eviction, a lost sandbox. Containers that crash
// are restarted in place, by the runtime's own back-off.
const (
	backOffFirst = 10 * time.Second
	backOffMax   = 5 * time.Minute
	backOffReset = 10 * time.Minute // of being available
)

// empty handles a slot without a live pod.
func (p *pass) empty(w *workload, s *slot) {
	memory := &s.memory
	if w.strategy.once {
		if len(s.ended) > 0 {
			memory.Finished = s.ended[0].Phase
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
	until := ""
	if w.strategy.recreate {
		if until = p.othersEnd(w); until != "" && p.in.without == ruleRecreate {
			p.explain(w, s, RuleRollout, until)
			return
		}
	}
	t, why := p.revisionFor(w, s)
	if t == nil {
		p.explain(w, s, RuleRollout, why)
		return
	}
	p.wants = append(p.wants, &want{w: w, s: s, template: t, cause: p.causeOf(w, s), until: until})
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
	memory := s.memory
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
	case inOrder(w.roll, s.index, wait) != "" && p.in.without != rulePrevious:
		return previous, ""
	}
	return newest, ""
}

// running is the newest revision that any slot of the workload runs, or ran last.
func (p *pass) running(w *workload) *Template {
	for i := range w.templates {
		for _, s := range w.slots {
			if s.memory.Revision == w.templates[i].Revision {
				return &w.templates[i]
			}
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
	memory := s.memory
	if memory.Released > 0 && memory.Released >= memory.Epoch {
		return true
	}
	r, ok := p.releases[s.key]
	return ok && r.Epoch >= memory.Epoch && r.By != ByEviction && r.By != ByDrain && r.By != ByPreempted && r.By != ByEnded && r.By != ByDuplicate
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
