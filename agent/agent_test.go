package agent

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/agent/api"
	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/statusbranch"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
	"github.com/pleachdev/pleach/gossip"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/state"
)

func TestConfigNamesEverythingThatIsWrong(t *testing.T) {
	c := Config{Introduction: "main", PollInterval: time.Millisecond}
	err := c.complete()
	if err == nil {
		t.Fatal("an empty configuration was taken")
	}
	for _, want := range []string{"--remote", "--introduction", `got "main"`, "--poll-interval"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
	c = Config{Remote: "file:///r", Introduction: strings.Repeat("0a", 20), Node: "n1"}
	if err := c.complete(); err != nil || c.Dir != DefaultDir || c.PollInterval != DefaultPollInterval {
		t.Errorf("%v, %+v", err, c)
	}
}

func TestBootsAreCounted(t *testing.T) {
	dir, now := t.TempDir(), bootEpoch.Add(time.Hour)
	for want := int64(3601); want <= 3603; want++ {
		if got, err := nextBoot(dir, now); err != nil || got != want {
			t.Fatalf("boot %d, %v, want %d", got, err, want)
		}
	}
	if got, err := nextBoot(t.TempDir(), now.Add(10*time.Second)); err != nil || got <= 3603 {
		t.Errorf("with an empty disk boot %d, %v, and it was at 3603", got, err)
	}
	for name, wrong := range map[string]time.Time{"a clock without battery": time.Unix(0, 0), "a clock of another age": bootEpoch.AddDate(200, 0, 0)} {
		if got, err := nextBoot(t.TempDir(), wrong); err != nil || got < 1 || got > math.MaxUint32/2+1 {
			t.Errorf("%s: boot %d, %v", name, got, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "boot"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := nextBoot(dir, now); err == nil || !strings.Contains(err.Error(), "want a whole number") {
		t.Errorf("a damaged counter: %v", err)
	}
}

func TestOneAgentADirectory(t *testing.T) {
	dir := t.TempDir()
	first, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(dir); err == nil || !strings.Contains(err.Error(), "another agent") {
		t.Errorf("second agent: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestReadinessSaysSinceWhen(t *testing.T) {
	var broken error
	r := readiness{runtime: func() error { return broken }}
	r.await("the agent is starting")
	if err := r.err(); err == nil || err.Error() != "the agent is starting" {
		t.Errorf("at the start: %v", err)
	}
	r.await("")
	if err := r.err(); err != nil {
		t.Errorf("started: %v", err)
	}
	_, since := r.get()
	if _, again := r.get(); again != since {
		t.Error("the moment moved although nothing changed")
	}
	broken = errors.New("containerd is away")
	if lacks, later := r.get(); lacks != "containerd is away" || later.Before(since) {
		t.Errorf("%q since %v", lacks, later)
	}
}

// fakePods runs pods in a map.
type fakePods struct {
	pods    map[types.UID]*corev1.Pod
	refuse  error
	changed chan struct{}
	configs int
	found   []types.UID
	resumed []types.UID
}

var looked = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

func (f *fakePods) Start(pod *corev1.Pod) error {
	if f.refuse != nil {
		return f.refuse
	}
	if f.pods[pod.UID] == nil {
		f.pods[pod.UID] = pod.DeepCopy()
	}
	return nil
}

func (f *fakePods) Stop(uid types.UID, _ string) error { delete(f.pods, uid); return nil }

func (f *fakePods) Pods() []*corev1.Pod {
	return slices.SortedFunc(maps.Values(f.pods), func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
}
func (f *fakePods) Changed() <-chan struct{} { return f.changed }
func (f *fakePods) ConfigChanged()           { f.configs++ }
func (f *fakePods) Found() []types.UID       { return f.found }
func (f *fakePods) Looked() <-chan struct{}  { return looked }
func (f *fakePods) Resume(uid types.UID) {
	f.resumed = append(f.resumed, uid)
	f.found = slices.DeleteFunc(f.found, func(u types.UID) bool { return u == uid })
}

func (f *fakePods) ready() {
	for uid, pod := range f.pods {
		pod = pod.DeepCopy()
		pod.Status.Phase = corev1.PodRunning
		pod.Status.PodIP = "10.1.0.2"
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Unix(1, 0)}}
		f.pods[uid] = pod
	}
}

func newDecider(t *testing.T, pods podRuntime) (d *decider, published *map[string][]byte) {
	t.Helper()
	store := state.New()
	metrics, err := api.NewMetrics(prometheus.NewRegistry(), store, "test")
	if err != nil {
		t.Fatal(err)
	}
	published = new(map[string][]byte)
	room := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	memory, err := openDecisions(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &decider{
		memory: memory, key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)),
		node: "n1", flock: alone{}, pods: pods, store: store, metrics: metrics, log: slog.New(slog.DiscardHandler),
		self: func() reconcile.Document {
			return reconcile.Document{Allocatable: room, Conditions: []corev1.NodeCondition{nodeReady("", "", time.Unix(1, 0))}}
		},
		publish: func(content statusbranch.Content) {
			files, err := content()
			if err != nil {
				t.Error(err)
			}
			*published = files
		},
		starting: map[types.UID]time.Time{}, asking: map[reconcile.Ask]bool{},
	}, published
}

const webUID types.UID = "0cc175b9-c0f1-56c5-9b2a-6a1d1a2f3c4d"

func acceptedWith(replicas int32) *gitsync.Accepted {
	commit := reconcile.Commit{ID: strings.Repeat("ab", 20), Level: 2}
	template := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{{Name: "web", Image: "web:1"}},
		},
	}
	web := &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: webUID, Generation: 1},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Template: template, Selector: &metav1.LabelSelector{MatchLabels: template.Labels},
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType},
		},
	}
	a := &gitsync.Accepted{
		Head: commit, ClusterCommit: commit,
		Nodes: []*corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}},
		Apps: []gitsync.App{{Name: "shop", Commit: commit, Objects: []reconcile.Object{{
			Source: reconcile.Source{App: "shop", Path: "shop/web.yaml", Line: 1}, Commit: commit, Object: web,
			Templates: []reconcile.Template{{Revision: "abcdefghij", Commit: commit, Spec: template}},
		}}}},
	}
	a.Cluster.Name = "orchard"
	a.Cluster.Spec.Apps = []v1alpha1.App{{Name: "shop", Path: "shop"}}
	return a
}

