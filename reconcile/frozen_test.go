package reconcile

import (
	"testing"
	"time"
)

// TestFlockMovesNothingWhileFrozen: a node is held for gone, and then so many vanish that nothing may move. What
// the first one ran stays open until that is over; what was never placed starts.
func TestFlockMovesNothingWhileFrozen(t *testing.T) {
	for _, c := range []struct {
		name    string
		without rule
		moves   bool
	}{{"as it is", noRule, false}, {"without the rule", ruleFrozen, true}} {
		t.Run(c.name, func(t *testing.T) {
			f := newFlock(t, 1, 4)
			freeze := func(why string) {
				for _, w := range f.worlds {
					w.in.Frozen, w.in.without = why, c.without
				}
			}
			count := func() (moved, first int) {
				for _, p := range f.pods() {
					if p.Cause == "n3/7" {
						moved++
					} else if p.Slot.Ordinal >= 8 {
						first++
					}
				}
				return moved, first
			}
			f.push(Object{Object: deployment("a", 8, 1, 1)})
			f.run(15*time.Second, nil)
			freeze("many nodes vanished")
			f.kill(3)
			f.push(Object{Object: deployment("a", 10, 1, 1)})
			f.run(30*time.Second, nil)
			if moved, first := count(); (moved > 0) != c.moves || first != 2 {
				t.Fatalf("%d pods were moved, %d of 2 new ones were started\n%s", moved, first, f.story())
			}
			freeze("")
			f.run(30*time.Second, nil)
			if moved, _ := count(); moved == 0 || len(f.pods()) != 10 {
				t.Fatalf("when it is over %d pods were moved, and %d of 10 run\n%s", moved, len(f.pods()), f.story())
			}
		})
	}
}
