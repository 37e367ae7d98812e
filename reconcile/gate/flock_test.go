package gate

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// serf is how long membership takes to say that a node failed.
const serf = 6 * time.Second

// flock drives the gates of some nodes over a network of calls that take no time, or two seconds where
// nothing answers.
type flock struct {
	t       *testing.T
	names   []string
	gates   map[string]*State
	now     time.Time
	dead    map[string]bool
	refuses map[string]bool         // hosts that are up without their agent
	cut     func(a, b string) bool  // both ways
	silent  map[[2]string]time.Time // since when one does not hear another
	failed  map[[2]string]bool      // by membership
	gone    map[[2]string]time.Time // when one held another for gone, the last time
	off     map[[2]string]bool      // endpoints
	due     []message
	lag     time.Duration // of ticks
	lost    bool          // calls to nodes whose agent is down get no answer
}

type message struct {
	at   time.Time
	to   string
	what Event
}

func newFlock(t *testing.T, n int) *flock {
	f := &flock{
		t: t, gates: map[string]*State{}, now: start, dead: map[string]bool{}, refuses: map[string]bool{}, cut: func(_, _ string) bool { return false },
		silent: map[[2]string]time.Time{}, failed: map[[2]string]bool{}, gone: map[[2]string]time.Time{}, off: map[[2]string]bool{},
	}
	for i := range n {
		f.names = append(f.names, fmt.Sprintf("n%d", i))
	}
	for _, name := range f.names {
		f.start(name, nil)
	}
	f.run(time.Minute)
	return f
}

func (f *flock) start(name string, left *Durable) {
	s := NewState(name, left, f.now)
	f.gates[name] = &s
	f.tell(name, Enrolled{f.names})
	f.tell(name, Members{Alive: f.names})
}

// up reports whether the agent of a node runs.
func (f *flock) up(name string) bool { return !f.dead[name] && !f.refuses[name] }

// call is what a direct call comes to.
func (f *flock) call(a, b string) Answer {
	switch {
	case f.dead[b] || f.cut(a, b), f.lost && !f.up(b):
		return NoAnswer
	case f.refuses[b]:
		return Refused
	}
	return Answered
}

// hears is membership: by a direct probe, or one through another node.
func (f *flock) hears(a, b string) bool {
	return f.up(b) && (!f.cut(a, b) || slices.ContainsFunc(f.names, func(c string) bool {
		return c != a && c != b && f.up(c) && !f.cut(a, c) && !f.cut(c, b)
	}))
}

func (f *flock) later(to string, answer Answer, what Event) {
	wait := time.Duration(0)
	if answer == NoAnswer {
		wait = 2 * time.Second
	}
	f.due = append(f.due, message{f.now.Add(wait), to, what})
}

func (f *flock) tell(name string, e Event) {
	if !f.up(name) {
		return
	}
	s, effects := Step(*f.gates[name], e, f.now)
	f.gates[name] = &s
	for _, e := range effects {
		switch e := e.(type) {
		case Check:
			answer := f.call(name, e.Node)
			f.later(name, answer, Checked{e.Node, answer})
		case Ask:
			for _, w := range e.Witnesses {
				if f.call(name, w) == Answered {
					f.later(w, Answered, Asked{name, e.About})
				} else {
					f.later(name, NoAnswer, Witnessed{w, e.About, Unknown})
				}
			}
		case Reply:
			if f.call(name, e.To) == Answered {
				f.later(e.To, Answered, Witnessed{name, e.About, e.Answer})
			}
		case Gone:
			f.gone[[2]string{name, e.Node}] = f.now
		case Back:
			delete(f.gone, [2]string{name, e.Node})
		case EndpointsOff:
			f.off[[2]string{name, e.Node}] = true
		case EndpointsOn:
			delete(f.off, [2]string{name, e.Node})
		}
	}
}

// run lets time pass.
func (f *flock) run(d time.Duration) {
	for end := f.now.Add(d); f.now.Before(end); f.now = f.now.Add(100 * time.Millisecond) {
		due := f.due
		f.due = nil
		for _, m := range due {
			if m.at.After(f.now) {
				f.due = append(f.due, m)
			} else {
				f.tell(m.to, m.what)
			}
		}
		for _, a := range f.names {
			for _, b := range f.names {
				if a != b && f.up(a) {
					f.detect(a, b)
				}
			}
			if wake := f.gates[a].Wake(); !wake.IsZero() && !wake.Add(f.lag).After(f.now) {
				f.tell(a, Tick{})
			}
		}
	}
}

func (f *flock) detect(a, b string) {
	at := [2]string{a, b}
	since, silent := f.silent[at]
	switch heard := f.hears(a, b); {
	case heard && silent:
		delete(f.silent, at)
		if f.failed[at] {
			delete(f.failed, at)
			f.tell(a, Members{Alive: []string{b}})
			f.tell(a, HandedOver{b})
		}
	case !heard && !silent:
		f.silent[at] = f.now
	case !heard && !f.failed[at] && f.now.Sub(since) >= serf:
		f.failed[at] = true
		f.tell(a, Members{Failed: []string{b}})
	}
}

// holds lists who holds whom for gone: "n0>n2".
func (f *flock) holds() string {
	var out []string
	for at := range f.gone {
		out = append(out, at[0]+">"+at[1])
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}
