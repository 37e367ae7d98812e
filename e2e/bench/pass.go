package main

import (
	"fmt"
	"math/rand"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/e2e/shapes"
	"github.com/pleachdev/pleach/placement"
	"github.com/pleachdev/pleach/reconcile"
)

// pass measures whole passes of one node's decisions, in a flock of 5,000 with 100,000 settled slots.
func (b *bench) pass() error {
	in := settledInput()
	before := heapSize()
	start := cpuTime()
	s, d := reconcile.Step(reconcile.State{}, in)
	first := cpuTime() - start
	ready := int32(0)
	for _, w := range d.Workloads {
		ready += w.Ready
	}
	if ready != manySlots || len(d.Actions) > 0 {
		return fmt.Errorf("%d of %d slots are ready, and there are %d actions, where nothing is to be done", ready, manySlots, len(d.Actions))
	}
	d = reconcile.Decision{}
	// The index keeps what points into the objects and documents, which the agent has anyway.
	held := heapSize() - before
	b.table.add("pass", fmt.Sprintf("first pass over %d slots of %d nodes, processor time", manySlots, manyNodes), seconds(first))

	documents := in.Documents
	in.Partial = true
	r := rand.New(rand.NewSource(1))
	var failed error
	n := 0
	took := each(b.count(2000, 100), func(int) {
		// A pod of a node fails its probe, or passes it again.
		for {
			if n = 1 + r.Intn(len(documents)-1); len(documents[n].Instances) > 0 {
				break
			}
		}
		doc := &documents[n]
		doc.Instances = slices.Clone(doc.Instances)
		doc.Seq++
		m := &doc.Instances[r.Intn(len(doc.Instances))]
		m.Ready = !m.Ready
		in.Now = in.Now.Add(100 * time.Millisecond)
		m.ReadySince = in.Now
		in.Documents = []reconcile.Document{*doc}
	}, func(int) { s, d = reconcile.Step(s, in) }, func(int) {
		if len(d.Actions) > 0 {
			failed = fmt.Errorf("%v, where nothing is to be done", d.Actions)
		}
	})
	p50, p99 := quantile(took, .5), quantile(took, .99)
	b.table.judge("pass", "one document changed, work of a whole pass: p50, p99", fine(p50)+", "+fine(p99), "p99 ≤ 1 ms", p99 <= time.Millisecond)
	in.Documents = nil
	in.Now = in.Now.Add(time.Second)
	s, _ = reconcile.Step(s, in)
	idle := each(b.count(1000, 100), func(int) { in.Now = in.Now.Add(time.Second) }, func(int) { s, _ = reconcile.Step(s, in) }, func(int) {})
	b.table.add("pass", "nothing changed, work of a pass: p50, p99", fine(quantile(idle, .5))+", "+fine(quantile(idle, .99)))
	b.table.add("pass", "memory that the index keeps beside objects and documents", megabytes(held))
	runtime.KeepAlive(s)
	runtime.KeepAlive(documents)
	return failed
}

// heapSize is what lives on the heap after a collection, bytes.
func heapSize() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// settledInput is a flock in which everything runs where the plan has it, as the first node knows it.
func settledInput() reconcile.Input {
	flock := shapes.Mixed(manyNodes, manySlots, 1, 80)
	plan := placement.Plan(flock)
	c := reconcile.Commit{ID: "c1", Level: 1}
	accepted := map[string]reconcile.Commit{"shop": c, "pleach.dev": c}
	in := reconcile.Input{Self: flock.Nodes[0].Name, Boot: 1, Now: shapes.Epoch, Apps: []string{"shop"}, Accepted: accepted}
	at := map[string]int{}
	for i, n := range flock.Nodes {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: n.Labels}, Spec: corev1.NodeSpec{Taints: n.Taints}}
		node.Status.Allocatable = corev1.ResourceList{
			corev1.ResourceCPU:              *resource.NewMilliQuantity(n.Allocatable.MilliCPU, resource.DecimalSI),
			corev1.ResourceMemory:           *resource.NewQuantity(n.Allocatable.Memory, resource.BinarySI),
			corev1.ResourceEphemeralStorage: *resource.NewQuantity(n.Allocatable.EphemeralStorage, resource.BinarySI),
			corev1.ResourcePods:             *resource.NewQuantity(n.Allocatable.Pods, resource.DecimalSI),
		}
		in.Nodes = append(in.Nodes, reconcile.Node{Node: node, Stable: true})
		in.Documents = append(in.Documents, reconcile.Document{Node: n.Name, Boot: 1, Seq: 1, Accepted: accepted, Head: c, Allocatable: node.Status.Allocatable})
		at[n.Name] = i
	}
	workloads := map[string]*appsv1.Deployment{}
	for _, s := range flock.Slots {
		name, ordinal, _ := strings.Cut(s.Key, "/")
		d := workloads[name]
		if d == nil {
			d = workload(name, s)
			workloads[name] = d
			in.Objects = append(in.Objects, reconcile.Object{
				Source: reconcile.Source{App: "shop", Path: "shop.yaml", Line: 1}, Commit: c, Object: d,
				Templates: []reconcile.Template{{Revision: "0000000001", Commit: c, Spec: d.Spec.Template}},
			})
		}
		*d.Spec.Replicas++
		a, _ := plan.Find(s.Key)
		i, _ := strconv.Atoi(ordinal)
		m := reconcile.Instance{
			Slot: reconcile.Slot{Workload: d.UID, Ordinal: int32(i)}, Revision: "0000000001", Epoch: 1, Node: a.Node, Boot: 1, Claimed: shapes.Epoch.Add(-time.Hour),
			Cause: c.ID, Commit: c, App: "shop", Kind: "Deployment", Namespace: "default", Owner: name, Phase: corev1.PodRunning, Ready: true, ReadySince: shapes.Epoch.Add(-time.Hour),
		}
		m.Name, m.UID = m.PodID()
		doc := &in.Documents[at[a.Node]]
		doc.Instances = append(doc.Instances, m)
	}
	for _, m := range in.Documents[0].Instances {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: m.Name, Namespace: m.Namespace, UID: m.UID}, Spec: workloads[m.Owner].Spec.Template.Spec}
		in.Pods = append(in.Pods, p)
	}
	return in
}

// workload is the Deployment of a slot, without replicas yet.
func workload(name string, s placement.Slot) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("uid-" + name), Generation: 1},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					NodeSelector: s.Constraints.NodeSelector,
					Containers: []corev1.Container{{Name: "main", Image: "a", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
						corev1.ResourceCPU:    *resource.NewMilliQuantity(s.Requests.MilliCPU, resource.DecimalSI),
						corev1.ResourceMemory: *resource.NewQuantity(s.Requests.Memory, resource.BinarySI),
					}}}},
				},
			},
		},
	}
}
