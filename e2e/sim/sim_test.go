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
	sizes := []struct{ nodes, seeds, short int }{{1, 40, 8}, {2, 40, 1}, {3, 60, 2}, {5, 30, 1}, {8, 12, 0}, {20, 3, 0}}
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
		{"more than the commit allows that a node follows", "maxSurge", func(r *Recording) {
			r.History[0].Workloads[0].MaxSurge, r.History[1].Workloads[0].MaxSurge = 5, 0
			r.History, r.Quiet = append(r.History, Committed{ID: commit(3).ID, Level: 3}), false // which nobody has accepted
		}},
		{"a move for a loss long ago", "nothing moves without a loss", func(r *Recording) {
			r.Faults = append([]Event{{At: 0, Kind: PowerOff, Node: 1, For: time.Second}}, r.Faults...)
			for i := range r.Records {
				r.Records[i].At += 5 * time.Minute
				for k := range r.Records[i].Document.Instances {
					r.Records[i].Document.Instances[k].Cause = "n1/1"
				}
			}
		}},
		{"a pod that vanishes, and another node's memory with it", "stopped for a reason", func(r *Recording) {
			x, _ := find(r, func(x Record, m reconcile.Instance) bool { return m.Ready && x.Document.Seq > 2 })
			r.Faults = append(r.Faults, Event{At: 0, Kind: Forget, Node: (int(x.Writer[1]-'0') + 1) % 3})
			for i := range r.Records {
				if d := &r.Records[i].Document; d.Node == x.Writer && r.Records[i].At > x.At {
					d.Instances, d.Releases = nil, nil
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
