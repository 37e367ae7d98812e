// Package containerd runs the node's own containerd.
//
// The daemon is the pleach binary under another name: main calls [Main] first thing when it was
// started as [ProcessName]. It is a process of its own, in a session of its own, so that the agent's
// end, of whatever kind, never touches it; a [Supervisor] finds it again and restarts it when it
// dies, hangs, or was started from another version of the binary or of its configuration. Containers
// do not notice either: each pod has a shim, a small program that outlives both.
package containerd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/containerd/containerd/v2/cmd/containerd/command"
	"golang.org/x/sys/unix"

	"github.com/pleachdev/pleach/agent/footprint"
)

// ProcessName is argv[0] of the daemon.
const ProcessName = "pleach-containerd"

// Main runs the daemon for the node directory in os.Args[1] and never returns. It is started by a
// [Supervisor]: the configuration lies in the directory, stderr is the log.
func Main() {
	if len(os.Args) != 2 {
		fmt.Fprintf(os.Stderr, "usage: %s DIR (started by pleach agent)\n", ProcessName)
		os.Exit(2)
	}
	if err := serve(newPaths(os.Args[1])); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", ProcessName, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve holds the directory's lock as long as the daemon lives. The lock, not the pid file, is what
// says that a daemon runs: the kernel drops it however the process ends.
func serve(p paths) error {
	lock, err := takeLock(p.lock)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := writeRecord(p); err != nil {
		return err
	}
	if err := installStarts(); err != nil {
		return err
	}
	go rotateLog(p.log)
	go trim()
	// The daemon allocates in bursts (an image pull, a list of containers) and idles between them.
	// Half of the default headroom costs it nothing that a pod's start would show.
	debug.SetGCPercent(50)
	// Named as upstream names itself: its log lines and flags then read as its documentation does.
	return command.App().Run(context.Background(), []string{"containerd", "--config", p.config})
}

// trimPeriod is from one trim to the next, and from the start to the first.
const trimPeriod = time.Minute

// trim gives back again and again what the daemon's start and its bursts have needed. It takes some
// milliseconds of processor time.
func trim() {
	for range time.Tick(trimPeriod) {
		if err := footprint.Trim(); err != nil {
			fmt.Fprintf(os.Stderr, "give memory back: %v\n", err)
		}
	}
}

// errLocked is returned by takeLock while another daemon serves the directory.
var errLocked = errors.New("another daemon serves this directory")

func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, errLocked)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// record is what a running daemon says of itself. It counts only while the lock is held.
type record struct {
	PID    int    `json:"pid"`
	Config string `json:"config"` // SHA-256 of the configuration file it was started with
}

func writeRecord(p paths) error {
	config, err := os.ReadFile(p.config)
	if err != nil {
		return err
	}
	b, err := json.Marshal(record{PID: os.Getpid(), Config: fingerprint(config)})
	if err != nil {
		return err
	}
	tmp := p.record + ".new"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, p.record)
}

// fingerprint is the SHA-256 of b in hex.
func fingerprint(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

const (
	logLimit  = 10 << 20 // bytes
	logPeriod = time.Minute
)

// rotateLog moves the log aside when it has grown, and goes on in a new file. One old file is kept.
func rotateLog(path string) {
	for range time.Tick(logPeriod) {
		if err := rotateOnce(path, logLimit, os.Stdout, os.Stderr); err != nil {
			fmt.Fprintf(os.Stderr, "rotate %s: %v\n", path, err)
		}
	}
}

// rotateOnce makes the writers of the log at path write to a new file, if the old one has reached
// limit bytes. No line is lost or cut: a write goes to the old file or to the new one.
func rotateOnce(path string, limit int64, writers ...*os.File) error {
	if fi, err := os.Stat(path); err == nil && fi.Size() < limit {
		return nil
	}
	if err := os.Rename(path, path+".1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := openLog(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, w := range writers {
		if err := unix.Dup3(int(f.Fd()), int(w.Fd()), 0); err != nil {
			return err
		}
	}
	return nil
}

func openLog(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
}
