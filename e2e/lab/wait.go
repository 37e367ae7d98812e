package lab

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// A Condition says what the world lacks for now; nil when it is as wanted. Its error is printed
// when time runs out, so it should tell what was seen: "2 of 3 pods ready".
type Condition func(ctx context.Context) error

// Poll asks condition again and again, first every 10 ms and later every 200 ms, until it holds or
// ctx ends. The error then tells the last answers, and when each was first given.
func Poll(ctx context.Context, condition Condition) error {
	start := time.Now()
	var answers []string
	last := ""
	for pause := 10 * time.Millisecond; ; pause = min(pause*5/4, 200*time.Millisecond) {
		err := condition(ctx)
		if err == nil {
			return nil
		}
		if answer := err.Error(); answer != last && ctx.Err() == nil {
			last = answer
			answers = append(answers, fmt.Sprintf("  after %6.2f s: %s", time.Since(start).Seconds(), answer))
		}
		select {
		case <-ctx.Done():
			const shown = 12
			if n := len(answers) - shown; n > 0 {
				answers = append([]string{fmt.Sprintf("  (%d earlier answers)", n)}, answers[n:]...)
			}
			return fmt.Errorf("not within %.1f s:\n%s", time.Since(start).Seconds(), strings.Join(answers, "\n"))
		case <-time.After(pause):
		}
	}
}

// Wait fails the test when condition does not hold within the time.
func Wait(t T, within time.Duration, what string, condition Condition) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := Poll(ctx, condition); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// Hold fails the test when condition ceases to hold before the time is over. It asks every 50 ms, as
// somebody would who watches at 20 Hz.
func Hold(t T, during time.Duration, what string, condition Condition) {
	t.Helper()
	start := time.Now()
	for time.Since(start) < during {
		if err := condition(context.Background()); err != nil {
			t.Fatalf("%s: no longer after %.2f s: %v", what, time.Since(start).Seconds(), err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
