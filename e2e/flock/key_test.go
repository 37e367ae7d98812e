package flock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pleachdev/pleach/e2e/lab"
	"github.com/pleachdev/pleach/state"
)

// TestKeyRotated: a node's key is replaced in the four steps that "pleach node rotate --help" tells. No pod
// ends, no container restarts, and nobody ever holds the node for gone.
func TestKeyRotated(t *testing.T) {
	f := newFlock(t, 3)
	f.deployWeb()
	before := f.spread(6)
	m, rest := f.machines[1], []*machine{f.machines[0], f.machines[2]}
	spectator, began := f.watchAll()
	goneNever := f.neverGone(m, rest...)
	old := f.nodeKey(m)

	next := m.pleach(f, "node", "key", "--next")
	f.commit("node", "rotate", m.Name, "--key", next)
	f.push(f.machines...)
	m.pleach(f, "node", "key", "--activate")
	f.endAgent(m)
	f.startAgent(m)
	f.alive(f.machines...)
	renewed := f.nodeKey(m)
	for _, other := range rest {
		f.must(errors.Join(f.call(other, m.Name, old), f.call(other, m.Name, renewed)))
	}
	f.commit("node", "rotate", m.Name, "--finish")
	f.push(f.machines...)
	for _, other := range rest {
		if err := f.call(other, m.Name, old); err == nil {
			t.Errorf("%s answers to the key that was replaced", other.Name)
		}
		f.must(f.call(other, m.Name, renewed))
	}
	f.alive(f.machines...)
	after := f.settled(6, f.machines...)
	f.stays(before, after, f.machines...)
	f.unrestarted()
	f.agreed(after)
	// What the new key says is news to the others.
	f.rolledTo(nextImage)
	f.always(spectator, 6, began, "since the rotation began")
	goneNever()
	f.verified()
}

// TestTwoMachinesWithOneKey: somebody brings up a second machine with the key of a node. Both say that there is another,
// and claim nothing from then on; what runs goes on. When the second one is off, and the agent of the
// first was started again, as it says, all is as before.
func TestTwoMachinesWithOneKey(t *testing.T) {
	f := newFlock(t, 3)
	f.deployWeb()
	before := f.spread(6)
	m, rest := f.machines[2], f.machines[:2]
	spectator, began := f.watchAll()

	f.recorder.setQuiet(false)
	twin := f.bareMachine("twin")
	f.must(os.CopyFS(filepath.Join(twin.dir(), "keys"), os.DirFS(filepath.Join(m.dir(), "keys"))))
	f.startAgentWith(twin, m.Name)
	for _, one := range []*machine{m, twin} {
		f.wait("the machine "+one.Name+" says that there is another", func(ctx context.Context) error {
			st, err := one.api.Status(ctx)
			if err != nil {
				return err
			}
			for _, n := range st.Nodes {
				if n.Name == m.Name && (n.Ready || !strings.Contains(n.Reason, "another machine signs with this node's key")) {
					return fmt.Errorf("ready %v: %s", n.Ready, n.Reason)
				}
			}
			out, err := one.Exec(ctx, f.program, "describe", "node", m.Name)
			if err == nil && !strings.Contains(string(out), "KeyContested") {
				err = fmt.Errorf("no event says so:\n%s", out)
			}
			return err
		})
		f.must(saysInLog(one, `msg="two machines have one key"`))
	}

	// There is new work, and neither takes any.
	f.repo.Replace(appDir+"/web.yaml", "replicas: 6", "replicas: 9")
	f.deploy("nine replicas", f.machines...)
	f.wait("the others run what there is", func(ctx context.Context) error {
		for _, other := range rest {
			pods, err := other.own(ctx)
			if err != nil {
				return err
			}
			if len(pods) <= len(before[other.Name]) {
				return fmt.Errorf("%s has %d pods", other.Name, len(pods))
			}
		}
		return nil
	})
	lab.Hold(t, 10*time.Second, "neither machine starts anything, and what runs goes on", func(ctx context.Context) error {
		_, err := f.placed(ctx, 0, twin)
		if err != nil {
			return err
		}
		own, err := f.placed(ctx, len(before[m.Name]), m)
		if err == nil {
			f.stays(before, own, m)
		}
		return err
	})
	f.always(spectator, 6, began, "since the second machine came")

	f.must(twin.PowerOff())
	f.endAgent(m)
	f.startAgent(m)
	f.alive(f.machines...)
	after := f.settled(9, f.machines...)
	f.agreed(after)
	f.stays(before, after, rest...)
	f.always(spectator, 6, began, "since the second machine came")
	f.rolledTo(nextImage)
}

// rolledTo deploys another image everywhere.
func (f *flock) rolledTo(image string) {
	f.t.Helper()
	n := 0
	for _, m := range f.machines {
		pods, err := m.own(f.t.Context())
		f.must(err)
		n += len(pods)
	}
	f.change(image)
	f.rolled(n, image, f.machines...)
}

// neverGone looks at what nodes say of another, until the function that it returns is called. It fails the
// test if any of them has held it for gone.
func (f *flock) neverGone(m *machine, by ...*machine) (done func()) {
	ctx, cancel := context.WithCancel(f.t.Context())
	found := make(chan string, len(by))
	for _, other := range by {
		go func() {
			said := ""
			for ; ctx.Err() == nil; pause(ctx, askEvery) {
				st, err := other.api.Status(ctx)
				if err != nil {
					continue
				}
				for _, n := range st.Nodes {
					if n.Name == m.Name && n.Standing == state.Gone {
						said = other.Name + " held it for gone: " + n.Reason
					}
				}
			}
			found <- said
		}()
	}
	return func() {
		f.t.Helper()
		cancel()
		for range by {
			if said := <-found; said != "" {
				f.t.Error(said)
			}
		}
	}
}

// unrestarted fails the test when a container was restarted.
func (f *flock) unrestarted() {
	f.t.Helper()
	for _, m := range f.machines {
		pods, err := m.own(f.t.Context())
		f.must(err)
		for _, p := range pods {
			for _, c := range p.Status.ContainerStatuses {
				if c.RestartCount != 0 {
					f.t.Errorf("%s was restarted %d times", p.Name, c.RestartCount)
				}
			}
		}
	}
}
