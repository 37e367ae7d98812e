package reconcile

import (
	"fmt"
	"slices"
)

// token asks the workload's registrar for the right to change a ready slot now: to stop its pod, or to start
// another beside it. It returns why the slot must wait.
func (p *pass) token(w *workload, s *slot, m Instance, surge bool) string {
	return p.consent(Ask{
		Kind: AskToken, To: p.registrar(string(w.uid)), Slot: s.id, UID: m.UID, Surge: surge, Level: w.object.Commit.Level,
	})
}

// mayChange hands out the one token of a workload. It comes back when the registrar's documents show that it
// was used, or after a while; then they say how many slots are under way.
func (p *pass) mayChange(out *Answer) {
	a := out.Ask
	if p.notYet(out) {
		return
	}
	w := p.index.byUID[a.Slot.Workload]
	switch {
	case w == nil:
		out.Reason = fmt.Sprintf("node %s knows no such workload", p.in.Self)
		return
	case w.object.Commit.Level > a.Level:
		out.Reason = fmt.Sprintf("node %s has accepted a newer commit of %s: %s", p.in.Self, w.name, w.object.Commit.ID)
		return
	case w.object.Commit.Level < a.Level:
		out.Reason = fmt.Sprintf("waits for node %s to accept the commit", p.in.Self)
		return
	}
	old, given := p.index.registry.tokens[w.uid]
	if given && old.ask != a && p.in.Now.Sub(old.at) < tokenHolds && !p.used(old.ask) && p.in.without != ruleToken {
		out.Reason = fmt.Sprintf("waits for another slot of %s, which node %s changes", w.name, old.ask.From)
		out.until = old.at.Add(tokenHolds)
		return
	}
	if age := p.in.Now.Sub(old.at); given && old.ask == a && tokenAgain <= age && age < tokenHolds && p.in.without != ruleAgain {
		out.Reason, out.until = fmt.Sprintf("was given the token of %s, and has not used it", w.name), old.at.Add(tokenHolds)
		return
	}
	slots, release := p.slotsOf(w)
	defer release()
	under := 0
	for i, o := range p.rolloutOf(w).places {
		if slots[i].id != a.Slot && (a.Surge && o.surging || !a.Surge && !p.runs(w, slots[i])) {
			under++
		}
	}
	limit, what := w.strategy.unavailable, "maxUnavailable"
	if a.Surge {
		limit, what = w.strategy.surge, "maxSurge"
	}
	if under >= limit && p.in.without != ruleToken {
		out.Reason = fmt.Sprintf("waits for %d other slots of %s: %s is %d", under, w.name, what, limit)
		return
	}
	if !given || old.ask != a || p.in.Now.Sub(old.at) >= tokenHolds {
		p.index.registry.tokens[w.uid] = grant{a, p.in.Now}
	}
}

// runs reports whether a slot has an available pod where this node sees the machine: who asks may hold one for
// gone, and have replaced its pods, of which an agent that has just started still has an old document.
func (p *pass) runs(w *workload, s *slot) bool {
	return slices.ContainsFunc(s.live(), func(m Instance) bool {
		q := p.index.peers[m.Node]
		seen := m.Node == p.in.Self || q == nil || q.node == nil || q.node.Stable && !q.node.Failed || p.in.without == ruleSight
		return seen && m.available(w, p.in.Now)
	})
}

// used reports whether documents show what a token was given for.
func (p *pass) used(a Ask) bool {
	others := false
	for _, m := range p.inSlot(a.Slot) {
		if m.UID == a.UID {
			if m.live() && !a.Surge {
				return false
			}
		} else if m.live() {
			others = true
		}
	}
	return !a.Surge || others
}

// slotsOf fills the slots of a workload that is not being decided; release them after use.
func (p *pass) slotsOf(w *workload) (slots []*slot, release func()) {
	if w.slots != nil {
		return w.slots, func() {}
	}
	g, at := w.at, p.at
	wake, due := g.wake, g.due
	p.at = g
	p.fill(g)
	return w.slots, func() {
		w.slots, w.surplus, w.roll = nil, nil, nil
		p.at, g.wake, g.due = at, wake, due
	}
}
