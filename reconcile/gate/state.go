package gate

import (
	"maps"
	"slices"
	"time"
)

// State is what a node knows of who is there. [Step] takes the one that it is given over: only the State
// that it returns may be used afterwards.
type State struct {
	self     string
	forgot   bool                 // nothing was remembered, and nobody is enrolled yet
	restored map[string]time.Time // when nodes were last seen, of those that are not enrolled yet
	names    []string             // of all that are enrolled, sorted; this node's own may be among them
	// peers holds what is to be said of a node beside that it is alive. An enrolled node without an entry
	// is alive and nothing is known against it.
	peers   map[string]*peer
	storm   bool
	changed time.Time // when a member last vanished or came back
	wake    time.Time // zero: nothing is due
	late    time.Time // when Step was last called long after it had asked to be
}

// peer is a node that is not plainly alive.
type peer struct {
	seen    time.Time // last in sight, while it is not alive; zero: never
	waiting time.Time // since when membership has said nothing of it; zero: it has
	failed  time.Time // when membership said so; zero: it did not
	broken  bool      // its connection broke, and no check was answered since
	backBy  time.Time // as its document announced
	gone    bool
	off     bool        // its endpoints have left the services
	flaps   []time.Time // when it came back

	vanished time.Time // when it vanished, for the storm breaker; zero: it did not
	answer   Answer    // to the last check, while in doubt
	answered time.Time // when
	misses   int       // checks without an answer, one after the other
	signs    bool      // its host or its agent answered this node or a witness, while in doubt
	alive    time.Time // when it last gave a sign of life, while in doubt
	refuses  time.Time // since when its host answers without its agent

	checking  time.Time // when the check began that is under way; zero: none
	next      time.Time // when the next one is due; zero: none
	tries     int       // checks since it came in doubt
	testimony map[string]*testimony
	askers    []string // nodes that wait for this node's answer about it
}

// testimony is what a witness was asked and said.
type testimony struct {
	at     time.Time // asked, and then answered
	open   bool
	answer Answer
}

// NewState returns the state of a node that starts. What the agent before it left counts as if no time
// had passed while no agent ran: whoever was a stable member then is one now. A node to which nothing
// was left (nil) takes all that are enrolled first for stable members.
func NewState(self string, left *Durable, now time.Time) State {
	s := State{self: self, peers: map[string]*peer{}, restored: map[string]time.Time{}, forgot: left == nil}
	if left == nil {
		return s
	}
	shift := now.Sub(left.Saved)
	at := func(t time.Time) time.Time {
		if t = t.Add(shift); t.After(now) {
			return now
		}
		return t
	}
	for name, t := range left.Seen {
		s.restored[name] = at(t)
	}
	for name, list := range left.Flaps {
		for _, t := range list {
			s.peer(name).flaps = append(s.peer(name).flaps, at(t))
		}
	}
	for _, name := range left.Gone {
		s.peer(name).gone = true
	}
	return s
}

// Durable is what must outlive the agent. It is to be written after each [Gone] and [Back], and
// otherwise once a minute.
type Durable struct {
	Saved time.Time              `json:"saved"`           // when it was written
	Seen  map[string]time.Time   `json:"seen"`            // when each node was last seen, of those seen in the last ten minutes
	Flaps map[string][]time.Time `json:"flaps,omitempty"` // when nodes came back, in the last ten minutes
	Gone  []string               `json:"gone,omitempty"`  // sorted
}

// Durable returns what is to be written to disk.
func (s State) Durable(now time.Time) Durable {
	d := Durable{Saved: now, Seen: map[string]time.Time{}, Flaps: map[string][]time.Time{}}
	for _, name := range s.names {
		p := s.peers[name]
		if name == s.self {
			continue
		}
		if s.stable(p, now) {
			d.Seen[name] = now
			if p != nil && !p.isAlive() {
				d.Seen[name] = p.seen
			}
		}
		if p == nil {
			continue
		}
		if p.gone {
			d.Gone = append(d.Gone, name)
		}
		if len(p.flaps) > 0 {
			d.Flaps[name] = slices.Clone(p.flaps)
		}
	}
	return d
}

// View returns what is believed of a node; of one that is not enrolled, nothing.
func (s State) View(node string, now time.Time) View {
	if node == s.self {
		return View{Stable: true}
	}
	if !s.enrolled(node) {
		return View{}
	}
	p := s.peers[node]
	if p == nil {
		return View{Stable: true}
	}
	return View{
		Gone: p.gone, Stable: s.stable(p, now), Failed: !p.failed.IsZero(), EndpointsOff: p.off,
		Answer: p.answer, Since: p.failed, BackBy: p.backBy, Flaps: len(p.flaps),
	}
}

// Wake is when Step wants a [Tick] at the latest; the zero time when it wants none.
func (s State) Wake() time.Time { return s.wake }

func (s *State) enrolled(name string) bool {
	_, ok := slices.BinarySearch(s.names, name)
	return ok
}

// peer returns the entry of a node, which it makes when there is none.
func (s *State) peer(name string) *peer {
	p := s.peers[name]
	if p == nil {
		p = &peer{}
		s.peers[name] = p
	}
	return p
}

// known lists the nodes that have entries, sorted.
func (s *State) known() []string { return slices.Sorted(maps.Keys(s.peers)) }

// stable reports whether a node was seen lately; nil is a node that is alive.
func (s *State) stable(p *peer, now time.Time) bool {
	return p == nil || p.isAlive() || !p.seen.IsZero() && now.Sub(p.seen) < StableFor
}

// isAlive reports whether membership says so.
func (p *peer) isAlive() bool { return p.failed.IsZero() && p.waiting.IsZero() }

// inDoubt reports whether the node is to be checked.
func (p *peer) inDoubt() bool { return !p.gone && (!p.failed.IsZero() || p.broken) }

// inSight reports whether something of the node was heard of lately; nil is a node that is alive.
func (p *peer) inSight(now time.Time) bool {
	if p == nil || p.isAlive() && !p.gone && (!p.broken || p.answer != NoAnswer) {
		return true
	}
	return (p.answer == Answered || p.answer == Refused) && now.Sub(p.answered) <= sightFor
}
