package sim

import (
	"testing"
	"time"
)

// TestLarge lives a large flock's life in small: no rule is broken, and every slot runs at the end.
func TestLarge(t *testing.T) {
	r, _ := Run(Large(1, 8, 160, 35*time.Minute))
	if v := Check(r); v != nil {
		t.Fatal(v)
	}
	runs := 0
	for _, d := range r.latest() {
		runs += len(d.Instances)
	}
	if r.Whole == 0 || runs != 160 {
		t.Errorf("whole at %s with %d pods; want 160", r.Whole, runs)
	}
}
