// Package gate decides when a node of the flock is gone: held for dead, so that its document counts for
// nothing and its slots are given to others.
//
// Membership alone is not believed. A word that a node has failed only begins a check; the node is gone
// when it does not answer this node itself, the witnesses say the same, a hold-down has passed, and
// neither the storm breaker nor the minority rule forbids that anything moves.
//
// The package is pure. [Step] takes the state and one event and returns the next state and what is to be
// done; it reads no clock, socket or file. Agent and simulator drive the same code:
//
//	Serf ─▶ Members      connections ─▶ Broken, HandedOver      clock ─▶ Tick       ┐
//	direct calls ─▶ Checked      witnesses ─▶ Asked, Witnessed                      ├─ Step ─▶ Check, Ask, Reply,
//	Git ─▶ Enrolled, Release      the node's document ─▶ Planned                    ┘     Gone, Back, EndpointsOff …
//
// A decision reads [State.View] of every node; what must outlive the agent is [State.Durable].
package gate

import "time"

// The numbers of the gate. Serf with its defaults says that a node failed 6 s after it died in a flock of
// 5, and 14 s after in one of 1,000; faster detectors named thousands of living nodes on a busy machine.
const (
	// HoldDown is how long a node must have failed before it is gone; doubled with each flap.
	HoldDown = 3 * time.Second
	// FlapsCount is how long the return of a node doubles its next hold-down.
	FlapsCount = 10 * time.Minute
	// StableFor is how long a node that was seen is a stable member.
	StableFor = 10 * time.Minute
	// RefusesFor is how long a host that answers while its agent is down is not gone.
	RefusesFor = 5 * time.Minute
	// PlannedFor is how long a node can be away by its own announcement without being gone.
	PlannedFor = 10 * time.Minute
	// StormWithin is the time in which too many nodes must vanish to trip the storm breaker, and how long
	// the view must then have been stable before anything moves.
	StormWithin = 30 * time.Second
	// JoinFor is how long membership may take to say of an enrolled node that it is alive, after this
	// node's start or after the node's enrolment. After that it has failed.
	JoinFor = 10 * time.Second

	checkTimeout = 5 * time.Second         // after that a check or a witness that says nothing has no answer
	sightFor     = 12 * time.Second        // an answer counts so long: longer than between two checks
	replyFor     = 2 * time.Second         // a witness answers with a check that is no older
	askAhead     = 2500 * time.Millisecond // before the end of the hold-down witnesses are asked
	checkFirst   = time.Second             // between two checks of a node in doubt, doubled up to checkMost
	checkMost    = 8 * time.Second
	// missesAfterSign checks in a row must have no answer where the host has answered anybody since it came
	// in doubt: where messages are lost, one check says little.
	missesAfterSign = 3
	// lateBy is how late Step must be called to find out that this node itself gets too little processor
	// to judge others: it would take its own slowness for their silence.
	lateBy   = time.Second
	maxFlaps = 6 // no hold-down is longer than HoldDown << maxFlaps
)

// Answer is what a direct call to a node's agent came to.
type Answer string

// Answers.
const (
	// Answered: the agent itself answered, with the node's key.
	Answered Answer = "answered"
	// Refused: the host answers, and no agent listens or it does not get as far as to answer: it was
	// upgraded, crashes, or starves. A connection that was refused or reset counts, and one that was
	// accepted while the handshake timed out.
	Refused Answer = "refused"
	// NoAnswer: nothing came back, or a router said that the host cannot be reached.
	NoAnswer Answer = "no answer"
	// Unknown, of a witness: it could not be asked or gave no answer about the other node.
	Unknown Answer = ""
)

// Event is what Step is told: one of Tick, Members, Enrolled, Broken, HandedOver, Planned, Checked, Asked,
// Witnessed and Release. Names of nodes that are not enrolled are passed over.
type Event interface{ event() }

// Tick says that time has passed. It is to come when [State.Wake] says so: a node that finds itself a second
// late holds nobody for gone.
type Tick struct{}

// Members is membership's word: which nodes joined or came back, and which failed or left. Nodes that are
// not named are as before, and all that is known at the start is best said in one event. It comes after
// [Enrolled], and again for nodes that were enrolled since.
type Members struct{ Alive, Failed []string }

// Enrolled names all nodes of the accepted state of the config repository; this node may be among them.
// Step keeps the slice, which must be sorted and must not be changed any more.
type Enrolled struct{ Names []string }

// Broken says that the connection over which a node's documents came broke. The check may start then.
type Broken struct{ Node string }

// HandedOver says that the node itself, not another, has handed over its current document: gossip counts
// the document again. Only of nodes that are gone need it be said.
type HandedOver struct{ Node string }

// Planned says that a node's document announces its return by a time, as before a planned restart. The zero
// time takes it back.
type Planned struct {
	Node   string
	BackBy time.Time
}

// Checked is what a check of this node came to.
type Checked struct {
	Node   string
	Answer Answer
}

// Asked says that another node wants to know what this one's direct check of a node comes to.
type Asked struct{ By, About string }

// Witnessed is a witness' answer, or Unknown when the witness itself could not be asked.
type Witnessed struct {
	Witness, About string
	Answer         Answer
}

// Release says that a signed commit releases the storm breaker.
type Release struct{}

func (Tick) event()       {}
func (Members) event()    {}
func (Enrolled) event()   {}
func (Broken) event()     {}
func (HandedOver) event() {}
func (Planned) event()    {}
func (Checked) event()    {}
func (Asked) event()      {}
func (Witnessed) event()  {}
func (Release) event()    {}

// Effect is what Step asks for: one of Check, Ask, Reply, Gone, Back, EndpointsOff and EndpointsOn.
type Effect interface{ effect() }

// Check asks for a direct call to the node's agent, with the node's pinned key, at once and not over a
// connection that was open before. Its result is a [Checked]; after 2 s without any it is NoAnswer.
type Check struct{ Node string }

// Ask asks witnesses about a node. Each one's answer is a [Witnessed].
type Ask struct {
	Witnesses []string
	About     string
}

// Reply answers what [Asked] brought.
type Reply struct {
	To, About string
	Answer    Answer
}

// Gone says that a node is held for dead from now on: its document counts as absent until it has handed
// over a current one itself. It is repeated with the first [Enrolled] of an agent for nodes that were gone
// before it started, and when the node handed over a document although membership still says that it
// failed: that document does not count either.
type Gone struct{ Node, Reason string }

// Back says that a node that was gone counts again.
type Back struct{ Node string }

// EndpointsOff says that endpoints on the node are to leave the services, but for those that would have
// none left. EndpointsOn takes it back.
type EndpointsOff struct{ Node string }

// EndpointsOn says that endpoints on the node belong to the services again.
type EndpointsOn struct{ Node string }

func (Check) effect()        {}
func (Ask) effect()          {}
func (Reply) effect()        {}
func (Gone) effect()         {}
func (Back) effect()         {}
func (EndpointsOff) effect() {}
func (EndpointsOn) effect()  {}

// View is what this node believes of a node.
type View struct {
	Gone         bool
	Stable       bool      // seen in the last ten minutes
	Failed       bool      // by membership
	EndpointsOff bool      // see [EndpointsOff]
	Answer       Answer    // of the last check while in doubt
	Since        time.Time // when it failed; zero when it has not
	BackBy       time.Time // as it announced; zero when it did not
	Flaps        int       // that count
}
