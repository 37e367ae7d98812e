package flock

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/pleachdev/pleach/e2e/lab"
)

// stays fails the test when a pod of these nodes is not where it was.
func (f *flock) stays(before, after map[string][]string, nodes ...*machine) {
	f.t.Helper()
	for _, m := range nodes {
		for _, name := range before[m.Name] {
			if !slices.Contains(after[m.Name], name) {
				f.t.Errorf("%s is not on %s any more, though nothing happened to its node", name, m.Name)
			}
		}
	}
}

// TestNodeLost: six replicas over three nodes, a node is lost and comes back, and then another is cut off
// from the rest for a while.
func TestNodeLost(t *testing.T) {
	f := newFlock(t, 3)
	head := f.deployWeb()
	before := f.spread(6)
	lost, rest := f.machines[2], f.machines[:2]
	spectator := f.watchPods(f.machines...)

	f.kill(lost)
	after := f.settled(6, rest...)
	f.stays(before, after, rest...)

	replaced := time.Now()
	f.boot(lost)
	f.waitHead(head, lost)
	back := f.settledWith(6, before[lost.Name])
	f.stays(before, back, rest...)
	f.always(spectator, 6, replaced.Add(near), "after the lost pods were replaced")
	moved := 0
	for _, name := range all(back) {
		if !slices.Contains(all(before), name) && !slices.Contains(all(after), name) {
			moved++
		}
	}
	if moved > 0 {
		t.Errorf("%d pods were started a second time: %v, then %v, then %v", moved, before, after, back)
	}

	// One is cut off from two, which cannot tell it from a dead one.
	alone := f.machines[0]
	rest = f.machines[1:]
	f.recorder.setQuiet(false)
	parted := time.Now()
	heal := f.split(alone)
	f.wait("the two replace what they do not see", func(ctx context.Context) error {
		_, err := f.placed(ctx, 6, rest...)
		return err
	})
	own, err := f.placed(t.Context(), len(back[alone.Name]), alone)
	f.must(err)
	f.stays(back, own, alone)
	heal()
	f.within(30*time.Second, "after the split each slot runs once", 6)
	f.always(spectator, 6, parted.Add(near), "since the split")
}

// TestHalves: two nodes against two. That so many vanish at once may be the network: nobody moves anything
// for half a minute, and everybody runs on. Then the half with the lowest node name replaces what it does
// not see, and the other half never does.
func TestHalves(t *testing.T) {
	f := newFlock(t, 4)
	f.deployWeb()
	before := f.spread(6)
	spectator := f.watchPods(f.machines...)
	f.recorder.setQuiet(false)
	parted := time.Now()
	heal := f.split(f.machines[2:]...)
	f.wait("every node sees two gone", func(ctx context.Context) error {
		for _, m := range f.machines {
			st, err := m.api.Status(ctx)
			if err != nil {
				return err
			}
			away := 0
			for _, n := range st.Nodes {
				if n.Standing != "" && n.Standing != "Alive" {
					away++
				}
			}
			if away != 2 {
				return fmt.Errorf("%s misses %d nodes", m.Name, away)
			}
		}
		return nil
	})
	lower, upper := f.machines[:2], f.machines[2:]
	started := func(ctx context.Context, nodes []*machine) error {
		for _, m := range nodes {
			pods, err := m.own(ctx)
			if err != nil {
				return err
			}
			for _, p := range pods {
				if !slices.Contains(before[m.Name], p.Name) {
					return errors.New(p.Name + " was started on " + m.Name)
				}
			}
		}
		return nil
	}
	lab.Hold(t, 8*time.Second, "nobody moves anything", func(ctx context.Context) error { return started(ctx, f.machines) })
	f.wait("the half with the lowest name replaces what it does not see", func(ctx context.Context) error {
		if err := started(ctx, upper); err != nil {
			t.Fatal(err)
		}
		_, err := f.placed(ctx, 6, lower...)
		return err
	})
	lab.Hold(t, 10*time.Second, "the other half moves nothing", func(ctx context.Context) error { return started(ctx, upper) })
	own, err := f.placed(t.Context(), len(before[upper[0].Name])+len(before[upper[1].Name]), upper...)
	f.must(err)
	f.stays(before, own, upper...)
	heal()
	f.within(30*time.Second, "after the split each slot runs once", 6)
	f.always(spectator, 6, parted.Add(near), "since the split")
}

// spread waits until so many pods are spread evenly over all nodes.
func (f *flock) spread(n int) map[string][]string {
	f.t.Helper()
	var out map[string][]string
	f.wait(fmt.Sprintf("%d pods are spread", n), func(ctx context.Context) (err error) {
		if out, err = f.placed(ctx, n, f.machines...); err != nil {
			return err
		}
		for _, m := range f.machines {
			if have := len(out[m.Name]); have < n/len(f.machines) || have > (n+len(f.machines)-1)/len(f.machines) {
				return fmt.Errorf("got %v", out)
			}
		}
		return nil
	})
	f.recorder.setQuiet(true)
	return out
}

// settledWith is settled on all nodes, when none of the gone pods is there.
func (f *flock) settledWith(n int, gone []string) map[string][]string {
	f.t.Helper()
	f.wait("what was lost is not there again", func(ctx context.Context) error {
		placed, err := f.placed(ctx, n, f.machines...)
		if err != nil {
			return err
		}
		for names := range maps.Values(placed) {
			for _, name := range gone {
				if slices.Contains(names, name) {
					return errors.New(name + " is there")
				}
			}
		}
		return nil
	})
	return f.settled(n, f.machines...)
}

// within is settled with a bound on the time.
func (f *flock) within(d time.Duration, what string, n int) {
	f.t.Helper()
	lab.Wait(f.t, d, what, func(ctx context.Context) error {
		_, err := f.placed(ctx, n, f.machines...)
		return err
	})
	f.recorder.setQuiet(true)
}
