package flock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pleachdev/pleach/e2e/lab"
)

// TestGit: what the server does to a flock, and what it cannot do to it.
func TestGit(t *testing.T) {
	f := newFlock(t, 3)
	f.deployWeb()
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
	t.Run("two histories", func(t *testing.T) {
		f := f.in(t)
		// On one parent two commits by somebody known. The server shows one of them to one node and the other to the
		// others, while those cannot tell each other.
		tip := f.repo.Head()
		f.repo.Write(appDir+"/aside.txt", "for one node\n")
		aside := f.repo.Commit("for one node")
		f.repo.Git("push", "--quiet", "--force", "origin", aside+":refs/heads/aside")
		f.repo.Reset(tip)
		f.repo.Write(appDir+"/rest.txt", "for the rest\n")
		f.repo.Commit("for the rest")
		deceived, rest := f.machines[2], f.machines[:2]
		heal := f.split(deceived)
		f.git.Show("flock", deceived.Addr.String(), "refs/heads/main", aside)
		f.push(rest...)
		f.waitHead(aside, deceived)
		heal()
		for _, m := range f.machines {
			f.reports(m, m.Name+" reports it", "has two histories")
		}
		f.git.ShowTruth("flock")
		f.repo.Git("merge", "--quiet", "--message", "both", aside)
		f.push(f.machines...)
		for _, m := range f.machines {
			f.truthful(m)
		}
		f.within(30*time.Second, "after the split each slot runs once", 6)
	})
	t.Run("Git away", func(t *testing.T) {
		f := f.in(t)
		before := f.settled(6, f.machines...)
		lost, rest := f.machines[2], f.machines[:2]
		f.git.Down(true)
		// The push reaches the repository, and nobody hears of it.
		f.repo.Replace(appDir+"/web.yaml", image, nextImage)
		id := f.repo.Commit("nobody hears of it")
		f.repo.Git("push", "--quiet", f.git.Path("flock"), "HEAD:refs/heads/main")
		for _, m := range f.machines {
			f.wait(m.Name+" says that the server is away", func(ctx context.Context) error {
				st, err := m.api.Status(ctx)
				if err == nil && st.Remote.Err == "" {
					err = errors.New("it does not")
				}
				return err
			})
		}
		f.kill(lost)
		after := f.rolled(6, image, rest...) // healing goes on
		f.stays(before, after, rest...)
		lab.Hold(t, 2*time.Second, "the deployment waits", func(ctx context.Context) error {
			for _, m := range rest {
				st, err := m.api.Status(ctx)
				if err != nil {
					return err
				}
				if st.Head.ID == id {
					return errors.New(m.Name + " follows it")
				}
			}
			return nil
		})
		f.git.Down(false)
		f.boot(lost)
		f.waitHead(id, f.machines...)
		f.rolled(6, nextImage, f.machines...)
		f.verified() // the status branch has caught up
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
		f.rolled(6, nextImage, f.machines...)
		f.git.Down(false)
		f.waitHead(f.change(image), f.machines...)
		f.rolled(6, image, f.machines...)
		f.verified()
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
