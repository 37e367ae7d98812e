package state

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/statusbranch"
	"github.com/pleachdev/pleach/reconcile"
)

func pod(namespace, name string, phase corev1.PodPhase) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("uid-" + namespace + "-" + name)},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name:      "c",
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("1")}},
		}}},
		Status: corev1.PodStatus{Phase: phase},
	}
}

func names(pods []*corev1.Pod) []string {
	var out []string
	for _, p := range pods {
		out = append(out, p.Namespace+"/"+p.Name)
	}
	return out
}

func TestPodsAreReplacedAndFound(t *testing.T) {
	s := New()
	s.SetPods([]*corev1.Pod{pod("b", "x", "Running"), pod("a", "xy", "Running"), pod("a", "x", "Running")})
	before := s.Snapshot()
	s.SetPods([]*corev1.Pod{pod("a", "x", "Failed"), pod("c", "z", "Pending")})
	after := s.Snapshot()

	if got, want := names(before.Pods()), []string{"a/x", "a/xy", "b/x"}; !slices.Equal(got, want) {
		t.Errorf("before: got %v, want %v", got, want)
	}
	if got, want := names(after.Pods()), []string{"a/x", "c/z"}; !slices.Equal(got, want) {
		t.Errorf("after: got %v, want %v", got, want)
	}
	if got := before.Pod("a", "x").Status.Phase; got != corev1.PodRunning {
		t.Errorf("the old snapshot moved: phase %s", got)
	}
	if got := after.Pod("a", "x").Status.Phase; got != corev1.PodFailed {
		t.Errorf("phase %s, want Failed", got)
	}
	if after.Pod("a", "xy") != nil || after.PodByUID("uid-b-x") != nil {
		t.Error("pods that were replaced are still found")
	}
	s.DeletePod("uid-c-z")
	s.DeletePod("unknown")
	if got, want := names(s.Snapshot().Pods()), []string{"a/x"}; !slices.Equal(got, want) {
		t.Errorf("after deletion: got %v, want %v", got, want)
	}
}

// woken reports whether write ends a wait for the tables.
func woken(t *testing.T, s *Store, write func(), tables ...Table) bool {
	t.Helper()
	snap := s.Snapshot()
	write()
	// the channels are closed by the write itself, so there is nothing to wait for
	for ch := range snap.watch(tables) {
		select {
		case <-ch:
			return true
		default:
		}
	}
	return false
}

