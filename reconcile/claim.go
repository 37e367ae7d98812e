package reconcile

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/placement"
)

const (
	clusterUnit = "pleach.dev" // the cluster's own files, among the accepted

	rankDelay    = 4 * time.Second  // each rank waits as much longer than the one before
	declineFirst = 30 * time.Second // how long a node that declined is not asked again, doubled each time
	waveSettles  = time.Minute      // a claim that old belongs to no wave
)

// place plans all open slots, and claims those that are this node's to start.
func (p *pass) place() {
	free := p.room()
	for _, x := range p.wants {
		p.at = x.w.at
		a, _ := p.index.plan.Find(x.key())
		p.claim(x, a, &free)
	}
	// All claims go out in one version of the document: what is planned while they are carried out is then
	// planned from all of them or none.
	asks := slices.ContainsFunc(p.asks, func(a Ask) bool {
		_, again := p.index.answers[a] // what was refused before is not waited for
		return a.Kind == AskClaim && !again
	})
	for _, x := range p.wants {
		if p.at = x.w.at; x.epoch > 0 && asks && p.in.without != ruleWhole {
			p.explain(x.w, x.s, RuleClaim, "may start; waits for what other claims of this node come to")
		} else if x.epoch > 0 {
			p.start(x)
		}
	}
	p.yield()
}

// yield stops this node's pods whose room the plan gives to a slot of higher priority. The other
// slot claims it once they have ended. As for a claim, all documents must be there: a node that has
// not heard everybody sees less room used than there is, and others open that are not.
func (p *pass) yield() {
	for _, v := range p.preempted() {
		i := slices.IndexFunc(p.wants, func(x *want) bool { return x.key() == v.by })
		if i < 0 {
			continue
		}
		x := p.wants[i]
		p.again(x.w.at)
		p.again(v.w.at)
		p.at = x.w.at
		if x.until != "" || p.gate(x.w.object.Source.App) != "" {
			continue
		}
		reason := fmt.Sprintf("preempted by %s of higher priority", x.w.label(x.s))
		for _, m := range v.s.live() {
			if m.Node == p.in.Self {
				p.stop(m, ByPreempted, reason)
				p.explain(v.w, v.s, RuleStop, reason)
			}
		}
	}
}

// room is what this node has left for pods, by what it really runs.
func (p *pass) room() placement.Resources {
	var free placement.Resources
	if q := p.index.peers[p.in.Self]; q != nil && q.node != nil {
		free = p.index.placementNode(q).Allocatable
	}
	if d := p.docs[p.in.Self]; d != nil {
		for _, m := range d.Instances {
			if !m.ended() {
				free = free.Sub(p.uses(p.index.byUID[m.Slot.Workload], m))
			}
		}
	}
	return free
}

// claim starts the pod if the plan, the other nodes and this node's room let it.
func (p *pass) claim(x *want, a placement.Assignment, free *placement.Resources) {
	say := func(rule, reason string) {
		e := p.explain(x.w, x.s, rule, reason)
		e.Revision, e.Candidates = x.template.Revision, a.Candidates
		if x.beside == nil {
			e.Node = a.Node
		}
	}
	if x.until != "" {
		p.explain(x.w, x.s, RuleRollout, x.until)
		return
	}
	if a.Node == "" {
		if x.beside != nil && a.Nominated == "" && p.stopInstead(x, *free) {
			return
		}
		say(RulePlacement, a.Reason)
		return
	}
	since := p.open(x)
	if !slices.Contains(a.Candidates, p.in.Self) {
		say(RulePlacement, fmt.Sprintf("node %s is to start it", a.Node))
		return
	}
	if why := p.turn(x, a, since); why != "" {
		say(RuleClaim, why)
		return
	}
	if why := p.gate(x.w.object.Source.App); why != "" {
		say(RuleClaim, why)
		return
	}
	if p.in.Frozen != "" && x.cause.loss() && p.in.without != ruleFrozen {
		say(RuleClaim, p.in.Frozen)
		return
	}
	z := x.w.size(x.template)
	if reasons := z.requests.Fits(*free); len(reasons) > 0 {
		reason := fmt.Sprintf("node %s declined: %s", p.in.Self, reasons[0])
		p.declines = append(p.declines, Decline{Slot: x.s.id, Revision: x.template.Revision, Reason: reason, At: p.in.Now})
		p.wakeAt(p.in.Now.Add(declineFirst))
		say(RuleClaim, reason)
		return
	}
	*free = free.Sub(z.requests) // also while an answer is waited for
	if x.token {
		if why := p.token(x.w, x.s, *x.beside, true); why != "" {
			say(RuleClaim, why)
			return
		}
	}
	epoch, why := p.register(x)
	if why != "" {
		say(RuleClaim, why)
		return
	}
	x.epoch = epoch
}

// turn says why this node, a candidate, must wait before it claims: each rank waits longer than the
// one before, from when the slot was first seen open. Nodes that declined are passed over, and after
// all have, the first whose back-off is over tries again.
func (p *pass) turn(x *want, a placement.Assignment, since time.Time) string {
	if until, reason := p.declined(x, p.in.Self); p.in.Now.Before(until) {
		p.wakeAt(until)
		return fmt.Sprintf("%s; tries again at %s", reason, until.UTC().Format(time.RFC3339))
	}
	ahead := 0
	for _, name := range a.Candidates[:slices.Index(a.Candidates, p.in.Self)] {
		if until, _ := p.declined(x, name); !p.in.Now.Before(until) || p.in.without == ruleDecline {
			ahead++
		}
	}
	if turn := since.Add(time.Duration(ahead) * rankDelay); p.in.Now.Before(turn) && p.in.without != ruleRank {
		p.wakeAt(turn)
		return fmt.Sprintf("node %s is to start it", a.Node)
	}
	return ""
}