func TestPassStartsScalesAndReports(t *testing.T) {
	pods := &fakePods{pods: map[types.UID]*corev1.Pod{}, changed: make(chan struct{}, 1)}
	d, published := newDecider(t, pods)
	now := time.Unix(1_800_000_000, 0)
	pass := func() {
		t.Helper()
		now = now.Add(time.Second)
		if _, err := d.pass(t.Context(), d.store.Snapshot(), now); err != nil {
			t.Fatal(err)
		}
	}

	pass()
	if len(pods.pods) != 0 || *published != nil {
		t.Fatal("something was done before anything was accepted")
	}
	d.store.SetAccepted(acceptedWith(3))
	pass()
	if len(pods.pods) != 3 || pods.configs != 1 {
		t.Fatalf("%d pods, %d reloads, want 3 and 1", len(pods.pods), pods.configs)
	}
	pods.ready()
	pass()
	first := d.author.document.Seq
	pass()
	if d.author.document.Seq != first {
		t.Error("a document that says nothing new got a new number")
	}
	if readme := string((*published)["README.md"]); !strings.Contains(readme, "| default | deployment/web | 3/3 |") {
		t.Errorf("README.md:\n%s", readme)
	}
	if files := slices.Sorted(maps.Keys(*published)); !slices.Contains(files, "status/n1.json") || !slices.Contains(files, "workloads/default/deployment/web.yaml") {
		t.Errorf("published %v", files)
	}

	d.store.SetAccepted(acceptedWith(1))
	pass()
	if len(pods.pods) != 1 {
		t.Errorf("%d pods after scaling down, want 1", len(pods.pods))
	}
	if events := d.store.Snapshot().Events(); len(events) != 5 {
		t.Errorf("%d events, want 3 of starts and 2 of stops", len(events))
	}
}

func TestActionThatFailedIsAskedForAgain(t *testing.T) {
	pods := &fakePods{pods: map[types.UID]*corev1.Pod{}, refuse: errors.New("no space left on device"), changed: make(chan struct{}, 1)}
	d, _ := newDecider(t, pods)
	d.store.SetAccepted(acceptedWith(2))
	now := time.Unix(1_800_000_000, 0)
	if _, err := d.pass(t.Context(), d.store.Snapshot(), now); err == nil || !strings.Contains(err.Error(), "no space") {
		t.Errorf("pass: %v", err)
	}
	pods.refuse = nil
	if _, err := d.pass(t.Context(), d.store.Snapshot(), now.Add(time.Second)); err != nil || len(pods.pods) != 2 {
		t.Errorf("second pass: %v, %d pods", err, len(pods.pods))
	}
}

// alone is the flock of a node that has no other.
type alone struct{}

func (alone) look(*gitsync.Accepted, time.Time) outlook        { return outlook{} }
func (alone) publish(context.Context, gossip.Sealed, []string) {}
func (alone) changed() <-chan struct{}                         { return nil }
func (alone) ask(context.Context, []reconcile.Ask)             {}
func (alone) answers() <-chan []reconcile.Answer               { return nil }
func (alone) questions() <-chan asked                          { return nil }
func (alone) leave(gossip.Sealed)                              {}
func (alone) backBy(time.Time) time.Time                       { return time.Time{} }
func (alone) bootCounter() int64                               { return 1 }
