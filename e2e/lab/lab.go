// Package lab is the laboratory of the end-to-end tests, the benchmarks and the demo: whole nodes
// on one machine, a network between them that can be cut, a Git server, a registry, and images made
// on the spot. Everything in it is the real thing; only the cables are virtual.
//
// A [Lab] owns what it makes and gives all of it back when it is closed: at the end of a test that
// passed or failed, and on SIGINT and SIGTERM. What a SIGKILL of the lab's own process leaves is
// small, because nodes end with the process that made them and the network has no name in the file
// system; the next lab sweeps the rest.
//
// How addresses work: nodes are plugged into one bridge, in a network namespace of its own, as
// 10.99.0.1, 10.99.0.2 and so on. The Git server and the registry run in the lab's process and
// listen twice: on 127.0.0.1 for the person at the keyboard and the test, and on [ServersAddr], the
// bridge's own address, for the nodes and their pods. Nothing is added to the machine's network,
// unless it is asked for with [Lab.Uplink].
package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// T is what the lab needs of a test; *testing.T and *testing.B have it.
type T interface {
	Helper()
	Cleanup(func())
	Context() context.Context
	Failed() bool
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// prefix begins the name of every lab, and so of all that a lab leaves where others can see it.
const prefix = "plab"

// base of the numbers in a name: its digits end before the "x" that stands between them.
const base = 32

// Lab is one laboratory. Its methods may be called from several goroutines.
type Lab struct {
	// Name is unique on the machine, at most 15 characters, and begins the name of every cgroup
	// and network interface that the lab makes.
	Name string
	// Dir holds everything that the lab writes. It goes with the lab.
	Dir string

	interrupts chan os.Signal
	watched    sync.WaitGroup

	mu       sync.Mutex
	undo     []undo
	closed   bool
	underlay *Underlay
	nodes    int
}

type undo struct {
	what string
	do   func() error
}

// serial numbers the labs of this process; open counts those that are not closed yet.
var serial, open atomic.Int32

// New opens a lab that lasts as long as the test. When the test ends the lab is closed, and the
// test fails if anything is left behind. The ends of all logs are printed when the test failed.
func New(t T) *Lab {
	t.Helper()
	l, err := Open("")
	if err != nil {
		t.Fatalf("open a lab: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			l.printLogs(t)
		}
		if err := l.Close(); err != nil {
			t.Errorf("close the lab: %v", err)
		}
		left, err := Leftovers(l.Name)
		if err != nil {
			t.Errorf("look for leftovers of the lab: %v", err)
		}
		for _, thing := range left {
			t.Errorf("the lab left behind: %s", thing)
		}
	})
	return l
}

// Open opens a lab that lasts until [Lab.Close], or until SIGINT or SIGTERM, which closes it and
// then ends the process as the signal would have. The lab's directory is made inside dir; "" is the
// directory for temporary files. It must not lie below /etc or /var, of which every node has its
// own copy.
func Open(dir string) (*Lab, error) {
	if err := Sweep(); err != nil {
		return nil, err
	}
	if dir == "" {
		dir = os.TempDir()
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	for _, private := range []string{"/etc", "/var"} {
		if within(private, dir) {
			return nil, fmt.Errorf("open a lab in %s: nodes have their own %s; choose a directory elsewhere", dir, private)
		}
	}
	if err := sweepDir(dir); err != nil {
		return nil, err
	}
	name := prefix + strconv.FormatInt(int64(os.Getpid()), base) + "x" + strconv.FormatInt(int64(serial.Add(1)), base)
	l := &Lab{Name: name, Dir: filepath.Join(dir, name), interrupts: make(chan os.Signal, 1)}
	if err := os.Mkdir(l.Dir, 0o755); err != nil {
		return nil, err
	}
	open.Add(1)
	signal.Notify(l.interrupts, syscall.SIGINT, syscall.SIGTERM)
	l.watched.Go(l.watch)
	return l, nil
}

// watch closes the lab on a signal. The last lab of the process to be closed repeats the signal, to
// which nobody listens by then.
func (l *Lab) watch() {
	sig, ok := <-l.interrupts
	if !ok {
		return
	}
	if err := l.release(); err != nil {
		fmt.Fprintf(os.Stderr, "close the lab: %v\n", err)
	}
	if open.Load() == 0 {
		signal.Reset(sig)
		_ = syscall.Kill(os.Getpid(), sig.(syscall.Signal))
	}
}

// Defer adds what must be undone when the lab is closed, in reverse order. In a closed lab, it is
// undone at once.
func (l *Lab) Defer(what string, do func() error) {
	l.mu.Lock()
	if !l.closed {
		l.undo = append(l.undo, undo{what, do})
		l.mu.Unlock()
		return
	}
	l.mu.Unlock()
	_ = do()
}

// Close undoes everything, whatever fails on the way, and removes the lab's directory. Closing twice is harmless.
func (l *Lab) Close() error {
	err := l.release()
	l.watched.Wait()
	return err
}

func (l *Lab) release() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	steps := l.undo
	l.undo = nil
	l.mu.Unlock()

	var errs []error
	for _, step := range slices.Backward(steps) {
		if err := step.do(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", step.what, err))
		}
	}
	if err := os.RemoveAll(l.Dir); err != nil {
		errs = append(errs, err)
	}
	signal.Stop(l.interrupts)
	close(l.interrupts)
	open.Add(-1)
	return errors.Join(errs...)
}

// owner gives the process id in the name of a lab, or of a thing whose name begins with one.
func owner(name string) (pid int, ok bool) {
	digits, found := strings.CutPrefix(name, prefix)
	if !found {
		return 0, false
	}
	digits, _, found = strings.Cut(digits, "x")
	if !found {
		return 0, false
	}
	n, err := strconv.ParseInt(digits, base, 32)
	return int(n), err == nil && n > 0
}

// within reports whether path is dir or lies below it. Both are absolute and clean.
func within(dir, path string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}
