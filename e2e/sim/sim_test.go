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

// TestWhatSeedsTaught lives the lives again that once broke a rule, as they were after shrinking.
func TestWhatSeedsTaught(t *testing.T) {
	const at = time.Second
	push := func(when time.Duration, workloads ...Workload) Event {
		e := Event{At: when, Kind: Push, Node: -1}
		for _, w := range workloads {
			e.Push = append(e.Push, Change{To: w})
		}
		return e
	}
	serve := func(when time.Duration, m Machine) Event {
		return Event{At: when, Kind: Push, Node: -1, Push: []Change{{Machine: m, OfNode: true}}}
	}
	logs := func(image, surge, unavailable int) Workload {
		return Workload{Name: "logs", App: "tools", Kind: "DaemonSet", Image: image, Surge: surge, Unavailable: unavailable}
	}
	api := func(image int) Workload {
		return Workload{Name: "api", App: "tools", Kind: "Deployment", Replicas: 4, Surge: 1, Image: image}
	}
	wide := func(image int) Workload {
		w := api(image)
		w.Surge = 2
		return w
	}
	batch := Workload{Name: "batch", App: "shop", Kind: "Deployment", Recreate: true, Replicas: 2, Image: 3}
	for _, x := range []struct {
		name, taught string
		life         Life
	}{
		{"older head", "what a node runs tells that there is a newer commit, when its store was lost and the remote shows an older head", Life{
			Seed: 53, Nodes: 1, Calm: 300 * at, Events: []Event{
				push(1*at, api(1)), push(55*at, api(2)),
				{At: 177 * at, Kind: GitRewind, Node: -1, Count: 1, For: 57 * at},
				{At: 211 * at, Kind: Forget, For: 3 * at},
				push(300*at, api(3)),
			},
		}},
		{"first pass", "a node that has just started does not know on which nodes a DaemonSet has slots, and stops nothing before all are heard", Life{
			Seed: 15, Nodes: 3, Calm: 120 * at, Events: []Event{
				push(1*at, logs(1, 0, 1)),
				{At: 20 * at, Kind: NoImages, Node: 0, For: 90 * at},
				push(60*at, logs(2, 0, 1)),
				{At: 75 * at, Kind: Restart, Node: 2, For: at},
				push(120*at, logs(3, 0, 1)),
			},
		}},
		{"back from the dead", "what a node brings back that was held for gone may exceed maxSurge; nothing is added to it", Life{
			Seed: 22, Nodes: 3, Calm: 120 * at, Events: []Event{
				push(1*at, logs(1, 1, 0)), push(29*at, logs(badImage, 1, 0)),
				{At: 47 * at, Kind: PowerOff, For: 50 * at},
				push(120*at, logs(2, 1, 0)),
			},
		}},
		{"two old pods on a drained node", "of two pods of earlier revisions on one drained node, the one that is not ready withdraws", Life{
			Seed: 60001, Nodes: 3, Calm: 360 * at, Events: []Event{
				push(1*at, wide(2), batch, logs(4, 1, 0)), push(64799*at/1000, wide(badImage)),
				serve(304*at, Machine{Node: 1, Drained: true}),
				push(360*at, wide(20)),
			},
		}},
		{"in service again in the middle of a move", "a slot that moves counts for maxSurge also when its node is in service again before the move is over", Life{
			Seed: 3, Nodes: 2, Calm: 120 * at, Events: []Event{
				push(1*at, api(1)),
				{At: 38 * at, Kind: SlowPods, Node: -1, For: 60 * at},
				serve(40*at, Machine{Node: 1, Drained: true}),
				{At: 47 * at, Kind: Push, Node: -1, Push: []Change{{To: api(2)}, {Machine: Machine{Node: 1}, OfNode: true}}},
				push(120*at, api(3)),
			},
		}},
		{"hears and is not heard", "a node that hears and is not heard rolls by its own count: the bounds hold on each side", Life{
			Seed: 63, Nodes: 3, Calm: 300 * at, Events: []Event{
				push(1*at, logs(1, 0, 1)),
				{At: 165 * at, Kind: Cut, Node: 0, Peer: 2, For: 114 * at},
				{At: 221 * at, Kind: Cut, Node: 0, Peer: 1, For: 47 * at},
				push(236*at, logs(2, 0, 1)),
				push(300*at, logs(3, 0, 1)),
			},
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			lived(t, x.life)
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
