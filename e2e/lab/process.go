package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is a child of the lab in a process group of its own, with its output in a file. It is
// killed when the lab is closed, and by the kernel when the lab's own process dies.
type Process struct {
	Name string
	Log  string // path of its standard output and error

	cmd    *exec.Cmd
	inside int // process id when cmd is only the door to it
	done   chan struct{}
	err    error // of Wait; read after done is closed
}

// Start starts cmd, whose Stdout and Stderr must not be set, and writes its output to <name>.log in
// the lab's directory. A second process of one name writes behind the first.
func (l *Lab) Start(name string, cmd *exec.Cmd) (*Process, error) {
	p, err := l.start(name, cmd)
	if err != nil {
		return nil, err
	}
	l.Defer("end "+name, p.Kill)
	return p, nil
}

// start is Start for a process that somebody else will end.
func (l *Lab) start(name string, cmd *exec.Cmd) (*Process, error) {
	p := &Process{Name: name, Log: filepath.Join(l.Dir, name+".log"), cmd: cmd, done: make(chan struct{})}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	cmd.Stdout, cmd.Stderr = log, log
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	if err := spawn(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// PID is the process id on this machine.
func (p *Process) PID() int {
	if p.inside != 0 {
		return p.inside
	}
	return p.cmd.Process.Pid
}

// Done is closed when the process has ended and was waited for.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end and returns what [exec.Cmd.Wait] returns.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w", p.Name, context.Cause(ctx))
	}
}

// Signal sends a signal to the process alone.
func (p *Process) Signal(sig syscall.Signal) error {
	select {
	case <-p.done:
		return os.ErrProcessDone
	default:
		return syscall.Kill(p.PID(), sig)
	}
}

// Kill sends SIGKILL to the process group and waits for the end. When the process has ended before,
// nothing is done: by then its group may be somebody else's.
func (p *Process) Kill() error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill %s: %w", p.Name, err)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(10 * time.Second):
		return fmt.Errorf("kill %s: still there after 10 s", p.Name)
	}
}

// spawner runs functions on one thread that never ends. The kernel sends a child's parent-death
// signal when the thread that started it ends, so children must not be started on just any thread.
var spawner = sync.OnceValue(func() chan func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// spawn starts cmd so that it dies with this process.
func spawn(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	result := make(chan error)
	spawner() <- func() { result <- cmd.Start() }
	return <-result
}

// printLogs prints the last lines of each log of the lab, and of those that agents keep on nodes.
func (l *Lab) printLogs(t T) {
	t.Helper()
	logs, _ := filepath.Glob(filepath.Join(l.Dir, "*.log"))
	inside, _ := filepath.Glob(filepath.Join(l.Dir, "nodes", "*", "pleach", "logs", "*.log"))
	for _, path := range append(logs, inside...) {
		text, err := os.ReadFile(path)
		if err != nil || len(text) == 0 {
			continue
		}
		t.Logf("the end of %s:\n%s", strings.TrimPrefix(path, l.Dir+"/"), lastLines(string(text), 60))
	}
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
