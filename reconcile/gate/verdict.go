package gate

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"
)

// look goes through all nodes that are not plainly alive.
func (t *step) look() {
	if len(t.peers) == 0 && !t.storm {
		t.wake = time.Time{}
		return
	}
	names := t.known()
	vanished := 0
	for _, name := range names {
		p := t.peers[name]
		p.flaps = slices.DeleteFunc(p.flaps, func(at time.Time) bool { return t.now.Sub(at) >= FlapsCount })
		if !p.waiting.IsZero() && t.enrolled(name) && !t.now.Before(p.waiting.Add(JoinFor)) {
			p.fail(t.now)
		}
		if !p.checking.IsZero() && !t.now.Before(p.checking.Add(checkTimeout)) {
			t.checked(name, NoAnswer)
		}
		if p.vanished.IsZero() && p.vanishes() {
			p.vanished, t.changed = t.now, t.now
		}
		if !p.vanished.IsZero() && t.now.Sub(p.vanished) < StormWithin && t.stable(p, t.now) {
			vanished++
		}
	}
	t.breaker(vanished)
	for _, name := range names {
		p := t.peers[name]
		if p.inDoubt() {
			t.doubt(name, p)
		}
		t.endpoints(name, p)
		if p.plain(t.now) {
			delete(t.peers, name) // which counts as before
		}
	}
	t.setWake()
}

// vanishes reports whether the storm breaker counts the node.
func (p *peer) vanishes() bool {
	return p.inDoubt() && (!p.failed.IsZero() || p.answer == NoAnswer) && p.answer != Answered
}

// plain reports whether there is nothing to be said of a node but that it is alive.
func (p *peer) plain(now time.Time) bool {
	return p.isAlive() && !p.gone && !p.broken && !p.off && len(p.flaps) == 0 && p.backBy.IsZero() && p.checking.IsZero() && !p.remembers(now)
}

// endpoints leave as soon as membership says failed. They stay, and return, while the host answers.
func (t *step) endpoints(name string, p *peer) {
	off := p.gone || !p.failed.IsZero() && p.answer != Answered && p.answer != Refused
	switch {
	case off && !p.off:
		t.do(EndpointsOff{name})
	case !off && p.off:
		t.do(EndpointsOn{name})
	}
	p.off = off
}

// tooMany is more than a fifth of all, and more than one: a flock of few would never move anything.
var tooMany = func(vanished, all int) bool { return vanished > 1 && vanished > all/5 }

// breaker trips when too many stable members vanish at once, and holds until the view was stable.
func (t *step) breaker(vanished int) {
	switch {
	case tooMany(vanished, t.members().all):
		t.storm = true
	case t.storm && t.now.Sub(t.changed) >= StormWithin:
		t.storm = false
	}
}

// members is a count of stable members.
type members struct {
	all, seen int  // seen: of all, those in sight
	lowest    bool // the one with the lowest name is in sight
}

// members counts once in a step, and again when a node was held for gone: there may be as many nodes in doubt
// as there are members.
func (t *step) members() members {
	if t.counted == nil {
		t.counted = new(t.count())
	}
	return *t.counted
}

func (t *step) count() (m members) {
	for _, name := range t.names {
		p := t.peers[name]
		if name != t.self && !t.stable(p, t.now) {
			continue
		}
		in := name == t.self || p.inSight(t.now)
		if in {
			m.seen++
		}
		if m.all == 0 {
			m.lowest = in
		}
		m.all++
	}
	return m
}

// moves reports whether the side that sees these members may move what ran on the others: with more than
// half of them, or with exactly half and the lowest name.
func (m members) moves() bool { return 2*m.seen > m.all || 2*m.seen == m.all && m.lowest }

// Frozen says why nothing is moved now, in words for people; "" when nothing is in the way. No node is held for
// gone then, and what one ran that was held for gone just before stays open.
func (s State) Frozen(now time.Time) string {
	if len(s.peers) == 0 {
		return "" // all are there
	}
	if s.storm {
		return fmt.Sprintf("more than a fifth of the nodes vanished within %s: no pod is moved until the view has been stable for %s, or a commit releases it", StormWithin, StormWithin)
	}
	t := step{State: &s, now: now}
	if m := t.members(); !m.moves() {
		return fmt.Sprintf("%d of %d nodes are in sight, and the others may go on by themselves: no pod is moved from this side", m.seen, m.all)
	}
	return ""
}

// rule says whether a node may be held for gone at a time, as far as this rule goes.
type rule func(t *step, p *peer, at time.Time) bool

// rules must all say yes.
var rules = []rule{awake, calm, heldDown, notPlanned, unanswered, notRefused, majority}

func (t *step) all(p *peer, at time.Time) bool {
	return !slices.ContainsFunc(rules, func(r rule) bool { return !r(t, p, at) })
}

// doubt goes on with the check of a node, and holds it for gone when all that is asked for has come
// together. Witnesses are asked a little before the hold-down is over, so that nothing waits for them.
func (t *step) doubt(name string, p *peer) {
	if !t.now.Before(p.next) {
		t.check(name, p)
	}
	if p.failed.IsZero() || !t.all(p, t.now.Add(askAhead)) {
		return
	}
	agree, agreed := t.witnesses(name, p)
	if !agreed || !t.all(p, t.now) {
		return
	}
	p.gone, p.testimony, p.next, t.counted = true, nil, time.Time{}, nil
	said := strings.Join(append([]string{t.self}, agree...), ", ")
	t.do(Gone{name, fmt.Sprintf("failed since %s, and does not answer %s", p.failed.UTC().Format(time.TimeOnly), said)})
}

