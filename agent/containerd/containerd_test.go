package containerd

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"testing"
	"time"

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
	dir, err := os.MkdirTemp("", "pleach-containerd-")
	if err != nil {
		t.Fatal(err)
	}
	s := &Supervisor{Dir: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	if _, err := embedded.Extract(filepath.Join(dir, "bin")); errors.Is(err, embedded.ErrMissing) {
		os.RemoveAll(dir)
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
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove %s: %v", dir, err)
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
	stop = func() { cancel(); <-done }
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

func TestRotateKeepsOneOldFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "logs", "c.log")
	f, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := rotateOnce(path, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path + ".1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a small log was rotated: %v", err)
	}
}
