// Package wake has the two ways in which the agent's loops wait for each other and for time.
package wake

import (
	"context"
	"time"
)

// Poke puts an element into a channel that is buffered by one and says that there is something to do.
// It never waits: an element that is there already says the same.
func Poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Sleep waits, and reports false when ctx ended first.
func Sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
