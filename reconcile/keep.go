package reconcile

import (
	"fmt"
	"time"
)

// A pod ends in favour of another in its slot only on evidence: the other's own node has answered a direct
// call "I run it, it is ready, I keep it". Having said so, that node does not end the pod in favour of any
// other while the answer may be acted on. So of any two pods of a slot at most one can be ending for the
// other, and a slot that has a ready pod is emptied by no view of the flock, however old.
//
// Who should end is a matter of belief, since a wrong belief costs time alone. Among pods of one revision,
// and among those of revisions that are not wanted any more, it is the junior: the order was fixed by the
// claims. A senior that is not ready withdraws in favour of a ready junior. A pod of an old revision ends
// in favour of a ready one of the wanted revision.

// keeper is what the rule reads of a pod.
type keeper struct {
	ready   bool
	senior  bool // than the pod that may end
	leaving bool // the pod that may end is to replace it, as its node is drained
}

// favours reports whether a pod should end in favour of another of its group, as far as this node believes.
func favours(mine, other keeper, without rule) bool {
	return other.ready && (other.senior || !mine.ready && !other.leaving && without != ruleWithdraw)
}

// duplicates ends this node's pods of a group in favour of others in it.
func (p *pass) duplicates(w *workload, group []Instance) {
	for _, m := range group {
		if m.Node != p.in.Self || p.ahead(m) {
			continue
		}
		mine := p.keeper(w, m, m)
		for _, o := range group {
			if o.UID == m.UID || p.ahead(o) || !favours(mine, p.keeper(w, o, m), p.in.without) {
				continue
			}
			reason := fmt.Sprintf("node %s runs the slot by an earlier right (epoch %d) and keeps it", o.Node, o.Epoch)
			switch {
			case senior(m, o) < 0:
				reason = fmt.Sprintf("is not ready, and node %s keeps %s, which is", o.Node, o.Name)
			case p.leaves(w, m):
				reason = fmt.Sprintf("node %s is drained, and %s is ready on node %s", m.Node, o.Name, o.Node)
			}
			p.endFor(m, o, ByDuplicate, reason)
		}
	}
}

func (p *pass) keeper(w *workload, m, than Instance) keeper {
	return keeper{ready: m.available(w, p.in.Now) && !p.stopping[m.UID], senior: senior(m, than) < 0, leaving: m.Revision == than.Revision && p.leaves(w, m) && !p.leaves(w, than)}
}

// endFor ends a pod of this node in favour of another once that one's node has given its word.
func (p *pass) endFor(m, other Instance, by, reason string) {
	if m.Node != p.in.Self || m.Terminating || p.stopping[m.UID] || p.stopping[other.UID] {
		return
	}
	if p.promised(m) {
		return
	}
	if other.Node != p.in.Self && p.in.without != ruleEvidence {
		if p.consent(Ask{Kind: AskKeep, To: other.Node, Slot: m.Slot, UID: other.UID}) != "" {
			return
		}
	}
	p.stop(m, by, reason)
}

// promised reports whether this node has said that it keeps one of its pods, or may have before it was
// started.
func (p *pass) promised(m Instance) bool {
	if p.in.without == ruleWord {
		return false
	}
	until := p.index.registry.words[m.UID]
	if p.young() != "" {
		until = later(until, p.index.registry.since.Add(startsFor))
	}
	if !p.in.Now.Before(until) {
		return false
	}
	p.wakeAt(until)
	return true
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// mayRely answers whether this node keeps a pod, and promises it.
func (p *pass) mayRely(a Ask) string {
	m := p.index.own[a.UID]
	switch {
	case m == nil || m.Terminating || m.ended():
		return "node " + p.in.Self + " does not run it"
	case !m.Ready:
		return m.Name + " is not ready"
	}
	for _, o := range p.inSlot(a.Slot) {
		if o.Node != a.From && o.UID != m.UID && o.live() && o.Ready && o.Revision == m.Revision && senior(o, *m) < 0 {
			return fmt.Sprintf("%s on node %s has the earlier right", o.Name, o.Node)
		}
	}
	p.index.registry.words[m.UID] = p.in.Now.Add(wordHolds)
	return ""
}
