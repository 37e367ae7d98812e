package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/state"
)

// start serves the local API over a real socket for the length of a test.
func start(t *testing.T, s *Server) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), SocketName)
	listener, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx, listener, nil, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return NewClient(path)
}

func kind(t *testing.T, word string) Kind {
	t.Helper()
	k, err := FindKind(word)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func ownPod(name string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name), Labels: labels},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "app"}, {Name: "proxy"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
}

func deployment(replicas int32) *appsv1.Deployment {
	return &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "uid-web", Generation: 3},
		Spec:       appsv1.DeploymentSpec{Replicas: &replicas},
	}
}

func accepted(objects ...reconcile.K8sObject) *gitsync.Accepted {
	a := &gitsync.Accepted{
		Cluster: v1alpha1.Cluster{ObjectMeta: metav1.ObjectMeta{Name: "test"}},
		Head:    reconcile.Commit{ID: strings.Repeat("c", 40)},
		Nodes:   []*corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, {ObjectMeta: metav1.ObjectMeta{Name: "n2"}}},
		Apps:    []gitsync.App{{Name: "web"}},
	}
	for _, o := range objects {
		a.Apps[0].Objects = append(a.Apps[0].Objects, reconcile.Object{
			Object: o, Source: reconcile.Source{App: "web", Path: "web/x.yaml", Line: 7}, Commit: a.Head,
		})
	}
	return a
}

func TestSocketIsForItsOwnerAndReplacesAStaleOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)
	if err := os.WriteFile(path, []byte("left by a crash"), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // the test is over
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("mode %s, want a socket with 0600", info.Mode())
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("directory holds %v, %v; want the socket alone", entries, err)
	}
}

func TestNoAgent(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)
	_, err := NewClient(path).Status(t.Context())
	if !errors.Is(err, ErrNoAgent) {
		t.Errorf("no socket: %v", err)
	}
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil { // the socket stays, as after kill -9
		t.Fatal(err)
	}
	if _, err := NewClient(path).Status(t.Context()); !errors.Is(err, ErrNoAgent) {
		t.Errorf("dead socket: %v", err)
	}
}

func TestSecretsLeaveWithoutValues(t *testing.T) {
	store := state.New()
	secret := &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "login", Annotations: map[string]string{
			"note": "kept", corev1.LastAppliedConfigAnnotation: `{"stringData":{"user":"hunter2"}}`,
		}},
		Data:       map[string][]byte{"password": []byte("hunter2")},
		StringData: map[string]string{"user": "hunter2 too"},
	}
	store.SetAccepted(accepted(secret))
	client := start(t, &Server{Node: "n1", Store: store})
	list, err := client.List(t.Context(), kind(t, "secrets"), ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	descriptions, err := client.Describe(t.Context(), kind(t, "secret"), ListOptions{Name: "login"})
	if err != nil {
		t.Fatal(err)
	}
	all, err := json.Marshal([]any{list, descriptions})
	if err != nil {
		t.Fatal(err)
	}
	for _, leak := range []string{"hunter2", "aHVudGVyMg"} {
		if strings.Contains(string(all), leak) {
			t.Errorf("%q leaks: %s", leak, all)
		}
	}
	got := list[0].(*corev1.Secret)
	if want := `{"password":7,"user":11}`; got.Annotations[RedactedAnnotation] != want {
		t.Errorf("sizes %s, want %s", got.Annotations[RedactedAnnotation], want)
	}
	if len(got.Data) != 2 || got.Annotations["note"] != "kept" {
		t.Errorf("keys %v, annotations %v", got.Data, got.Annotations)
	}
	if string(secret.Data["password"]) != "hunter2" {
		t.Error("the accepted object itself was changed")
	}
}

