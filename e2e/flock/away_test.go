package flock

import (
	"context"
	"testing"
	"time"

	"github.com/pleachdev/pleach/e2e/lab"
)

// loop is how long an agent cannot stay up: longer than it takes to hold a dead machine for gone, and a
// minute at night.
func loop() time.Duration {
	if night() {
		return time.Minute
	}
	return 25 * time.Second
}

// TestAgentAway: an agent that is upgraded, and one that cannot stay up, move no pod and restart no container.
func TestAgentAway(t *testing.T) {
	f := newFlock(t, 3)
	f.deployWeb()
	before := f.spread(6)
	same := func(t *testing.T) {
		t.Helper()
		f := f.in(t)
		f.stays(before, f.settled(6, f.machines...), f.machines...)
		f.unrestarted()
	}
	t.Run("upgrade", func(t *testing.T) {
		f := f.in(t)
		f.endAgent(f.machines[1])
		f.startAgent(f.machines[1])
		same(t)
	})
	t.Run("crash loop", func(t *testing.T) {
		f := f.in(t)
		for began := time.Now(); time.Since(began) < loop(); {
			f.killAgent(f.machines[1])
			time.Sleep(2 * time.Second)
			f.startAgent(f.machines[1])
			time.Sleep(500 * time.Millisecond)
		}
		lab.Hold(t, time.Second, "nobody moves its pods", func(ctx context.Context) error {
			_, err := f.placed(ctx, len(before[f.machines[0].Name])+len(before[f.machines[2].Name]), f.machines[0], f.machines[2])
			return err
		})
		same(t)
	})
}
