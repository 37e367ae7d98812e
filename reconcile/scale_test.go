package reconcile

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// large is a flock at rest, as one of its nodes sees it: every Deployment has 50 pods.
func large(nodes, slots int) Input {
	in := Input{
		Self: "n00000", Boot: 1, Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Apps: []string{"shop"},
		Accepted: map[string]Commit{}, Partial: true,
	}
	c := Commit{ID: fmt.Sprintf("%040d", 7), Level: 7}
	in.Accepted = map[string]Commit{clusterUnit: c, "shop": c}
	for i := range nodes {
		in.Nodes = append(in.Nodes, Node{Node: testNode(fmt.Sprintf("n%05d", i), "16", "64Gi"), Stable: true})
		in.Documents = append(in.Documents, Document{Node: fmt.Sprintf("n%05d", i), Boot: 1, Seq: 1, Accepted: in.Accepted, Allocatable: in.Nodes[i].Node.Status.Allocatable})
	}
	const replicas = 50
	for i := range slots / replicas {
		d := deployment("a", replicas, 1, 1)
		d.Name, d.UID = fmt.Sprintf("web-%04d", i), types.UID(fmt.Sprintf("0cc175b9-c0f1-56c5-9b2a-%012d", i))
		o := Object{Object: d, Source: Source{App: "shop", Path: "shop.yaml", Line: 1}, Commit: c}
		o.Templates = []Template{{Revision: "abcdefghij", Commit: c, Spec: d.Spec.Template}}
		in.Objects = append(in.Objects, o)
		for ordinal := range replicas {
			n := (i*replicas + ordinal) * 7919 % nodes
			m := Instance{
				Slot: Slot{Workload: d.UID, Ordinal: int32(ordinal)}, Revision: "abcdefghij", Epoch: 1, Node: in.Nodes[n].Node.Name, Boot: 1,
				Claimed: in.Now.Add(-time.Hour), Cause: c.ID, Commit: c, App: "shop", Kind: kindDeployment, Namespace: "default", Owner: d.Name,
				Phase: corev1.PodRunning, Ready: true, ReadySince: in.Now.Add(-time.Hour), PodIP: fmt.Sprintf("10.%d.%d.%d", n>>8, n&255, ordinal),
			}
			m.Name, m.UID = m.PodID()
			in.Documents[n].Instances = append(in.Documents[n].Instances, m)
		}
	}
	return in
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkStepLarge is 5,000 nodes and 100,000 slots: the first step, and those in which little happens.
func BenchmarkStepLarge(b *testing.B) {
	in := large(5000, 100_000)
	documents := in.Documents
	begin := func() State {
		in.Documents = documents
		s, d := Step(State{}, in)
		if len(d.Slots) != 100_000 || len(d.Actions) > 0 {
			b.Fatalf("%d slots, %v", len(d.Slots), d.Actions)
		}
		return s
	}
	b.Run("first", func(b *testing.B) {
		before := heap()
		var s State
		for b.Loop() {
			s = begin()
		}
		b.ReportMetric(float64(heap()-before)/1e6, "MB")
		runtime.KeepAlive(s)
	})
	state := begin()
	step := func(b *testing.B, in Input, slots int) {
		var d Decision
		if state, d = Step(state, in); len(d.Slots) != slots {
			b.Fatalf("%d slots were decided, not %d", len(d.Slots), slots)
		}
	}
	in.Documents = nil
	b.Run("nothing", func(b *testing.B) {
		for b.Loop() {
			step(b, in, 0)
		}
	})
	b.Run("readiness", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			d := &documents[i%len(documents)]
			d.Seq++
			d.Instances[0].Ready = !d.Instances[0].Ready
			news := in
			news.Documents = []Document{*d}
			step(b, news, 50)
		}
	})
	b.Run("lost", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			n := 1 + i/2%(len(in.Nodes)-1)
			in.Nodes[n].Gone = i%2 == 0
			state, _ = Step(state, in)
		}
	})
}
