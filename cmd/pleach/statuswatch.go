package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/pleachdev/pleach/agent/api"
)

// watchInterval is the time between two looks at the agent: ages move even when nothing else does.
const watchInterval = time.Second

// watchStatus shows the status until ctx ends. An agent that does not answer may come back: an upgrade, a
// crash.
func watchStatus(ctx context.Context, c *api.Client, out io.Writer) error {
	show := (&eventLines{out: out}).show
	if isTerminal(out) {
		s := &screen{out: out, size: sizeOf(out)}
		if err := s.open(); err != nil {
			return err
		}
		defer s.close()
		show = s.show
	}
	for {
		st, err := c.Status(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, api.ErrNoAgent) {
			return err
		}
		if err := show(st, err); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchInterval):
		}
	}
}

// screen draws pages at a terminal, each over the one before.
type screen struct {
	out  io.Writer
	size func() (width, height int) // 0 when not known
	page string
	last string // as drawn
}

func sizeOf(out any) func() (width, height int) {
	f, ok := out.(*os.File)
	if !ok {
		return func() (int, int) { return 0, 0 }
	}
	return func() (int, int) {
		width, height, err := term.GetSize(int(f.Fd()))
		if err != nil {
			return 0, 0
		}
		return width, height
	}
}

// Control sequences of terminals since the VT100 and xterm. Those that a terminal does not know, it leaves
// out.
const (
	otherScreen, ownScreen = "\x1b[?1049h", "\x1b[?1049l"
	hideCursor, showCursor = "\x1b[?25l", "\x1b[?25h"
	noWrap, wrap           = "\x1b[?7l", "\x1b[?7h"
	hold, release          = "\x1b[?2026h", "\x1b[?2026l" // what comes between is shown at once
	home, clearLine        = "\x1b[H", "\x1b[K"
	clearRest              = "\x1b[J"
)

func (s *screen) open() error {
	_, err := io.WriteString(s.out, otherScreen+hideCursor+noWrap)
	return err
}

// close leaves the terminal as it was, with the last page in it.
func (s *screen) close() {
	_, _ = io.WriteString(s.out, wrap+showCursor+ownScreen+s.page) // nobody is left to tell
}

func (s *screen) show(st *api.Status, err error) error {
	if err != nil {
		s.page = "pleach: " + err.Error() + "\n"
	} else {
		s.page = page{colour: true}.render(st)
	}
	text := s.fitted()
	if text == s.last {
		return nil
	}
	s.last = text
	// Nothing is cleared before it is written over, so that nothing flickers.
	_, err = io.WriteString(s.out, hold+home+strings.ReplaceAll(text, "\n", clearLine+"\r\n")+clearRest+release)
	return err
}

// fitted is the page as far as the terminal has lines for it.
func (s *screen) fitted() string {
	lines := strings.SplitAfter(s.page, "\n")
	lines = lines[:len(lines)-1] // what follows the last newline
	if _, height := s.size(); height > 2 && len(lines) >= height {
		rest := len(lines) - (height - 2)
		lines = append(lines[:height-2:height-2], fmt.Sprintf("… %d more lines: pleach status\n", rest))
	}
	return strings.Join(lines, "")
}

// eventLines writes a line for everything that is so at first, and then for everything that changes.
type eventLines struct {
	out  io.Writer
	last []fact
}

// fact is one thing that is so; key says of what.
type fact struct{ key, text string }

func (e *eventLines) show(st *api.Status, err error) error {
	now := time.Now()
	var facts []fact
	if err != nil {
		// what was known stays until the agent says otherwise
		first, _, _ := strings.Cut(err.Error(), "\n")
		facts = append([]fact{{"agent", first}}, withoutAgent(e.last)...)
	} else {
		now, facts = st.Now, append([]fact{{"agent", "answers, " + st.Version}}, factsOf(st)...)
	}
	was, is := map[string]string{}, map[string]bool{}
	for _, f := range e.last {
		was[f.key] = f.text
	}
	var b strings.Builder
	line := func(key, text string) { fmt.Fprintf(&b, "%s %s: %s\n", now.Format(time.TimeOnly), key, text) }
	for _, f := range facts {
		is[f.key] = true
		if text, known := was[f.key]; !known || text != f.text {
			line(f.key, f.text)
		}
	}
	for _, f := range e.last {
		if !is[f.key] {
			line(f.key, "no more")
		}
	}
	e.last = facts
	_, err = io.WriteString(e.out, b.String())
	return err
}

func withoutAgent(facts []fact) []fact {
	if len(facts) == 0 {
		return nil
	}
	return facts[1:] // it is always the first
}

// factsOf takes a status apart. No fact holds an age, which would change all the time.
func factsOf(st *api.Status) []fact {
	facts := []fact{{"head", short(st.Head)}}
	add := func(key, format string, args ...any) { facts = append(facts, fact{key, fmt.Sprintf(format, args...)}) }
	switch {
	case st.Remote.LastTry.IsZero():
		add("remote", "not asked yet")
	case st.Remote.Err != "":
		add("remote", "not followed: %s", printable(st.Remote.Err))
		if !st.Remote.PeersSince.IsZero() {
			add("follows", "its peers, since %s", st.Remote.PeersSince.Format(time.TimeOnly))
		}
	default:
		add("remote", "answers")
	}
	if st.Remote.Alarm != "" {
		add("alarm", "%s", printable(st.Remote.Alarm))
	}
	if st.StatusPush.Err != "" {
		add("status branch", "not written: %s", printable(st.StatusPush.Err))
	}
	for _, n := range st.Nodes {
		text := fmt.Sprintf("%s, %d of %d pods running, head %s", nodeState(n), n.Running, n.Pods, short(n.Head))
		if len(n.Behind) > 0 {
			text += ", behind with " + strings.Join(n.Behind, ", ")
		}
		add("node "+n.Name, "%s", text)
	}
	for _, u := range st.Units {
		add(unitName(u.Name), "at %s", short(u.Commit))
	}
	for _, w := range st.Workloads {
		text := fmt.Sprintf("%d updated, %d ready of %d, %s", w.Updated, w.Ready, w.Desired, page{}.workloadState(w))
		if len(w.Waiting) > 0 {
			first := w.Waiting[0]
			text += fmt.Sprintf("; slot %s: %s", cmp.Or(first.Slot.Node, fmt.Sprint(first.Slot.Ordinal)), printable(first.Reason))
		}
		add(w.Namespace+" "+api.WorkloadName(w.Kind, w.Name), "%s", text)
	}
	for _, r := range st.Refusals {
		add(fmt.Sprintf("refused %s for %s", short(r.Commit), unitName(r.App)), "%q by %s: %s", r.Subject, printable(r.Author), printable(r.Reason))
	}
	return facts
}
