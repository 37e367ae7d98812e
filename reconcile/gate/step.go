package gate

import (
	"slices"
	"time"
)

// Step takes one event. It takes s over and returns the next state and what is to be done, in order.
func Step(s State, e Event, now time.Time) (State, []Effect) {
	t := step{State: &s, now: now}
	if !s.wake.IsZero() && now.Sub(s.wake) > lateBy {
		s.late = now
	}
	switch e := e.(type) {
	case Tick:
	case Members:
		for _, name := range e.Alive {
			t.alive(name)
		}
		for _, name := range e.Failed {
			t.failed(name)
		}
	case Enrolled:
		t.enroll(e.Names)
	case Broken:
		if t.other(e.Node) {
			if p := t.peer(e.Node); !p.broken {
				p.broken, p.next = true, now
			}
		}
	case HandedOver:
		t.handedOver(e.Node)
	case Planned:
		if t.other(e.Node) && (!e.BackBy.IsZero() || t.peers[e.Node] != nil) {
			t.peer(e.Node).backBy = e.BackBy
		}
	case Checked:
		t.checked(e.Node, e.Answer)
	case Asked:
		t.asked(e.By, e.About)
	case Witnessed:
		t.witnessed(e)
	case Release:
		t.storm = false
		for _, p := range t.peers {
			if !p.vanished.IsZero() {
				p.vanished = now.Add(-StormWithin) // counts no more
			}
		}
	}
	t.look()
	return s, t.effects
}

// step is one run of Step.
type step struct {
	*State
	now     time.Time
	effects []Effect
	counted *members // of this step, once somebody has asked
}

func (t *step) do(e Effect) { t.effects = append(t.effects, e) }

// other reports whether a name is that of an enrolled node, and not this one's.
func (t *step) other(name string) bool { return name != t.self && t.enrolled(name) }

func (t *step) alive(name string) {
	p := t.peers[name]
	if p == nil || !t.enrolled(name) {
		return
	}
	if !p.failed.IsZero() && !p.seen.IsZero() {
		p.flaps = append(p.flaps, t.now)
		t.changed = t.now
	}
	p.waiting, p.failed, p.broken, p.seen = time.Time{}, time.Time{}, false, t.now
	p.certain()
}

// certain ends all doubt about a node.
func (p *peer) certain() {
	p.vanished, p.refuses, p.alive, p.next = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	p.answer, p.misses, p.signs, p.tries, p.testimony = Unknown, 0, false, 0, nil
}

func (t *step) failed(name string) {
	if !t.other(name) {
		return
	}
	p := t.peer(name)
	if !p.failed.IsZero() {
		return
	}
	if p.waiting.IsZero() {
		p.seen = t.now
	}
	p.fail(t.now)
}

func (p *peer) fail(now time.Time) {
	p.failed, p.waiting, p.next = now, time.Time{}, now
}

func (t *step) enroll(names []string) {
	for _, name := range names {
		if name == t.self || t.enrolled(name) {
			continue
		}
		p := t.peer(name)
		p.waiting = t.now
		if p.seen = t.restored[name]; t.forgot {
			p.seen = t.now
		}
		if p.gone {
			t.do(Gone{name, "it was held for gone before this agent started"})
		}
	}
	t.names, t.restored, t.forgot = names, nil, false
	for name := range t.peers {
		if !t.enrolled(name) {
			delete(t.peers, name)
		}
	}
}

// handedOver: who speaks for itself is back, if membership agrees. Where it does not, the node speaks
// and cannot be spoken to.
func (t *step) handedOver(name string) {
	p := t.peers[name]
	if p == nil || !t.enrolled(name) {
		return
	}
	p.alive = t.now
	if !p.isAlive() {
		p.seen = t.now
	}
	switch {
	case !p.gone:
	case p.failed.IsZero():
		p.gone = false
		p.certain()
		t.do(Back{name})
	default:
		t.do(Gone{name, "it handed over a document, and membership still says that it failed"})
	}
}

func (t *step) check(name string, p *peer) {
	if p.checking.IsZero() {
		p.checking = t.now
		t.do(Check{name})
	}
}

func (t *step) checked(name string, answer Answer) {
	p := t.peers[name]
	if p == nil || !t.enrolled(name) {
		return
	}
	p.checking, p.answer, p.answered = time.Time{}, answer, t.now
	for _, to := range p.askers {
		t.do(Reply{to, name, answer})
	}
	p.askers = nil
	if !p.inDoubt() {
		return
	}
	if answer == NoAnswer {
		if p.misses == 0 {
			p.tries = 0
		}
		p.misses++
	} else {
		p.misses, p.signs = 0, true
	}
	p.next = t.now.Add(min(checkFirst<<min(p.tries, 6), checkMost))
	if answer == NoAnswer && p.misses < missesAfterSign {
		p.next = t.now.Add(checkFirst)
	}
	p.tries++
	switch answer {
	case Answered:
		p.alive, p.broken, p.refuses, p.vanished, p.testimony = t.now, false, time.Time{}, time.Time{}, nil
		if !p.isAlive() {
			p.seen = t.now
		}
	case Refused:
		p.refused(t.now)
	case NoAnswer, Unknown:
	}
}

// refused: the host answers, as seen from here or by a witness.
func (p *peer) refused(now time.Time) {
	if p.refuses.IsZero() {
		p.refuses = now
	}
}

// asked: a witness says what a check of its own comes to.
func (t *step) asked(by, about string) {
	if !t.other(by) || !t.other(about) {
		t.do(Reply{by, about, Unknown})
		return
	}
	p := t.peer(about)
	if p.remembers(t.now) {
		t.do(Reply{by, about, p.answer})
		return
	}
	if !slices.Contains(p.askers, by) {
		p.askers = append(p.askers, by)
	}
	t.check(about, p)
}

// remembers reports whether the answer to the last check will do for a witness.
func (p *peer) remembers(now time.Time) bool {
	return p.answer != Unknown && now.Sub(p.answered) < replyFor
}

func (t *step) witnessed(e Witnessed) {
	p := t.peers[e.About]
	if p == nil || p.testimony[e.Witness] == nil {
		return
	}
	*p.testimony[e.Witness] = testimony{at: t.now, answer: e.Answer}
	p.signs = p.signs || e.Answer == Answered || e.Answer == Refused
	if e.Answer == Refused {
		p.refused(t.now)
	}
}
