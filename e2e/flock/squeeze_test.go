package flock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pleachdev/pleach/e2e/lab"
	"github.com/pleachdev/pleach/e2e/sim"
)

// TestFullDisk: a node's disk is full. Its agent says so, and its pods run on, untouched; the others do not
// notice. When there is room again the node follows.
func TestFullDisk(t *testing.T) {
	f := newFlock(t, 3, func(n *lab.Node) error { return n.SmallDisk(768 << 20) })
	f.deployWeb()
	before := f.spread(6)
	full, rest := f.machines[1], f.machines[:1]
	spectator, began := f.watchAll()

	f.must(full.FillDisk(true))
	f.recorder.setQuiet(false)
	f.repo.Replace(appDir+"/web.yaml", image, nextImage)
	commit := f.repo.Commit("web at " + nextImage)
	f.repo.Push()
	f.waitHead(commit, rest...)
	f.wait("it says that its disk is full", func(ctx context.Context) error {
		out, err := full.Exec(ctx, f.program, "status")
		if text := string(out); err == nil && (!strings.Contains(text, "no space left on device") || strings.Contains(text, "out of reach")) {
			err = errors.New("it says " + text)
		}
		return err
	})
	lab.Hold(t, 10*time.Second, "its pods run on", func(ctx context.Context) error {
		return f.unmoved(ctx, map[string][]string{full.Name: before[full.Name]}, full)
	})
	f.always(spectator, 6, began, "with a full disk")

	// Without a number that was never given before an agent does not start.
	f.killAgent(full)
	f.startAgent(full)
	end := f.recorder.begin(sim.Restart, full.Name)
	agent := full.Agent()
	if err := agent.Wait(t.Context()); err == nil {
		t.Error("an agent that cannot write its boot counter ended well")
	}
	if said, err := os.ReadFile(agent.Log); err != nil || !strings.Contains(string(said), "write the boot counter") {
		t.Errorf("an agent that cannot write its boot counter said %s, %v", said, err)
	}
	lab.Hold(t, 2*time.Second, "the others move nothing", func(ctx context.Context) error {
		for _, m := range []*machine{f.machines[0], f.machines[2]} {
			if pods, err := m.own(ctx); err != nil || len(pods) > len(before[m.Name])+1 { // one surges
				return fmt.Errorf("%s runs %d pods: %w", m.Name, len(pods), err)
			}
		}
		return nil
	})
	f.always(spectator, 6, began, "with a full disk and no agent")

	f.must(full.FillDisk(false))
	f.startAgent(full)
	end()
	f.waitHead(commit, f.machines...)
	f.rolled(6, nextImage, f.machines...)
	f.always(spectator, 6, began, "since the disk was full")
}

// TestFrozen: a machine stands still for a while, as a virtual one that is paused: its network answers, its
// agent does not. The others see that and move nothing; when it goes on all is as it was.
func TestFrozen(t *testing.T) {
	f := newFlock(t, 3)
	f.deployWeb()
	before := f.spread(6)
	frozen, rest := f.machines[2], f.machines[:2]
	f.must(frozen.Freeze(true))
	f.wait("the others see that it does not answer", func(ctx context.Context) error {
		for _, m := range rest {
			st, err := m.api.Status(ctx)
			if err != nil {
				return err
			}
			for _, n := range st.Nodes {
				if n.Name == frozen.Name && (n.Standing == "" || n.Standing == "Alive") {
					return fmt.Errorf("%s says %+v", m.Name, n)
				}
			}
		}
		return nil
	})
	lab.Hold(t, 15*time.Second, "nobody replaces its pods", func(ctx context.Context) error {
		_, err := f.placed(ctx, len(before[rest[0].Name])+len(before[rest[1].Name]), rest...)
		return err
	})
	f.must(frozen.Freeze(false))
	f.stays(before, f.settled(6, f.machines...), f.machines...)
}

// TestBadCables: every fifth frame that a node sends is lost, and what another sends and gets is late by 200 ms. Nobody
// takes either for dead, and a rollout ends.
func TestBadCables(t *testing.T) {
	f := newFlock(t, 3, (*lab.Node).LongCable)
	f.deployWeb()
	before := f.spread(6)
	end := f.recorder.begin(sim.Loss, "")
	f.must(f.underlay.Lose(f.machines[1].Node, 20))
	f.must(f.underlay.Delay(f.machines[2].Node, 200*time.Millisecond))
	lab.Hold(t, 20*time.Second, "nobody moves a pod", func(ctx context.Context) error {
		return f.unmoved(ctx, before, f.machines...)
	})
	f.change(nextImage)
	f.rolled(6, nextImage, f.machines...)
	f.heal(end)()
	f.settled(6, f.machines...)
}
