package sim

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pleachdev/pleach/reconcile"
)

// lived lives a life and fails with its story when a rule is broken.
func lived(t *testing.T, life Life) *Recording {
	t.Helper()
	r, _ := Run(life)
	if v := Check(r); v != nil {
		var b strings.Builder
		life = Shrink(life, v.Rule, 100)
		less, story := Run(life)
		Tell(&b, life, less, story, Check(less))
		t.Errorf("%s\n%s", v.Error(), b.String())
	}
	return r
}

// TestLives is a share of the seeds that make sim runs.
func TestLives(t *testing.T) {
	sizes := []struct{ nodes, seeds, short int }{{1, 40, 8}, {2, 8, 1}, {3, 12, 2}, {5, 5, 1}, {8, 2, 0}}
	for _, size := range sizes {
		t.Run(fmt.Sprintf("nodes=%d", size.nodes), func(t *testing.T) {
			seeds := size.seeds
			if testing.Short() {
				seeds = size.short
			}
			for seed := range uint64(seeds) {
				lived(t, Generate(seed+1, size.nodes, 5*time.Minute))
				if t.Failed() {
					return
				}
			}
		})
	}
}

// TestWhatSeedsTaught lives the lives again that once broke a rule.
func TestWhatSeedsTaught(t *testing.T) {
	for _, x := range []struct {
		seed   uint64
		nodes  int
		taught string
	}{
		{53, 1, "a node whose store was lost while the remote showed an older head took its own pods back: they tell that there is a newer commit"},
		{54, 3, "the same in a flock, by a slot that was not wanted at the older commit"},
		{15, 3, "a node that has just started does not know on which nodes a DaemonSet has slots: nothing ready is stopped before all are heard"},
		{5, 3, "a node that does not remember its peers waits for all that are enrolled"},
		{22, 3, "what a node that was held for gone brings back may exceed maxSurge; nothing is added to it"},
		{63, 3, "a node that hears and is not heard rolls by its own count: the bounds hold on each side"},
	} {
		if testing.Short() && x.nodes > 1 {
			continue
		}
		t.Run(fmt.Sprintf("seed=%d,nodes=%d", x.seed, x.nodes), func(t *testing.T) {
			lived(t, Generate(x.seed, x.nodes, 6*time.Minute))
			if t.Failed() {
				t.Log(x.taught)
			}
		})
	}
}

func TestSameSeedSameBytes(t *testing.T) {
	life := Generate(7, 3, 2*time.Minute)
	a, one := Run(life)
	b, two := Run(Generate(7, 3, 2*time.Minute))
	if a.Digest() != b.Digest() {
		t.Errorf("the documents of one seed differ: %s and %s", a.Digest(), b.Digest())
	}
	if !reflect.DeepEqual(one, two) {
		t.Error("the stories of one seed differ")
	}
}

