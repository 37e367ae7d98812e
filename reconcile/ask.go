package reconcile

import (
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// How long answers and promises hold. The node that asks counts from when it asked, the one that answers
// from when it answered, which is later: so a promise outlives the answer that rests on it, also where one
// clock runs half as fast as the other.
const (
	// AnswerHolds is how long a yes may be acted on.
	AnswerHolds = time.Second
	// RefusalHolds is how long after a no the same is not asked again.
	RefusalHolds = 300 * time.Millisecond
	// UnreachableHolds is how long a node that could not be reached is not asked.
	UnreachableHolds = 10 * time.Second
	// AskWithin is how long an answer may take; after that the node counts as not reached.
	AskWithin = time.Second
)

// AskKind says what is asked.
type AskKind string

// The kinds of questions.
const (
	// AskClaim asks the registrar of a slot: may I start this pod in it?
	AskClaim AskKind = "Claim"
	// AskKeep asks the node of another pod in the slot: do you run it, is it ready, do you keep it?
	AskKeep AskKind = "Keep"
	// AskToken asks the registrar of a workload: may I be the one that changes a ready slot now?
	AskToken AskKind = "Token"
)

// Ask is a question to one node by a direct call. Equal ones are the same question.
type Ask struct {
	Kind AskKind `json:"kind"`
	To   string  `json:"to"`
	From string  `json:"from"`
	Boot int64   `json:"boot"` // of From
	Slot Slot    `json:"slot"`

	Revision string `json:"revision,omitempty"` // of a Claim: that starts
	Epoch    int64  `json:"epoch,omitempty"`    // of a Claim: with which it starts
	Surge    bool   `json:"surge,omitempty"`    // of a Claim or Token: beside a pod that the slot has; else in its place
	// UID is the pod: of a Keep the one that is to stay; of a Token the one that is to end.
	UID   types.UID `json:"uid,omitempty"`
	Level int64     `json:"level,omitempty"` // of a Token: that of the workload's commit, as From has accepted it
}

// Answer is what came of a question.
type Answer struct {
	Ask    Ask    `json:"ask"`
	Yes    bool   `json:"yes,omitempty"`
	Reason string `json:"reason,omitempty"` // of a no
	// Epoch is the highest that the registrar knows of the slot, where that is why it says no.
	Epoch int64 `json:"epoch,omitempty"`
	// Unreachable is set by the node that asks: no answer came within AskWithin, or none that its
	// node signed. At is when it asked, by its own clock.
	Unreachable bool      `json:"-"`
	At          time.Time `json:"-"`

	until time.Time // when it may be otherwise without news; zero when it may not
}

// Reply answers what another node asks. It takes s over, as [Step] does, reads in as Step does, and
// returns the state to pass in next time. What is promised by a yes stands in the state.
func Reply(s State, in Input, a Ask) (State, Answer) {
	p := newPass(s, in)
	out := p.reply(a)
	if g := p.index.tracked[a.Slot.Workload]; g != nil && out.Yes {
		p.index.mark(g) // this node is bound by what it said
	}
	return State{index: p.index}, out
}

// newPass reads what is new.
func newPass(s State, in Input) *pass {
	x := s.index
	if x == nil || x.self != in.Self {
		x = newIndex(in.Self, s.Memory())
	}
	x.read(&in)
	return &pass{
		in: in, index: x, nodes: x.nodes, docs: x.docs, pods: x.pods, newest: x.newest, stopping: map[types.UID]bool{},
	}
}

// reply answers a question that came to this node, or that it asks itself.
func (p *pass) reply(a Ask) Answer {
	out := Answer{Ask: a, At: p.in.Now}
	switch a.Kind {
	case AskClaim:
		p.mayClaim(&out)
	case AskKeep:
		out.Reason = p.mayRely(a)
	case AskToken:
		p.mayChange(&out)
	default:
		out.Reason = "node " + p.in.Self + " does not know what is asked"
	}
	out.Yes = out.Reason == ""
	return out
}

// readAnswers takes over what came of questions, and marks the workloads that asked.
func (x *index) readAnswers(answers []Answer) {
	for _, a := range answers {
		old, known := x.answers[a.Ask]
		if known && !a.At.After(old.At) {
			continue
		}
		x.answers[a.Ask] = a
		if g := x.tracked[a.Ask.Slot.Workload]; g != nil {
			if a.Epoch > 0 {
				t := g.seat(a.Ask.Slot)
				t.epoch = max(t.epoch, a.Epoch)
			}
			x.mark(g)
		}
	}
	for ask, a := range x.answers {
		if x.now.Sub(a.At) >= UnreachableHolds {
			delete(x.answers, ask)
		}
	}
}

// consent asks a node, or looks at what it answered. It returns why this node must wait, "" after a yes.
func (p *pass) consent(a Ask) string {
	a.From, a.Boot = p.in.Self, p.in.Boot
	if a.To == p.in.Self {
		answer := p.reply(a)
		if !answer.until.IsZero() {
			p.wakeAt(answer.until)
		}
		return answer.Reason
	}
	if answer, ok := p.index.answers[a]; ok {
		age := p.in.Now.Sub(answer.At)
		switch {
		case answer.Yes && age < AnswerHolds:
			p.dueAt(answer.At.Add(AnswerHolds))
			return ""
		case answer.Unreachable && age < UnreachableHolds:
			p.wakeAt(answer.At.Add(UnreachableHolds))
			return "node " + a.To + " cannot be reached"
		case !answer.Yes && !answer.Unreachable && age < RefusalHolds:
			p.wakeAt(answer.At.Add(RefusalHolds))
			return answer.Reason
		}
	}
	if !slices.Contains(p.asks, a) {
		p.asks = append(p.asks, a)
	}
	return "asks node " + a.To
}

// unreachable reports whether a node was asked something lately and could not be reached.
func (x *index) unreachable(node string) bool {
	for ask, a := range x.answers {
		if ask.To == node && a.Unreachable && x.now.Sub(a.At) < UnreachableHolds {
			return true
		}
	}
	return false
}
