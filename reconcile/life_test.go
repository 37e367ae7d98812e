package reconcile

import (
	"math/rand"
	"testing"
	"time"
)

// seeds is how many random runs a test makes: few in the short tests, which are repeated after each
// change, and all of them otherwise.
func seeds(short, full int64) int64 {
	if testing.Short() {
		return short
	}
	return full
}

// TestRandomLife lives through everything that can happen to workloads on one node at once, and
// compares the end with what was last pushed. No ready pod may be stopped without a reason that
// names a commit, an eviction or its end.
func TestRandomLife(t *testing.T) {
	for seed := range seeds(1, 20) {
		r := rand.New(rand.NewSource(seed))
		w := newWorld(t)
		w.readyAfter, w.goneAfter = time.Duration(r.Intn(3000))*time.Millisecond, time.Duration(r.Intn(3000))*time.Millisecond
		push := func(image string) (replicas int32) {
			replicas = int32(r.Intn(7))
			d := deployment(image, replicas, int32(r.Intn(3)), int32(1+r.Intn(2)))
			d.Spec.Paused = image != "d" && r.Intn(6) == 0
			d.Spec.MinReadySeconds = int32(r.Intn(2) * 2)
			objects := []Object{{Object: d}}
			if r.Intn(2) == 0 || image == "d" {
				objects = append(objects, Object{Object: daemonSet(image, 0, 1)})
			}
			w.push(objects...)
			return replicas
		}
		for range 300 {
			switch r.Intn(25) {
			case 0, 1:
				push([]string{"a", "b", "c", "bad"}[r.Intn(4)])
			case 2:
				w.state = State{}
			case 3:
				if all, _, _ := w.count(); all > 0 {
					live := false
					for _, p := range w.pods {
						live = live || p.i.live()
					}
					if live {
						w.fail("Evicted")
					}
				}
			case 4: // the app cannot be read: nothing may change
				objects, accepted := w.in.Objects, w.in.Accepted
				w.in.Objects, w.in.Accepted = nil, map[string]Commit{clusterUnit: accepted[clusterUnit]}
				if d := w.step(); len(d.Actions) > 0 {
					t.Fatalf("seed %d: without its app: %v", seed, d.Actions)
				}
				w.in.Objects, w.in.Accepted = objects, accepted
			}
			w.step()
			for _, a := range w.last.Actions {
				if a.By == "" || a.Reason == "" {
					t.Fatalf("seed %d: %+v", seed, a)
				}
			}
			w.tick(time.Duration(r.Intn(1000)) * time.Millisecond)
		}
		replicas := push("d")
		for range 600 { // the longest back-off is five minutes
			w.step()
			w.tick(1500 * time.Millisecond)
		}
		expect(t, w, int(replicas)+1, int(replicas)+1, "d100m00000")
		slots := map[Slot]bool{}
		for _, p := range w.pods {
			if slots[p.i.Slot] {
				t.Fatalf("seed %d: slot %v has two pods\n%s", seed, p.i.Slot, w.story())
			}
			slots[p.i.Slot] = true
		}
		if !w.last.Wake.IsZero() {
			t.Errorf("seed %d: all is well, and Step wants to be called at %s", seed, w.last.Wake)
		}
		for _, st := range w.last.Workloads {
			if len(st.Waiting) > 0 {
				t.Errorf("seed %d: waiting %+v", seed, st.Waiting)
			}
		}
	}
}

// TestFlockSurvivesDeaths kills nodes in the middle of rollouts and makes others forget their state.
func TestFlockSurvivesDeaths(t *testing.T) {
	for seed := range seeds(1, 6) {
		f := newFlock(t, seed, 5)
		f.push(Object{Object: deployment("a", 8, 1, 1)})
		f.run(15*time.Second, nil)
		f.push(Object{Object: deployment("b", 8, 1, 1)})
		f.run(time.Duration(f.r.Intn(6000))*time.Millisecond, nil)
		f.kill(4)
		f.run(time.Duration(f.r.Intn(6000))*time.Millisecond, nil)
		f.worlds[f.r.Intn(4)].state = State{}
		f.push(Object{Object: deployment("c", 7, 1, 1)})
		f.run(time.Duration(f.r.Intn(6000))*time.Millisecond, nil)
		f.kill(3)
		f.run(90*time.Second, nil)
		f.once(7, "c100m00000")
	}
}
