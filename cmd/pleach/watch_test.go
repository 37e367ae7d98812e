package main

import (
	"bufio"
	"context"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/agent/api"
	"github.com/pleachdev/pleach/state"
)

// serve runs an agent's API for the length of a test, and returns the directory to give as --dir.
func serve(t *testing.T, store *state.Store) string {
	t.Helper()
	dir := t.TempDir()
	listener, err := api.Listen(filepath.Join(dir, api.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- (&api.Server{Node: "node-1", Version: "v0.1.0", Store: store}).Run(ctx, listener, nil, nil)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return dir
}

// start runs a command whose output is read line by line.
func start(t *testing.T, args ...string) (lines *bufio.Scanner, stop func()) {
	t.Helper()
	r, w := io.Pipe()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(w)
	root.SetErr(io.Discard)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = w.CloseWithError(root.ExecuteContext(ctx))
	}()
	stop = func() { cancel(); _ = r.Close(); <-done }
	t.Cleanup(stop)
	return bufio.NewScanner(r), stop
}

func want(t *testing.T, lines *bufio.Scanner, words ...string) {
	t.Helper()
	if !lines.Scan() {
		t.Fatalf("the output ended: %v", lines.Err())
	}
	if got := strings.Fields(lines.Text()); strings.Join(got, " ") != strings.Join(words, " ") {
		t.Errorf("got %q, want %q", got, words)
	}
}

func TestGetWatchPrintsWhatIsThereThenChanges(t *testing.T) {
	store := state.New()
	fill(store)
	lines, _ := start(t, "--dir", serve(t, store), "get", "pods", "-w", "-l", "app=web")
	want(t, lines, "NAME", "READY", "STATUS", "RESTARTS", "AGE")
	want(t, lines, "web-5d8e7f6a9b-ccccc", "1/1", "Running", "4", "2d")
	want(t, lines, "web-7c9f4d5b6a-aaaaa", "1/1", "Running", "0", "2d")
	want(t, lines, "web-7c9f4d5b6a-bbbbb", "0/1", "Running", "0", "2d")

	changed := pod("web-7c9f4d5b6a-bbbbb", "7c9f4d5b6a", "example.com/web:2", true)
	store.SetPod(changed)
	want(t, lines, "web-7c9f4d5b6a-bbbbb", "1/1", "Running", "0", "2d")
	other := pod("other", "1", "example.com/other:1", true)
	other.Labels = nil
	store.SetPod(other) // is not selected
	failed := changed.DeepCopy()
	failed.Status.Phase, failed.Status.Reason = corev1.PodFailed, "Evicted"
	store.SetPod(failed)
	want(t, lines, "web-7c9f4d5b6a-bbbbb", "1/1", "Evicted", "0", "2d")
	store.DeletePod(changed.UID)
	want(t, lines, "web-7c9f4d5b6a-bbbbb", "1/1", "Evicted", "0", "2d")
}

func TestStatusWatchWritesAgainOnlyWhatChanged(t *testing.T) {
	store := state.New()
	lines, stop := start(t, "--dir", serve(t, store), "status", "-w")
	want(t, lines, "Node", "node-1,", "pleach", "v0.1.0")
	want(t, lines, "Remote", "none,", "not", "asked", "yet")
	want(t, lines, "Head", "no", "commit", "was", "verified", "yet")
	fill(store)
	want(t, lines)
	want(t, lines, "Cluster", "demo")
	stop()
}

func TestStatusIsColouredForPeopleAlone(t *testing.T) {
	store := state.New()
	fill(store)
	st, err := api.NewClient(filepath.Join(serve(t, store), api.SocketName)).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	plain, coloured := page{}.render(st), page{colour: true}.render(st)
	if strings.Contains(plain, "\x1b") {
		t.Errorf("escapes in a plain page: %q", plain)
	}
	for _, want := range []string{"\x1b[32mok\x1b[0m\n", "\x1b[31mrefused cccccccccccc\x1b[0m, see below\n"} {
		if !strings.Contains(coloured, want) {
			t.Errorf("lacks %q: %q", want, coloured)
		}
	}
	// colours change no column
	stripped := coloured
	for _, code := range []string{"\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[1m", "\x1b[0m"} {
		stripped = strings.ReplaceAll(stripped, code, "")
	}
	if stripped != plain {
		t.Errorf("got\n%s\nwant\n%s", stripped, plain)
	}
}
