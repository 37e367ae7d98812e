package flock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// TestGit: what the server does to a flock, and what it cannot do to it.
func TestGit(t *testing.T) {
	f := newFlock(t, 3)
	f.repo.Write(appDir+"/web.yaml", web)
	f.deploy("six replicas", f.machines...)
	f.spread(6)
	// Who is cut off from Git is cut off from the registry too: both images are everywhere from here on.
	f.change(nextImage)
	f.rolled(6, nextImage, f.machines...)

	t.Run("a node without Git follows its peers", func(t *testing.T) {
		f := f.in(t)
		heal := f.withoutGit(f.machines[2])
		f.change(image)
		f.rolled(6, image, f.machines...)
		heal()
	})
	t.Run("a stale head for one node", func(t *testing.T) {
		f := f.in(t)
		stale := f.machines[1]
		f.git.Show("flock", stale.Addr.String(), "refs/heads/main", f.repo.Git("rev-parse", "HEAD~1"))
		f.reports(stale, "a stale head is reported", "older than")
		f.git.ShowTruth("flock")
		f.truthful(stale)
	})
	t.Run("two faces", func(t *testing.T) {
		f := f.in(t)
		// A second commit on the same parent, signed by somebody known.
		tip := f.repo.Head()
		f.repo.Reset("HEAD~1")
		f.repo.Write(appDir+"/note.txt", "another face\n")
		other := f.repo.Commit("another face")
		f.repo.Git("push", "--quiet", "origin", other+":refs/heads/aside")
		f.repo.Reset(tip)
		deceived := f.machines[2]
		f.git.Show("flock", deceived.Addr.String(), "refs/heads/main", other)
		f.reports(deceived, "another face is reported", "another history")
		f.git.ShowTruth("flock")
		f.truthful(deceived)
		f.stays(f.settled(6, f.machines...), f.settled(6, f.machines...), f.machines...)
	})
	t.Run("Git away", func(t *testing.T) {
		f := f.in(t)
		f.git.Down(true)
		before := f.settled(6, f.machines...)
		lost, rest := f.machines[2], f.machines[:2]
		f.kill(lost)
		f.stays(before, f.settled(6, rest...), rest...)
		f.git.Down(false)
		f.boot(lost)
		f.settledWith(6, before[lost.Name])
	})
	t.Run("all off and on with Git away", func(t *testing.T) {
		f := f.in(t)
		f.git.Down(true)
		for _, m := range f.machines {
			f.kill(m)
		}
		for _, m := range f.machines {
			f.boot(m)
		}
		f.rolled(6, image, f.machines...)
		f.git.Down(false)
		f.waitHead(f.change(nextImage), f.machines...)
		f.rolled(6, nextImage, f.machines...)
	})
}

// reports waits until a node raises an alarm about the branch.
func (f *flock) reports(m *machine, what, text string) {
	f.t.Helper()
	f.wait(what, func(ctx context.Context) error {
		st, err := m.api.Status(ctx)
		if err != nil {
			return err
		}
		if st.Remote.Alarm == "" || !strings.Contains(st.Remote.Alarm, text) {
			return fmt.Errorf("the alarm is %q", st.Remote.Alarm)
		}
		f.t.Logf("%s: %s", m.Name, st.Remote.Alarm)
		return nil
	})
}

// truthful waits until a node has no alarm any more.
func (f *flock) truthful(m *machine) {
	f.t.Helper()
	f.wait(m.Name+" is content again", func(ctx context.Context) error {
		st, err := m.api.Status(ctx)
		if err == nil && st.Remote.Alarm != "" {
			err = errors.New(st.Remote.Alarm)
		}
		return err
	})
}
