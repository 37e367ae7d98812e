package main

import (
	"fmt"
	"math/rand"
	"slices"
	"time"

	"github.com/pleachdev/pleach/e2e/shapes"
	"github.com/pleachdev/pleach/placement"
)

// The flock of the benchmarks that need no machine.
const (
	manyNodes = 5000
	manySlots = 100_000
)

// placement measures the planner, and beside it, on the same input, a loop in the manner of the
// Kubernetes scheduler: a sample of feasible nodes, scored by LeastAllocated.
func (b *bench) placement() error {
	what := fmt.Sprintf("%d slots on %d mixed nodes", manySlots, manyNodes)
	for _, full := range []int64{80, 90} {
		in := shapes.Mixed(manyNodes, manySlots, 1, full)
		var ours placement.Result
		var theirs map[string]string
		mine := processor(b.count(3, 1), func() { ours = placement.Plan(in) })
		sampled := processor(b.count(3, 1), func() { theirs = shapes.Sampling(in) })
		mean, p99, open := shapes.Balance(in, nodeIn(ours))
		m2, q2, open2 := shapes.Balance(in, func(key string) string { return theirs[key] })
		share, share2 := float64(p99)/float64(mean), float64(q2)/float64(m2)
		name := fmt.Sprintf("%s, %d %% full", what, full)
		if full == 80 {
			b.table.judge("placement", name+": plan from nothing, processor time", seconds(mine), "≤ 1.00 s", mine <= time.Second)
			b.table.judge("placement", "p99 ÷ mean of the nodes' shares", fmt.Sprintf("%.3f", share), "≤ 1.10", share <= 1.10)
			b.table.add("placement", "kube-scheduler's manner: processor time, ratio to the plan", fmt.Sprintf("%s, %.1f×", seconds(sampled), sampled.Seconds()/mine.Seconds()))
			b.table.add("placement", "the same: p99 ÷ mean, unplaced", fmt.Sprintf("%.3f, %d", share2, open2))
			continue
		}
		b.table.judge("placement", name+": unplaced", fmt.Sprint(open), "0", open == 0)
		b.table.add("placement", "the same in kube-scheduler's manner: unplaced", fmt.Sprint(open2))
	}
	in := shapes.Mixed(manyNodes, manySlots, 1, 80)
	settled := placement.Plan(in)
	shapes.Settle(&in, settled)
	b.replan(in)
	b.moved(in)
	return nil
}

func nodeIn(r placement.Result) func(key string) string {
	return func(key string) string { a, _ := r.Find(key); return a.Node }
}

// replan measures what a settled planner does when something changes.
func (b *bench) replan(in placement.Input) {
	p := placement.NewPlanner(in)
	p.Plan()
	r := rand.New(rand.NewSource(1))
	rounds := b.count(1000, 50)
	var n placement.Node
	lost := each(rounds, func(int) { n = in.Nodes[r.Intn(len(in.Nodes))]; n.Gone = true }, func(int) {
		p.Update(placement.Change{Nodes: []placement.Node{n}})
		p.Plan()
	}, func(int) {
		n.Gone = false
		p.Update(placement.Change{Nodes: []placement.Node{n}})
	})
	p50, p99 := quantile(lost, .5), quantile(lost, .99)
	b.table.judge("placement", "one node lost, work of planning again: p50, p99", fine(p50)+", "+fine(p99), "p99 ≤ 5 ms", p99 <= 5*time.Millisecond)

	var change, back placement.Change
	come := each(rounds, func(i int) {
		c := &placement.Constraints{Labels: map[string]string{"app": fmt.Sprint("new", i)}}
		change, back = placement.Change{}, placement.Change{}
		for j := range 8 {
			s := placement.Slot{Key: fmt.Sprintf("new%d/%d", i, j), Constraints: c, Wave: 1, Requests: placement.Resources{MilliCPU: 100, Pods: 1}}
			change.Slots, back.Without = append(change.Slots, s), append(back.Without, s.Key)
		}
	}, func(int) { p.Update(change); p.Plan() }, func(int) { p.Update(back) })
	p50, p99 = quantile(come, .5), quantile(come, .99)
	b.table.judge("placement", "a workload of 8 has come, work of planning again: p50, p99", fine(p50)+", "+fine(p99), "p99 ≤ 1 ms", p99 <= time.Millisecond)
}