// declined says until when a node is not asked for a slot that it declined, and why it did.
func (p *pass) declined(x *want, node string) (time.Time, string) {
	d := p.docs[node]
	if d == nil {
		return time.Time{}, ""
	}
	var times int32
	var last Decline
	for _, c := range d.Declines {
		if c.Slot == x.s.id && c.Revision == x.template.Revision {
			times++
			if !c.At.Before(last.At) {
				last = c
			}
		}
	}
	if times == 0 {
		return time.Time{}, ""
	}
	until := last.At.Add(backOff(declineFirst, times))
	if p.in.Now.Before(until) {
		p.dueAt(until)
	}
	return until, last.Reason
}

// gate says why this node may claim nothing of an app yet. A node that has not heard everybody, or
// whose version of the app is not the newest, would bring back what others have deleted.
func (p *pass) gate(app string) string {
	if why := p.unheard(); why != "" && p.in.without != ruleHeard {
		return why
	}
	if p.in.without == ruleNewest {
		return ""
	}
	if c := p.newest[app]; c.Level > p.in.Accepted[app].Level {
		return fmt.Sprintf("node %s has accepted a newer commit of %s: %s", c.node, app, c.ID)
	}
	return ""
}

// unheard says whose document has not arrived yet.
func (p *pass) unheard() string {
	p.index.listening[p.at] = true
	return p.index.unheard
}

// stopInstead lets a slot stop first whose new pod fits on no node beside the old one, with the token of
// the workload's registrar. Slots that stop first by the order of the rollout do without it, so that those
// around it must have changed already: the order keeps the later ones waiting until this one is ready.
func (p *pass) stopInstead(x *want, free placement.Resources) bool {
	w, r := x.w, x.w.roll
	if x.beside.Node != p.in.Self || x.moves || w.strategy.unavailable == 0 || !p.fitsWithout(x, free) {
		return false
	}
	r.places[x.s.index].surging = false
	why := ""
	for j, o := range r.places {
		if near := j > x.s.index-r.window() && j < x.s.index+r.window() && p.in.without != ruleNeighbours; near && r.manner(j) == stopFirst && !o.updated && why == "" {
			why = fmt.Sprintf("fits on no node beside %s; waits for %s to be ready before it may stop first", x.beside.Name, o.label)
		}
	}
	if why = cmp.Or(why, withinUnavailable(r, x.s.index, stopFirst), p.unheard()); why == "" {
		why = p.token(w, x.s, *x.beside, false)
	}
	if why != "" {
		p.explain(w, x.s, RuleRollout, why)
		return true
	}
	p.change(w, x.s, *x.beside, fmt.Sprintf("revision %s follows and does not fit beside it", x.template.Revision))
	return true
}

// fitsWithout reports whether this node could run the new pod were the old one gone.
func (p *pass) fitsWithout(x *want, free placement.Resources) bool {
	q := p.index.peers[p.in.Self]
	if q == nil || q.node == nil {
		return false
	}
	z, n := x.w.size(x.template), p.index.placementNode(q)
	return z.constraints.Admits(&n) == "" && len(z.requests.Fits(free.Add(p.uses(x.w, *x.beside)))) == 0
}

// start claims a slot for this node, with the epoch that the registrar has given.
func (p *pass) start(x *want) {
	c := claim{slot: x.s.id, epoch: x.epoch, node: p.in.Self, boot: p.in.Boot}
	i := Instance{
		Slot: x.s.id, Revision: x.template.Revision, Epoch: c.epoch, Node: c.node, Boot: c.boot,
		Claimed: p.in.Now.UTC().Truncate(time.Microsecond), Cause: x.cause.name, Commit: x.w.object.Commit, App: x.w.object.Source.App,
		Kind: x.w.kind, Namespace: x.w.namespace, Owner: x.w.name,
		Name: c.podName(x.w.kind, x.w.name, x.template.Revision), UID: c.uid(), Phase: corev1.PodPending,
	}
	x.s.memory.Epoch, x.s.memory.Node, x.s.memory.Boot = c.epoch, c.node, c.boot
	p.ended(x.s)

	reason := fmt.Sprintf("fills %s at revision %s", x.w.label(x.s), i.Revision)
	switch {
	case x.moves:
		reason = fmt.Sprintf("replaces %s of node %s, which is drained", x.beside.Name, x.beside.Node)
	case x.beside != nil:
		reason = fmt.Sprintf("replaces %s at revision %s", x.beside.Name, i.Revision)
	}
	p.starts = append(p.starts, Action{Kind: Start, Instance: i, Pod: newPod(x.w, x.template, i), Reason: reason, By: i.Cause})
	if i.Revision == x.w.revision {
		x.s.now = append(x.s.now, i)
	} else {
		x.s.old = append(x.s.old, i)
	}
	e := p.explain(x.w, x.s, RuleStart, reason)
	e.Node, e.Pod, e.Revision = i.Node, i.Name, i.Revision
}