// awake: this node was not late itself, as one is that starves (Lifeguard's local health, Dadgar et al. 2017).
func awake(t *step, _ *peer, _ time.Time) bool {
	return t.late.IsZero() || t.now.Sub(t.late) >= sightFor
}

// calm: not while too many nodes vanish at once.
func calm(t *step, _ *peer, _ time.Time) bool { return !t.storm }

// heldDown: a hold-down has passed since the last sign of life.
func heldDown(_ *step, p *peer, at time.Time) bool { return !at.Before(p.heldUntil()) }

func (p *peer) heldUntil() time.Time {
	from := p.failed
	if p.alive.After(from) {
		from = p.alive
	}
	return from.Add(HoldDown << min(len(p.flaps), maxFlaps))
}

// notPlanned: the time is over for which the node announced itself away.
func notPlanned(_ *step, p *peer, at time.Time) bool { return !at.Before(p.awayUntil()) }

func (p *peer) awayUntil() time.Time {
	if most := p.failed.Add(PlannedFor); p.backBy.After(most) {
		return most
	}
	return p.backBy
}

// unanswered: the node has just given no answer to this one. That its host refuses is another rule's.
func unanswered(t *step, p *peer, _ time.Time) bool {
	if t.now.Sub(p.answered) > sightFor {
		return false
	}
	return p.answer == Refused || p.answer == NoAnswer && (!p.signs || p.misses >= missesAfterSign)
}

// notRefused: the host does not answer, or has done so without its agent for long.
func notRefused(_ *step, p *peer, at time.Time) bool {
	return p.answer != Refused || !at.Before(p.refuses.Add(RefusesFor))
}

// majority: this side is not the smaller part of a flock that was split.
func majority(t *step, _ *peer, _ time.Time) bool { return t.members().moves() }

// enough says how many of the witnesses that were asked must agree: with this node two of three, or all
// where there are fewer.
var enough = func(agree, asked int) bool { return agree == asked || agree == 1 }

// witnesses asks the first two others by hash that can be reached. It names those that agree, and says
// whether they are enough: two of three with this node, or all where there are fewer.
func (t *step) witnesses(name string, p *peer) (agree []string, agreed bool) {
	if p.testimony == nil {
		p.testimony = map[string]*testimony{}
	}
	var ask []string
	counted, waits, refused := 0, false, false
	others := t.byHash(name)
	for _, w := range others {
		if counted == 2 {
			break
		}
		x := p.testimony[w]
		if x == nil || !x.open && t.now.Sub(x.at) > x.keeps() {
			x = &testimony{at: t.now, open: true}
			p.testimony[w], ask = x, append(ask, w)
		}
		if x.open && t.now.Sub(x.at) >= checkTimeout {
			*x = testimony{at: t.now}
		}
		switch {
		case x.open:
			waits = true
		case x.answer == Unknown:
			continue // cannot be reached: the next one is asked
		case x.answer == Refused && t.now.Before(p.refuses.Add(RefusesFor)):
			refused = true
		case x.answer != Answered:
			agree = append(agree, w)
		}
		counted++
	}
	if len(ask) > 0 {
		t.do(Ask{ask, name})
	}
	if !waits && !refused && p.answer != Refused {
		p.refuses = time.Time{}
	}
	if counted == 0 && len(others) > 0 {
		return nil, false // membership says that they are there: it may be this node that is cut off, or starved
	}
	return agree, !waits && !refused && enough(len(agree), counted)
}

// keeps is how long a closed testimony counts; one that could not be reached is left alone for longer.
func (x *testimony) keeps() time.Duration {
	if x.answer == Unknown {
		return StormWithin
	}
	return sightFor
}

// byHash lists the other nodes that are in sight, in an order that is the same for every observer of the
// node in question: rendezvous hashing (Thaler and Ravishankar 1998).
func (t *step) byHash(about string) []string {
	type candidate struct {
		name string
		hash uint64
	}
	var list []candidate
	for _, name := range t.names {
		if p := t.peers[name]; name == t.self || name == about || p != nil && (p.gone || p.inDoubt() || !p.isAlive()) {
			continue
		}
		sum := sha256.Sum256([]byte(about + "\x00" + name))
		list = append(list, candidate{name, binary.BigEndian.Uint64(sum[:])})
	}
	slices.SortFunc(list, func(a, b candidate) int { return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.name, b.name)) })
	names := make([]string, 0, len(list))
	for _, c := range list {
		names = append(names, c.name)
	}
	return names
}

// setWake finds out when the next thing is due by time alone.
func (t *step) setWake() {
	t.wake = time.Time{}
	at := func(x time.Time) {
		if x.After(t.now) && (t.wake.IsZero() || x.Before(t.wake)) {
			t.wake = x
		}
	}
	for name, p := range t.peers {
		if !p.waiting.IsZero() && t.enrolled(name) {
			at(p.waiting.Add(JoinFor))
		}
		if !p.checking.IsZero() {
			at(p.checking.Add(checkTimeout))
		}
		if !p.inDoubt() {
			continue
		}
		at(p.next)
		for _, x := range []time.Time{p.heldUntil(), p.awayUntil(), p.refuses.Add(RefusesFor)} {
			at(x.Add(-askAhead))
			at(x)
		}
		for _, x := range p.testimony {
			if x.open {
				at(x.at.Add(checkTimeout))
			}
		}
	}
	if t.storm {
		at(t.changed.Add(StormWithin))
	}
}