// moved counts what moves when a node is lost, when that was carried out half, with two commits under
// way, and when a node joins.
func (b *bench) moved(in placement.Input) {
	in.Nodes, in.Slots = slices.Clone(in.Nodes), slices.Clone(in.Slots)
	before := nodeIn(placement.Plan(in))
	ran := map[string]string{}
	for _, s := range in.Slots {
		ran[s.Key] = s.Incumbent
	}
	join := in
	join.Nodes = append(slices.Clone(in.Nodes), placement.Node{Name: "newcomer", Allocatable: placement.Resources{MilliCPU: 64000, Memory: 256 << 30, EphemeralStorage: 100 << 30, Pods: 110}})
	joined := 0
	for _, a := range placement.Plan(join).Assignments {
		if a.Node != before(a.Key) {
			joined++
		}
	}
	b.table.judge("placement", "a node of 64 cores joins: moved", fmt.Sprint(joined), "0", joined == 0)

	// Two commits bring 800 slots each; then the node is lost.
	for i, s := range shapes.Mixed(manyNodes, 1600, 7, 1).Slots {
		s.Key, s.Wave = "new "+s.Key, 1+i%2
		in.Slots = append(in.Slots, s)
	}
	gone := in.Nodes[11].Name
	in.Nodes[11].Gone = true
	lost := 0
	for i := range in.Slots {
		if s := &in.Slots[i]; s.Wave == 0 && s.Incumbent == gone {
			s.Claimed, s.Wave = false, 3
			lost++
		}
	}
	want := placement.Plan(in)
	half := in
	half.Slots = slices.Clone(in.Slots)
	r := rand.New(rand.NewSource(8))
	for i := range half.Slots {
		s := &half.Slots[i]
		if a, _ := want.Find(s.Key); s.Wave > 0 && a.Node != "" && r.Intn(2) == 0 {
			s.Incumbent, s.Claimed = a.Node, true
		}
	}
	count := func(plan placement.Result) (moved, changed int) {
		for _, a := range plan.Assignments {
			if was, ok := ran[a.Key]; ok && was != "" && a.Node != was {
				moved++
			}
			if first, _ := want.Find(a.Key); first.Node != a.Node {
				changed++
			}
		}
		return moved, changed
	}
	whole, _ := count(want)
	part, changed := count(placement.Plan(half))
	ratio := func(n int) string { return fmt.Sprintf("%.2f", float64(n)/float64(max(lost, 1))) }
	b.table.judge("placement", fmt.Sprintf("a node with %d slots is lost in the midst of two commits: moved ÷ lost", lost), ratio(whole), "1.00", lost > 0 && whole == lost)
	b.table.judge("placement", "the same when half of all was carried out: moved ÷ lost, other targets", fmt.Sprintf("%s, %d", ratio(part), changed), "1.00, 0", part == lost && changed == 0)
}

// scheduler measures the planner on the shapes of Kubernetes' scheduler_perf. The floors are what
// Kubernetes' CI asks of its scheduler, which writes every binding to its API server besides.
func (b *bench) scheduler() error {
	for _, c := range shapes.Cases {
		in := c.Make()
		slots, placed := 0, 0
		for i := range in.Slots {
			if !in.Slots[i].Claimed {
				slots++
			}
		}
		p := placement.NewPlanner(in)
		var out []placement.Assignment
		took := processor(b.count(5, 1), func() { out = p.Plan() })
		for _, a := range out {
			if a.Node != "" || a.Nominated != "" {
				placed++
			}
		}
		rate := float64(slots) / took.Seconds()
		measured := fmt.Sprintf("%.0f (%d without a node)", rate, slots-placed)
		goal := fmt.Sprintf("Kubernetes' floor: %.0f", c.Floor)
		if c.Name == "PodAffinity" {
			b.table.judge("scheduler", c.Name+", slots a second of processor time", measured, "≥ 50000; "+goal, rate >= 50_000)
			continue
		}
		b.table.judge("scheduler", c.Name+", slots a second of processor time", measured, goal, rate >= c.Floor)
	}
	return nil
}
