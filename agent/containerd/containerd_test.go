package containerd

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pleachdev/pleach/agent/embedded"
	"github.com/pleachdev/pleach/e2e/needs"
)

// The supervisor starts its own binary again: here, that of the test.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == ProcessName {
		Main()
	}
	os.Exit(m.Run())
}

// newSupervisor returns a supervisor for a fresh directory. What it started is gone after the test.
func newSupervisor(t testing.TB) *Supervisor {
	t.Helper()
	needs.Root(t)
	dir := t.TempDir()
	s := &Supervisor{Dir: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	if _, err := embedded.Extract(filepath.Join(dir, "bin")); errors.Is(err, embedded.ErrMissing) {
		needs.Lacking(t, "the node binaries (make node-binaries)")
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if t.Failed() {
			log, _ := os.ReadFile(newPaths(dir).log)
			t.Logf("containerd.log:\n%s", log)
		}
		if err := s.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return s
}

// run supervises until the returned function is called, or the test ends.
func run(t testing.TB, s *Supervisor) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	ready, cancelReady := context.WithTimeout(ctx, time.Minute)
	defer cancelReady()
	if err := s.Ready(ready); err != nil {
		t.Fatal(err)
	}
	return stop
}

func TestDaemonSurvivesTheAgent(t *testing.T) {
	s := newSupervisor(t)
	stop := run(t, s)
	first := daemon(t, s)
	stop()

	again := &Supervisor{Dir: s.Dir, Log: s.Log}
	stop = run(t, again)
	if second := daemon(t, again); second != first {
		t.Errorf("a new agent has the daemon %d, want the running one, %d", second, first)
	}
	stop()

	// Another configuration: the daemon is replaced.
	p := newPaths(s.Dir)
	record, err := os.ReadFile(p.record)
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Replace(record, []byte(`"config":"`), []byte(`"config":"00`), 1)
	if err := os.WriteFile(p.record, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	other := &Supervisor{Dir: s.Dir, Log: s.Log}
	run(t, other)
	if third := daemon(t, other); third == first {
		t.Errorf("the daemon %d runs on with another configuration", third)
	}
}

func TestHungDaemonIsReplaced(t *testing.T) {
	s := newSupervisor(t)
	s.checks = checks{period: 100 * time.Millisecond, timeout: time.Second, failed: 3, grace: 100 * time.Millisecond}
	run(t, s)
	hung := daemon(t, s)
	if err := unix.Kill(hung, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	awaitDaemon(t, s, hung)
}

func daemon(t *testing.T, s *Supervisor) int {
	t.Helper()
	proc, err := find(newPaths(s.Dir))
	if err != nil {
		t.Fatal(err)
	}
	if proc == nil {
		t.Fatal("no daemon runs")
	}
	defer proc.close()
	return proc.pid
}

func TestConfigIsDeterministic(t *testing.T) {
	p := newPaths("/var/lib/pleach")
	programs := embedded.Programs{Dir: "/var/lib/pleach/bin/current"}
	one, err := config(p, programs, "pleach.local/pause:1", false)
	if err != nil {
		t.Fatal(err)
	}
	two, err := config(p, programs, "pleach.local/pause:1", false)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, two) {
		t.Error("the same input gave two configurations")
	}
	if !bytes.Contains(one, []byte("restrict_oom_score_adj = true")) {
		t.Errorf("without CAP_SYS_RESOURCE the score must be restricted, got\n%s", one)
	}
}

func TestLayout(t *testing.T) {
	tarball, err := layout("pleach.local/pause:1", "pause", []byte("program"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for r := tar.NewReader(bytes.NewReader(tarball)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, path.Dir(h.Name))
	}
	want := []string{"blobs/sha256", "blobs/sha256", "blobs/sha256", ".", "."}
	if !slices.Equal(names, want) {
		t.Errorf("got files in %v, want in %v", names, want)
	}
}

func TestLogRotates(t *testing.T) {
	log := filepath.Join(t.TempDir(), "logs", "c.log")
	f, err := openLog(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, line := range []string{"one\n", "two\n", "three\n"} {
		if _, err := f.WriteString(line); err != nil {
			t.Fatal(err)
		}
		if err := rotateOnce(log, 8, f); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.WriteString("four\n"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{log + ".1": "one\ntwo\n", log: "three\nfour\n"} {
		if got, err := os.ReadFile(name); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
		}
	}
}

func TestExternalIsOnlyWatched(t *testing.T) {
	own := newSupervisor(t)
	run(t, own)
	before := daemon(t, own)

	other := &Supervisor{Dir: t.TempDir(), External: own.Socket(), Log: own.Log}
	stop := run(t, other)
	if got, want := other.Endpoint(), "unix://"+own.Socket(); got != want {
		t.Errorf("endpoint: got %s, want %s", got, want)
	}
	stop()
	if err := other.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if after := daemon(t, own); after != before {
		t.Errorf("the daemon %d became %d", before, after)
	}
	if entries, err := os.ReadDir(other.Dir); err != nil || len(entries) != 0 {
		t.Errorf("wrote %v, %v", entries, err)
	}
}

func TestReadySaysWhyNot(t *testing.T) {
	s := &Supervisor{Dir: t.TempDir(), External: filepath.Join(t.TempDir(), "nobody.sock")}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	waiting, stop := context.WithTimeout(ctx, 500*time.Millisecond)
	defer stop()
	if err := s.Ready(waiting); err == nil || !strings.Contains(err.Error(), "containerd is not ready: containerd: CRI status") {
		t.Errorf("got %v, want the reason", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("run: %v", err)
	}
}