func TestOnlyChangesWake(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	s := New()
	s.SetPods([]*corev1.Pod{pod("a", "x", "Running")})
	s.SetRemote(gitsync.Remote{URL: "u", LastOK: now})
	s.SetDecided(&reconcile.Decision{Workloads: []reconcile.WorkloadStatus{{Kind: "Deployment", Namespace: "a", Name: "w", UID: "u", Ready: 1}}})
	s.SetDocument(&reconcile.Document{Node: "n1", Seq: 1})
	accepted := &gitsync.Accepted{Head: reconcile.Commit{ID: "c1"}}
	s.SetAccepted(accepted)

	equalCPU := pod("a", "x", "Running")
	equalCPU.Spec.Containers[0].Resources.Requests["cpu"] = resource.MustParse("1000m")
	tests := []struct {
		name   string
		write  func()
		tables []Table
		want   bool
	}{
		{"equal pod", func() { s.SetPods([]*corev1.Pod{pod("a", "x", "Running")}) }, nil, false},
		{"equal quantity", func() { s.SetPod(equalCPU) }, nil, false},
		{"same instant elsewhere", func() {
			s.SetRemote(gitsync.Remote{URL: "u", LastOK: now.In(time.FixedZone("x", 3600))})
		}, nil, false},
		{"same accepted", func() { s.SetAccepted(accepted) }, nil, false},
		{"equal accepted", func() { s.SetAccepted(&gitsync.Accepted{Head: reconcile.Commit{ID: "c1"}}) }, nil, false},
		{"equal workloads", func() {
			s.SetDecided(&reconcile.Decision{Workloads: []reconcile.WorkloadStatus{{Kind: "Deployment", Namespace: "a", Name: "w", UID: "u", Ready: 1}}})
		}, nil, false},
		{"unknown pod deleted", func() { s.DeletePod("nobody") }, nil, false},
		{"other table", func() { s.SetDocument(&reconcile.Document{Node: "n1", Seq: 2}) }, []Table{Pods}, false},
		{"pod changed", func() { s.SetPod(pod("a", "x", "Failed")) }, []Table{Pods}, true},
		{"one of two tables", func() { s.SetDocument(&reconcile.Document{Node: "n1", Seq: 3}) }, []Table{Pods, Documents}, true},
		{"all tables", func() { s.SetStatusPush(statusbranch.Status{Commit: "x"}) }, nil, true},
		{"first pod of many", func() { s.SetPods([]*corev1.Pod{pod("a", "x", "Failed"), pod("a", "y", "Pending")}) }, []Table{Pods}, true},
		{"pod gone", func() { s.SetPods(nil) }, []Table{Pods}, true},
		{"first row of an empty table", func() { s.SetDecided(&reconcile.Decision{Slots: []reconcile.SlotDecision{{Owner: "w"}}}) }, []Table{Decisions}, true},
		{"a member is gone", func() { s.SetMembers([]Member{{Node: "n2", Standing: Gone}}) }, []Table{Members}, true},
		{"event", func() { s.Record(Happening{Reason: "r", At: now}) }, []Table{Events}, true},
		{"workload removed", func() { s.SetDecided(&reconcile.Decision{Removed: []types.UID{"u"}}) }, []Table{Workloads}, true},
	}
	for _, tt := range tests {
		if got := woken(t, s, tt.write, tt.tables...); got != tt.want {
			t.Errorf("%s: woken = %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestWaitMissesNothing(t *testing.T) {
	s := New()
	snap := s.Snapshot()
	s.SetPod(pod("a", "x", "Running")) // before Wait is called
	if err := snap.Wait(t.Context(), Pods); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	changed := s.Snapshot().Changed(ctx, Pods, Documents)
	cancel()
	<-changed // the goroutine ends with ctx

	changed = s.Snapshot().Changed(t.Context(), Pods, Documents)
	s.SetDocument(&reconcile.Document{Node: "n"})
	<-changed
}

func TestEventsAreCountedAndBounded(t *testing.T) {
	s := New()
	start := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	h := Happening{
		Object: corev1.ObjectReference{Kind: "Pod", Namespace: "a", Name: "x", UID: "1"},
		Type:   corev1.EventTypeWarning, Reason: "BackOff", Message: "back-off restarting", Host: "n1", At: start,
	}
	s.Record(h)
	held := s.Snapshot().Events()
	h.At = start.Add(time.Minute)
	s.Record(h)
	events := s.Snapshot().Events()
	if len(events) != 1 {
		t.Fatalf("%d events, want 1", len(events))
	}
	e := events[0]
	if e.Count != 2 || !e.FirstTimestamp.Time.Equal(start) || !e.LastTimestamp.Time.Equal(h.At) {
		t.Errorf("count %d, first %s, last %s", e.Count, e.FirstTimestamp, e.LastTimestamp)
	}
	if held[0].Count != 1 {
		t.Error("an event that was handed out changed")
	}
	for i := range maxEvents {
		other := h
		other.Message = fmt.Sprint("message ", i)
		s.Record(other)
		if i == maxEvents/2 {
			s.Record(h) // keeps the first one young
		}
	}
	events = s.Snapshot().Events()
	if len(events) != maxEvents {
		t.Errorf("%d events, want %d", len(events), maxEvents)
	}
	if !slices.ContainsFunc(events, func(e *corev1.Event) bool { return e.Message == h.Message }) {
		t.Error("an event that came again was dropped as old")
	}
	if slices.ContainsFunc(events, func(e *corev1.Event) bool { return e.Message == "message 0" }) {
		t.Error("the oldest event stayed")
	}
	names := map[string]bool{}
	for _, e := range events {
		names[e.Name] = true
	}
	if len(names) != maxEvents {
		t.Errorf("%d names for %d events", len(names), maxEvents)
	}
}

// TestSetDecidedLeavesOthersAlone gives the decisions of steps that decided some workloads each.
func TestSetDecidedLeavesOthersAlone(t *testing.T) {
	s := New()
	decided := func(uid types.UID, ready int32, ordinals ...int32) (d reconcile.Decision) {
		d.Workloads = []reconcile.WorkloadStatus{{Name: string(uid), UID: uid, Ready: ready}}
		for _, i := range ordinals {
			d.Slots = append(d.Slots, reconcile.SlotDecision{Owner: string(uid), Slot: reconcile.Slot{Workload: uid, Ordinal: i}})
		}
		return d
	}
	for _, step := range []struct {
		d    reconcile.Decision
		want string
	}{
		{decided("b", 1, 0, 2, 10), "b ready 1: b0 b2 b10"},
		{decided("a", 1, 0), "a ready 1, b ready 1: a0 b0 b2 b10"},
		{decided("b", 2, 0, 1), "a ready 1, b ready 2: a0 b0 b1"},
		{reconcile.Decision{}, "a ready 1, b ready 2: a0 b0 b1"},
		{reconcile.Decision{Removed: []types.UID{"b"}}, "a ready 1: a0"},
		{decided("a", 0), "a ready 0:"},
	} {
		s.SetDecided(&step.d)
		var workloads []string
		for _, w := range s.Snapshot().Workloads() {
			workloads = append(workloads, fmt.Sprintf("%s ready %d", w.Name, w.Ready))
		}
		got := strings.Join(workloads, ", ") + ":"
		for _, d := range s.Snapshot().Decisions() {
			got += fmt.Sprintf(" %s%d", d.Owner, d.Slot.Ordinal)
		}
		if got != step.want {
			t.Errorf("got %q, want %q", got, step.want)
		}
	}
}

func TestReadersAndWriters(t *testing.T) {
	s := New()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 100 {
				// both pods change together, so every snapshot sees them equal
				phase := corev1.PodPhase(fmt.Sprint(i, j))
				s.SetPods([]*corev1.Pod{pod("a", "x", phase), pod("a", "y", phase)})
				s.Record(Happening{Reason: "r", Message: string(phase)})
			}
		})
	}
	snap := s.Snapshot()
	for range 4 {
		wg.Go(func() {
			_ = snap.Pods() // one snapshot, several goroutines
			for range 100 {
				pods := s.Snapshot().Pods()
				if len(pods) == 2 && pods[0].Status.Phase != pods[1].Status.Phase {
					t.Errorf("half a write: %s and %s", pods[0].Status.Phase, pods[1].Status.Phase)
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkSetPodsUnchanged(b *testing.B) {
	s := New()
	pods := func() []*corev1.Pod {
		var out []*corev1.Pod
		for i := range 100 {
			out = append(out, pod("a", fmt.Sprint("p", i), "Running"))
		}
		return out
	}
	s.SetPods(pods())
	again := pods()
	for b.Loop() {
		s.SetPods(again)
	}
}
