package containerd

import (
	"cmp"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a running daemon, started by this agent or by one before it.
type process struct {
	pid    int
	fd     int    // pidfd: signals and waits that cannot hit another process of the same number
	config string // digest of its configuration
	build  string // build id of its binary
}

// find returns the daemon that serves p, or nil when none does.
func find(p paths) (*process, error) {
	var unclear error
	// One that has just started holds the lock before it has written its record, and one that is
	// ending holds it for a moment longer than it can be found.
	for range 250 {
		lock, err := takeLock(p.lock)
		if err == nil {
			lock.Close()
			return nil, nil
		}
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil // not even the directory
		}
		if !errors.Is(err, errLocked) {
			return nil, err
		}
		var proc *process
		if proc, unclear = fromRecord(p); unclear == nil {
			return proc, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil, fmt.Errorf("a daemon holds %s, but %w", p.lock, unclear)
}

func fromRecord(p paths) (*process, error) {
	b, err := os.ReadFile(p.record)
	if err != nil {
		return nil, err
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", p.record, err)
	}
	fd, err := unix.PidfdOpen(r.PID, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: process %d: %w", p.record, r.PID, err)
	}
	// The record may be that of the daemon before. The number is the daemon's only if the process
	// behind the descriptor holds the lock.
	if !holds(r.PID, p.lock) {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("%s: process %d is not the daemon", p.record, r.PID)
	}
	build, err := buildID(fmt.Sprintf("/proc/%d/exe", r.PID))
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return &process{pid: r.PID, fd: fd, config: r.Config, build: build}, nil
}

// holds reports whether process pid has the file at path open.
func holds(pid int, path string) bool {
	want, err := os.Stat(path)
	if err != nil {
		return false
	}
	fds, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/fd/*")
	if err != nil {
		return false
	}
	for _, fd := range fds {
		if have, err := os.Stat(fd); err == nil && os.SameFile(want, have) {
			return true
		}
	}
	return false
}

var errExited = errors.New("exit status 0")

// start runs this binary again as the daemon for p, in a session of its own, and returns when it
// serves or has ended.
func start(ctx context.Context, p paths) (*process, error) {
	log, err := openLog(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// Not CommandContext: the daemon outlives the agent. The link leads to this very binary even
	// when an upgrade has replaced its file.
	cmd := exec.Command("/proc/self/exe") //nolint:noctx // see above
	cmd.Args = []string{ProcessName, p.dir}
	cmd.Env = environment(p)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the daemon; reaps it while this agent lives
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			return nil, fmt.Errorf("daemon ended at once (%w): see %s", cmp.Or(err, errExited), p.log)
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
		if proc, err := fromRecord(p); err == nil {
			return proc, nil
		}
	}
}

// environment passes on what image pulls and look-ups need, and nothing else that the agent was given.
// The shim is found by PATH.
func environment(p paths) []string {
	env := []string{"PATH=" + p.programs + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, name := range []string{
		"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
		"SSL_CERT_FILE", "SSL_CERT_DIR", "TMPDIR", "TZ",
	} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// wait returns nil when the process has ended, or ctx's error.
func (p *process) wait(ctx context.Context) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	stop := context.AfterFunc(ctx, func() { w.Close() })
	defer func() {
		if stop() {
			w.Close()
		}
	}()
	for {
		fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}, {Fd: int32(r.Fd()), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for process %d: %w", p.pid, err)
		}
		if fds[0].Revents != 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// stop ends the process: politely, then not. Containers go on running.
func (p *process) stop(ctx context.Context, grace time.Duration) error {
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(p.fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("signal process %d: %w", p.pid, err)
		}
		waiting, cancel := context.WithTimeout(ctx, grace)
		err := p.wait(waiting)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
	return fmt.Errorf("process %d does not end", p.pid)
}

func (p *process) close() { _ = unix.Close(p.fd) } // a pidfd has nothing to lose

// buildID is the Go build id of the program at path: it differs when anything of the program does.
func buildID(path string) (string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return "", fmt.Errorf("build id: %w", err)
	}
	defer f.Close()
	s := f.Section(".note.go.buildid")
	if s == nil {
		return "", fmt.Errorf("build id: %s has none", path)
	}
	id, err := io.ReadAll(io.LimitReader(s.Open(), 4096))
	if err != nil {
		return "", fmt.Errorf("build id of %s: %w", path, err)
	}
	return string(id), nil
}
