package reconcile

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

// steady is a node with workloads of ten ready pods each.
func steady(tb testing.TB, workloads int) *world {
	w := newWorld(tb)
	w.in.Nodes[0].Node = testNode("n1", "4000", "8000Gi")
	w.in.Nodes[0].Node.Status.Allocatable["pods"] = resource.MustParse("2000")
	var objects []Object
	for i := range workloads {
		d := deployment("a", 10, 1, 0)
		d.Name, d.UID = fmt.Sprint("web", i), types.UID(fmt.Sprint("uid-", i))
		objects = append(objects, Object{Object: d})
	}
	w.push(objects...)
	w.run(5 * time.Second)
	if all, ready, _ := w.count(); ready != 10*workloads {
		tb.Fatalf("%d pods, %d ready, want %d", all, ready, 10*workloads)
	}
	return w
}

// BenchmarkStepIdle is a pass in which nothing happens.
func BenchmarkStepIdle(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("pods=%d", 10*n), func(b *testing.B) {
			w := steady(b, n)
			in := w.input()
			b.ReportAllocs()
			for b.Loop() {
				w.state, _ = Step(w.state, in)
			}
		})
	}
}

// BenchmarkStepPush is the pass that brings three replicas beside 100 pods.
func BenchmarkStepPush(b *testing.B) {
	w := steady(b, 10)
	w.push(append(w.in.Objects, Object{Object: deployment("a", 3, 1, 0)})...)
	in := w.input()
	b.ReportAllocs()
	memory := w.state.all()
	for b.Loop() {
		b.StopTimer()
		s := Resume(memory)
		b.StartTimer()
		if _, d := Step(s, in); len(d.Actions) != 3 {
			b.Fatalf("got %v", d.Actions)
		}
	}
}
