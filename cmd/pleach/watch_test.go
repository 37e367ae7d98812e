package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/agent/api"
	"github.com/pleachdev/pleach/reconcile"
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

// wantEvent is want for a line that begins with a time of day.
func wantEvent(t *testing.T, lines *bufio.Scanner, text string) {
	t.Helper()
	if !lines.Scan() {
		t.Fatalf("the output ended: %v", lines.Err())
	}
	at, got, _ := strings.Cut(lines.Text(), " ")
	if _, err := time.Parse(time.TimeOnly, at); err != nil || got != text {
		t.Errorf("got %q, want a time and %q", lines.Text(), text)
	}
}

func TestStatusWatchWritesALineForEachChange(t *testing.T) {
	store := state.New()
	lines, stop := start(t, "--dir", serve(t, store), "status", "-w")
	wantEvent(t, lines, "agent: answers, v0.1.0")
	wantEvent(t, lines, "head: none")
	wantEvent(t, lines, "remote: not asked yet")
	a := fixtureAccepted()
	a.Apps, a.Refusals, a.Nodes = a.Apps[:1], a.Refusals[:1], a.Nodes[:2]
	store.SetAccepted(a)
	wantEvent(t, lines, "head: cccccccccccc")
	wantEvent(t, lines, "node node-1: NotReady: not heard of, 0 of 0 pods running, head none")
	wantEvent(t, lines, "node node-2: NotReady: not heard of, 0 of 0 pods running, head none")
	wantEvent(t, lines, "the cluster's own files: at aaaaaaaaaaaa")
	wantEvent(t, lines, "app tools: at bbbbbbbbbbbb")
	wantEvent(t, lines, `refused cccccccccccc for app web: "web: more replicas" by Ann <ann@example.com>: the manifests have errors`)
	store.SetDocument(document("node-2"))
	wantEvent(t, lines, "node node-2: Ready, 0 of 0 pods running, head cccccccccccc")
	store.SetMembers([]state.Member{{Node: "node-2", Standing: state.Gone, Since: time.Unix(0, 0), Reason: "node-1, node-3 agree"}})
	wantEvent(t, lines, "node node-2: NotReady: gone since 1970-01-01T00:00:00Z: node-1, node-3 agree, 0 of 0 pods running, head cccccccccccc")
	store.SetDecided(&reconcile.Decision{Workloads: []reconcile.WorkloadStatus{{
		Kind: "Deployment", Namespace: "default", Name: "web", Desired: 3, Updated: 1, Ready: 2,
		Waiting: []reconcile.SlotReason{{Slot: reconcile.Slot{Ordinal: 1}, Reason: "waits for slot 0"}},
	}}})
	wantEvent(t, lines, "default deploy/web: 1 updated, 2 ready of 3, 1 of 3 slots wait; slot 1: waits for slot 0")
	mended := *a
	mended.Refusals = nil
	store.SetAccepted(&mended)
	wantEvent(t, lines, "refused cccccccccccc for app web: no more")
	stop()
}

// A page is written over the last one, never cleared first, and cut to the terminal; at the end the
// terminal is as before, with the last page in it.
func TestStatusScreen(t *testing.T) {
	var out bytes.Buffer
	height := 4
	s := &screen{out: &out, size: func() (int, int) { return 80, height }}
	st := &api.Status{Node: "n1", Version: "v1"}
	next := func() string {
		out.Reset()
		if err := s.show(st, nil); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	if err := s.open(); err != nil {
		t.Fatal(err)
	}
	first := next()
	for _, want := range []string{"\x1b[?2026h\x1b[H", "n1, pleach v1\x1b[K\r\n", "\x1b[J\x1b[?2026l"} {
		if !strings.Contains(first, want) {
			t.Errorf("lacks %q: %q", want, first)
		}
	}
	if strings.Contains(first, "\x1b[2J") || strings.Count(first, "\r\n") >= height {
		t.Errorf("cleared, or too long: %q", first)
	}
	if again := next(); again != "" {
		t.Errorf("the same page was drawn again: %q", again)
	}
	st.Cluster = "garden"
	if cut := next(); !strings.Contains(cut, "… 2 more lines: pleach status") || strings.Count(cut, "\r\n") >= height {
		t.Errorf("a page that is too long: %q", cut)
	}
	out.Reset()
	s.close()
	if got := out.String(); !strings.HasPrefix(got, "\x1b[?7h\x1b[?25h\x1b[?1049l") || !strings.Contains(got, "garden") || !strings.Contains(got, "Head") {
		t.Errorf("at the end: %q", got)
	}
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