// TestCheckerSeesLies changes documents of a good life, as a wrong decision would, and expects each lie to be found.
func TestCheckerSeesLies(t *testing.T) {
	life := Life{Seed: 1, Nodes: 3, Calm: 30 * time.Second, Events: []Event{
		{At: time.Second, Kind: Push, Node: -1, Push: []Change{{To: Workload{Name: "web", App: "shop", Kind: "Deployment", Replicas: 4, Surge: 1, Image: 1}}}},
		{At: 30 * time.Second, Kind: Push, Node: -1, Push: []Change{{To: Workload{Name: "web", App: "shop", Kind: "Deployment", Replicas: 4, Surge: 1, Image: 2}}}},
	}}
	// find returns the first document with a pod for which ok holds, and the pod's place in it.
	find := func(r *Recording, ok func(Record, reconcile.Instance) bool) (*Record, int) {
		for i := range r.Records {
			for k, m := range r.Records[i].Document.Instances {
				if ok(r.Records[i], m) {
					return &r.Records[i], k
				}
			}
		}
		t.Fatal("no such pod")
		return nil, 0
	}
	ready := func(_ Record, m reconcile.Instance) bool { return m.Ready }
	for _, x := range []struct {
		name, rule string
		lie        func(*Recording)
	}{
		{"another's document", "numbered by its writer", func(r *Recording) { r.Records[5].Writer = "n9" }},
		{"a number again", "numbered by its writer", func(r *Recording) { r.Records[len(r.Records)-1].Document.Seq-- }},
		{"another's pod", "fixed by the claim", func(r *Recording) {
			x, k := find(r, ready)
			x.Document.Instances[k].Node = "n9"
		}},
		{"a claim that changes", "fixed by the claim", func(r *Recording) {
			x, k := find(r, ready)
			x.Document.Instances[k].Claimed = start
		}},
		{"a move without a loss", "nothing moves without a loss", func(r *Recording) {
			for i := range r.Records {
				for k := range r.Records[i].Document.Instances {
					r.Records[i].Document.Instances[k].Cause = "n1/1"
				}
			}
		}},
		{"a stop for nothing", "stopped for a reason", func(r *Recording) {
			for i := range r.Records {
				for k := range r.Records[i].Document.Releases {
					r.Records[i].Document.Releases[k].By = "mood"
				}
			}
		}},
		{"a stop for an older commit", "stopped for a reason", func(r *Recording) {
			for i := range r.Records {
				d := &r.Records[i].Document
				for k := range d.Instances {
					d.Instances[k].Commit = commit(9)
				}
			}
		}},
		{"a duplicate without evidence", "stopped for a reason", func(r *Recording) {
			for i := range r.Records {
				for k := range r.Records[i].Document.Releases {
					r.Records[i].Document.Releases[k].By = reconcile.ByDuplicate
				}
			}
		}},
		{"a pod that was not ready in the other's place", "maxUnavailable", func(r *Recording) {
			for i := range r.Records {
				d := &r.Records[i].Document
				for k := range d.Instances {
					if m := &d.Instances[k]; m.Commit.Level == 2 {
						m.Ready = false
					}
				}
			}
		}},
		{"a slot that does not run", "whole after calm", func(r *Recording) {
			d := &r.Records[len(r.Records)-1].Document
			d.Instances[0].Ready = false
		}},
		{"another plan", "whole after calm", func(r *Recording) { r.Plans["n2"] = "?" }},
	} {
		t.Run(x.name, func(t *testing.T) {
			r, _ := Run(life)
			if v := Check(r); v != nil {
				t.Fatalf("before the lie: %s", v.Error())
			}
			x.lie(r)
			if v := Check(r); v == nil || v.Rule != x.rule {
				t.Errorf("got %v, want %q", v, x.rule)
			}
		})
	}
}

func TestShrinkKeepsWhatBreaks(t *testing.T) {
	// A workload that never becomes ready is not whole after calm, whatever else happens.
	life := Generate(3, 2, time.Minute)
	bad := Workload{Name: "bad", App: "shop", Kind: "Deployment", Replicas: 1, Surge: 1, Image: badImage}
	last := len(life.Events) - 1
	life.Events[last].Push = append(life.Events[last].Push, Change{To: bad})
	less := Shrink(life, "whole after calm", 60)
	if less.Nodes != 1 || len(less.Events) != 2 || len(less.Events[1].Push) != 1 || less.Events[1].Push[0].To.Name != "bad" {
		t.Errorf("got %d nodes and %v", less.Nodes, less.Events)
	}
	r, story := Run(less)
	var b strings.Builder
	Tell(&b, less, r, story, Check(r))
	for _, want := range []string{"Start default/bad-bad0", "BROKEN: whole after calm: bad[0] on n0"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the story lacks %q:\n%s", want, b.String())
		}
	}
}

// BenchmarkFlock is 20 nodes for ten simulated minutes under all faults.
func BenchmarkFlock(b *testing.B) {
	seed := uint64(0)
	for b.Loop() {
		seed++
		r, _ := Run(Generate(seed, 20, 10*time.Minute))
		b.ReportMetric(r.End.Minutes()/float64(b.N), "minutes")
	}
}