func TestWorkloadsHaveTheirStatus(t *testing.T) {
	store := state.New()
	original := deployment(3)
	store.SetAccepted(accepted(original))
	store.SetDecided(&reconcile.Decision{Workloads: []reconcile.WorkloadStatus{{
		Kind: "Deployment", Namespace: "default", Name: "web", Generation: 3, Desired: 3, Current: 4, Updated: 2, Ready: 3, Available: 1,
		Conditions: []metav1.Condition{{Type: "Progressing", Status: "True", Reason: "ReplicaSetUpdated"}},
	}}})
	client := start(t, &Server{Node: "n1", Store: store})
	list, err := client.List(t.Context(), kind(t, "deploy"), ListOptions{Namespace: "default", Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	got := list[0].(*appsv1.Deployment).Status
	if got.ObservedGeneration != 3 || got.Replicas != 4 || got.UpdatedReplicas != 2 || got.ReadyReplicas != 3 ||
		got.AvailableReplicas != 1 || got.UnavailableReplicas != 2 || got.Conditions[0].Reason != "ReplicaSetUpdated" {
		t.Errorf("status %+v", got)
	}
	if original.Status.Replicas != 0 {
		t.Error("the accepted object itself was changed")
	}
}

func TestPodsOfOtherNodesComeFromTheirDocuments(t *testing.T) {
	store := state.New()
	store.SetPods([]*corev1.Pod{ownPod("a", nil)})
	store.SetDocument(&reconcile.Document{Node: "n1", Instances: []reconcile.Instance{{Namespace: "default", Name: "a", Node: "n1"}}})
	store.SetDocument(&reconcile.Document{Node: "n2", Instances: []reconcile.Instance{
		{Namespace: "default", Name: "b", UID: "u", Node: "n2", Phase: corev1.PodRunning, Ready: true, PodIP: "10.0.0.9", Terminating: true, Claimed: time.Unix(1, 0)},
	}})
	client := start(t, &Server{Node: "n1", Store: store})
	list, err := client.List(t.Context(), kind(t, "pods"), ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 {
		t.Fatalf("%d pods, want one of each node", len(list))
	}
	b := list[1].(*corev1.Pod)
	if b.Name != "b" || b.Spec.NodeName != "n2" || b.Status.PodIP != "10.0.0.9" || b.DeletionTimestamp == nil {
		t.Errorf("pod of the other node: %+v", b)
	}
	if err := client.Logs(t.Context(), "default", "b", &corev1.PodLogOptions{}, io.Discard); !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "runs on node n2") {
		t.Errorf("logs of a pod elsewhere: %v", err)
	}
}

func TestErrorsKeepTheirReason(t *testing.T) {
	store := state.New()
	store.SetPods([]*corev1.Pod{ownPod("a", nil)})
	client := start(t, &Server{
		Node: "n1", Store: store,
		Logs: func(context.Context, *corev1.Pod, *corev1.PodLogOptions, io.Writer) error {
			return errors.New("disk on fire")
		},
		Exec: func(context.Context, *corev1.Pod, *corev1.PodExecOptions) (string, error) {
			return "", errors.New("no shell")
		},
	})
	_, err := client.List(t.Context(), kind(t, "pods"), ListOptions{Name: "b"})
	if !apierrors.IsNotFound(err) || err.Error() != `pods "b" not found` {
		t.Errorf("missing pod: %v", err)
	}
	if _, err := client.List(t.Context(), kind(t, "pods"), ListOptions{Selector: "a in ("}); !apierrors.IsBadRequest(err) {
		t.Errorf("bad selector: %v", err)
	}
	if _, err := client.List(t.Context(), Kind{Resource: "gizmos", New: kind(t, "pods").New}, ListOptions{}); !apierrors.IsBadRequest(err) {
		t.Errorf("unknown kind: %v", err)
	}
	if err := client.Logs(t.Context(), "default", "a", &corev1.PodLogOptions{}, io.Discard); err == nil || err.Error() != "disk on fire" {
		t.Errorf("logs: %v", err)
	}
	if err := client.Logs(t.Context(), "default", "a", &corev1.PodLogOptions{Container: "x"}, io.Discard); !apierrors.IsBadRequest(err) {
		t.Errorf("unknown container: %v", err)
	}
	if _, err := client.Exec(t.Context(), "default", "a", &corev1.PodExecOptions{Command: []string{"sh"}}, Streams{}); err == nil || err.Error() != "no shell" {
		t.Errorf("exec: %v", err)
	}
	if _, err := client.Exec(t.Context(), "default", "a", &corev1.PodExecOptions{}, Streams{}); !apierrors.IsBadRequest(err) {
		t.Errorf("exec of nothing: %v", err)
	}
}

func TestLogsStreamAndBreak(t *testing.T) {
	store := state.New()
	store.SetPods([]*corev1.Pod{ownPod("a", nil)})
	read := make(chan struct{})
	client := start(t, &Server{Node: "n1", Store: store, Logs: func(ctx context.Context, _ *corev1.Pod, o *corev1.PodLogOptions, w io.Writer) error {
		if _, err := fmt.Fprintln(w, o.Container, *o.TailLines); err != nil {
			return err
		}
		select {
		case <-read: // what was written is with the reader though the log goes on
			return errors.New("containerd went away")
		case <-ctx.Done():
			return ctx.Err()
		}
	}})
	r, w := io.Pipe()
	done := make(chan error)
	go func() {
		done <- client.Logs(t.Context(), "default", "a", &corev1.PodLogOptions{Follow: true, TailLines: new(int64(5))}, w)
	}()
	line := make([]byte, 6)
	if _, err := io.ReadFull(r, line); err != nil || string(line) != "app 5\n" {
		t.Fatalf("read %q, %v", line, err)
	}
	close(read)
	if err := <-done; err == nil {
		t.Error("a log that broke looks like one that ended")
	}
}

func TestExecPassesTheRequest(t *testing.T) {
	store := state.New()
	pod := ownPod("a", nil)
	pod.Annotations = map[string]string{defaultContainer: "proxy"}
	store.SetPods([]*corev1.Pod{pod})
	var got *corev1.PodExecOptions
	client := start(t, &Server{Node: "n1", Store: store, Exec: func(_ context.Context, _ *corev1.Pod, o *corev1.PodExecOptions) (string, error) {
		got = o
		return "", errors.New("passed")
	}})
	want := corev1.PodExecOptions{Command: []string{"sh", "-c", "a & b"}, Stdin: true, Stdout: true, TTY: true}
	if _, err := client.Exec(t.Context(), "default", "a", &want, Streams{}); err == nil || err.Error() != "passed" {
		t.Fatal(err)
	}
	if got.Container != "proxy" || !slices.Equal(got.Command, want.Command) || !got.Stdin || !got.Stdout || got.Stderr || !got.TTY {
		t.Errorf("got %+v", got)
	}
}

func TestWatch(t *testing.T) {
	store := state.New()
	labels := map[string]string{"app": "web"}
	store.SetPods([]*corev1.Pod{ownPod("a", labels), ownPod("z", nil)})
	client := start(t, &Server{Node: "n1", Store: store})
	enough := errors.New("enough")
	var got []string
	err := client.Watch(t.Context(), kind(t, "pods"), ListOptions{Selector: "app=web"}, func(e watch.EventType, o reconcile.K8sObject) error {
		text := string(e)
		if o != nil {
			text += " " + o.GetName()
		}
		got = append(got, text)
		// every event causes the next change
		switch len(got) {
		case 2:
			store.SetPod(ownPod("b", labels))
		case 3:
			store.SetPod(ownPod("z", nil)) // equal, and not selected
			changed := ownPod("b", labels)
			changed.Status.Phase = corev1.PodFailed
			store.SetPod(changed)
		case 4:
			store.SetPod(ownPod("a", nil)) // leaves the selection
		case 5:
			store.DeletePod("uid-b")
		case 6:
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Fatal(err)
	}
	want := []string{"ADDED a", "BOOKMARK", "ADDED b", "MODIFIED b", "DELETED a", "DELETED b"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestWatchEndsWithTheAgent(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)
	listener, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- (&Server{Node: "n1", Store: state.New()}).Run(ctx, listener, nil, nil) }()
	err = NewClient(path).Watch(t.Context(), kind(t, "pods"), ListOptions{}, func(watch.EventType, reconcile.K8sObject) error {
		cancel() // at the bookmark
		return nil
	})
	if err == nil {
		t.Error("a watch that the agent ended returns nil")
	}
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestExplainJoinsWhatIsKnown(t *testing.T) {
	store := state.New()
	store.SetAccepted(accepted(deployment(3)))
	slot := func(n int32) reconcile.Slot { return reconcile.Slot{Workload: "uid-web", Ordinal: n} }
	source := reconcile.Source{App: "web", Path: "web/x.yaml", Line: 7}
	store.SetDecided(&reconcile.Decision{Workloads: []reconcile.WorkloadStatus{{
		Kind: "Deployment", Namespace: "default", Name: "web", Revision: "r2", Source: source,
		Waiting: []reconcile.SlotReason{{Slot: slot(10), Reason: "0/1 nodes are available: 1 Insufficient cpu."}},
	}}})
	store.SetDecided(&reconcile.Decision{Slots: []reconcile.SlotDecision{
		{Slot: slot(2), Kind: "Deployment", Namespace: "default", Owner: "web", Rule: reconcile.RuleKeep, Revision: "r2", Source: source},
	}})
	store.SetDocument(&reconcile.Document{Node: "n1", Instances: []reconcile.Instance{
		{Slot: slot(2), Kind: "Deployment", Namespace: "default", Owner: "web", Name: "web-r2-x", Node: "n1"},
	}})
	client := start(t, &Server{Node: "n1", Store: store})
	all, err := client.Explain(t.Context(), kind(t, "deploy"), "default", "web", "")
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 2 || all[0].Slot != "deploy/web/2" || all[1].Slot != "deploy/web/10" {
		t.Fatalf("got %+v", all)
	}
	if all[0].Rule != reconcile.RuleKeep || all[0].Node != "n1" || len(all[0].Pods) != 1 || all[0].Source.Line != 7 {
		t.Errorf("slot 2: %+v", all[0])
	}
	if !strings.Contains(all[1].Reason, "Insufficient cpu") || all[1].Revision != "r2" || all[1].Source.Line != 7 {
		t.Errorf("slot 10: %+v", all[1])
	}
	one, err := client.Explain(t.Context(), kind(t, "pod"), "default", "web-r2-x", "")
	if err == nil && len(one) == 1 && one[0].Slot == "deploy/web/2" {
		return
	}
	t.Errorf("by pod: %+v, %v", one, err)
}

func TestStatusCountsUnitsAndNodes(t *testing.T) {
	store := state.New()
	client := start(t, &Server{Node: "n1", Version: "v1", Store: store})
	if st, err := client.Status(t.Context()); err != nil || st.Node != "n1" || st.Version != "v1" || st.Head.ID != "" {
		t.Errorf("before anything is known: %+v, %v", st, err)
	}
	a := accepted(deployment(1))
	a.Refusals = []gitsync.Refusal{{App: "web", Commit: reconcile.Commit{ID: "bad"}}}
	store.SetAccepted(a)
	store.SetDocument(&reconcile.Document{Node: "n1", Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: "False", Message: "no network"}}})
	st, err := client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(st.Units) != 2 || st.Units[0].Name != gitsync.ClusterUnit || st.Units[0].Refused != nil || st.Units[1].Refused.ID != "bad" {
		t.Errorf("units %+v", st.Units)
	}
	if len(st.Nodes) != 2 || st.Nodes[0].Ready || st.Nodes[0].Reason != "no network" || st.Nodes[1].Known {
		t.Errorf("nodes %+v", st.Nodes)
	}
}

func TestFindKind(t *testing.T) {
	for word, want := range map[string]string{
		"pod": "Pod", "PODS": "Pod", "po": "Pod", "deploy": "Deployment", "deployments.apps": "Deployment", "rs": "ReplicaSet",
		"Deployment": "Deployment", "ds": "DaemonSet", "cm": "ConfigMap", "no": "Node", "ns": "Namespace", "ev": "Event", "secret": "Secret",
	} {
		if k, err := FindKind(word); err != nil || k.Kind != want {
			t.Errorf("%s: %s, %v; want %s", word, k.Kind, err, want)
		}
	}
	for _, word := range []string{"", "podz", "pods.apps", "services"} {
		if k, err := FindKind(word); err == nil {
			t.Errorf("%q is taken for %s", word, k.Kind)
		}
	}
}

func FuzzLogOptions(f *testing.F) {
	f.Add("app", true, false, int64(10), int64(30), int64(1_700_000_000))
	f.Add("", false, true, int64(-1), int64(-1), int64(0))
	f.Fuzz(func(t *testing.T, container string, follow, previous bool, tail, since, at int64) {
		in := &corev1.PodLogOptions{Container: container, Follow: follow, Previous: previous, Timestamps: previous}
		if tail >= 0 {
			in.TailLines = &tail
		}
		if since >= 0 {
			in.SinceSeconds = &since
		}
		if at > 0 && at < 250_000_000_000 { // years of four digits, as RFC 3339 has them
			in.SinceTime = &metav1.Time{Time: time.Unix(at, 0)}
		}
		out, err := logOptions(logQuery(in))
		if err != nil {
			t.Fatal(err)
		}
		if logQuery(out).Encode() != logQuery(in).Encode() {
			t.Errorf("got %+v, want %+v", out, in)
		}
	})
}
