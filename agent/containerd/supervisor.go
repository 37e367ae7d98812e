package containerd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pleachdev/pleach/agent/embedded"
	"github.com/pleachdev/pleach/state/durable"
)

// Supervisor keeps the node's containerd running: it extracts the node binaries, writes the
// configuration, and finds or starts the daemon. It stops neither the daemon nor any container when
// Run returns; [Supervisor.Stop] does, for tearing a node down.
type Supervisor struct {
	Dir string       // the node's directory, absolute
	Log *slog.Logger // nil discards

	// External, when not empty, is the socket of a containerd that somebody else runs. The
	// supervisor then only watches it, and all of its configuration is theirs.
	External string

	// checks are the timing of health checks, zero for the default.
	checks checks

	mu    sync.Mutex
	ready bool
	since error         // why it is not ready, nil when not known
	wake  chan struct{} // closed when ready or since changed; nil before anybody waits
}

// checks is the timing of health checks.
type checks struct {
	period  time.Duration // from one check to the next
	timeout time.Duration // of one check
	failed  int           // failures in a row that make a hang
	grace   time.Duration // from asking the daemon to end to making it
}

// A healthy daemon answers in a millisecond. A starved machine must not be made worse by a restart,
// which is why a hang takes a minute to be believed.
var defaultChecks = checks{period: 10 * time.Second, timeout: 10 * time.Second, failed: 4, grace: stopGrace}

const (
	bootTimeout = time.Minute
	stopGrace   = 10 * time.Second
	minBackoff  = 100 * time.Millisecond
	maxBackoff  = 15 * time.Second
	steady      = time.Minute // a daemon that lived so long starts the back-off anew
)

// Endpoint is the CRI endpoint, "unix:///…".
func (s *Supervisor) Endpoint() string { return "unix://" + s.Socket() }

// Socket is the path of containerd's socket.
func (s *Supervisor) Socket() string {
	if s.External != "" {
		return s.External
	}
	return newPaths(s.Dir).socket
}

// RegistryDir holds what users say of image registries, one directory for each host, as containerd's
// certs.d: <host>/hosts.toml names mirrors, plain HTTP and certificates. It is read at every pull.
func (s *Supervisor) RegistryDir() string { return newPaths(s.Dir).registries }

// Run supervises until ctx ends. What goes wrong is logged and tried again; only a binary that was
// built without its node binaries ends Run with an error, [embedded.ErrMissing].
func (s *Supervisor) Run(ctx context.Context) error {
	backoff := minBackoff
	for {
		began := time.Now()
		err := s.serve(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the agent ends; the daemon stays, and the next agent adopts it
		}
		if errors.Is(err, embedded.ErrMissing) {
			s.set(false, err)
			return err
		}
		if time.Since(began) > steady {
			backoff = minBackoff
		}
		s.set(false, err)
		s.log().Warn("containerd is away", "err", err, "retryIn", backoff)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// Ready returns when containerd answers and can run pods, whatever the state of the network. When
// ctx ends before that, the error says what was in the way.
func (s *Supervisor) Ready(ctx context.Context) error {
	for {
		s.mu.Lock()
		if s.ready {
			s.mu.Unlock()
			return nil
		}
		if s.wake == nil {
			s.wake = make(chan struct{})
		}
		wake, since := s.wake, s.since
		s.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
			if since != nil {
				return fmt.Errorf("containerd is not ready: %w", since)
			}
			return fmt.Errorf("containerd is not ready: %w", ctx.Err())
		}
	}
}

// Err is nil while containerd answers, and otherwise says what is in the way.
func (s *Supervisor) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ready:
		return nil
	case s.since != nil:
		return fmt.Errorf("containerd is not ready: %w", s.since)
	default:
		return errors.New("containerd is not ready yet")
	}
}

func (s *Supervisor) set(ready bool, since error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready, s.since = ready, since
	if s.wake != nil {
		close(s.wake)
		s.wake = nil
	}
}

func (s *Supervisor) timing() checks {
	if s.checks == (checks{}) {
		return defaultChecks
	}
	return s.checks
}

func (s *Supervisor) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

// serve is one life of the daemon, seen from here: it returns why it ended.
func (s *Supervisor) serve(ctx context.Context) error {
	if s.External != "" {
		return s.watch(ctx)
	}
	p := newPaths(s.Dir)
	wanted, programs, pause, err := prepare(p)
	if err != nil {
		return err
	}
	proc, err := s.adopt(ctx, p, fingerprint(wanted))
	if err != nil {
		return err
	}
	if proc == nil {
		// Only now: the file is that of the running daemon for as long as it runs.
		if err := durable.WriteFile(p.config, wanted); err != nil {
			return err
		}
		if proc, err = start(ctx, p); err != nil {
			return fmt.Errorf("start containerd: %w", err)
		}
		s.log().Info("started containerd", "pid", proc.pid)
	}
	defer proc.close()
	if err := programs.Prune(); err != nil {
		s.log().Warn("old node binaries stay", "err", err)
	}

	group, life := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := proc.wait(life); err != nil {
			return err
		}
		return fmt.Errorf("containerd ended, process %d: see %s", proc.pid, p.log)
	})
	group.Go(func() error {
		if err := awaitRuntime(life, p.socket); err != nil {
			return errors.Join(err, s.endHung(life, proc))
		}
		if err := importPause(life, p.socket, pause, programs.Path(embedded.Pause)); err != nil {
			return err
		}
		return errors.Join(s.watch(life), s.endHung(life, proc))
	})
	return group.Wait()
}

// endHung ends a daemon that does not answer. One that has ended by itself, or an agent that is
// ending, needs nothing.
func (s *Supervisor) endHung(ctx context.Context, proc *process) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // somebody else ends it, or it has ended
	}
	s.log().Warn("ending containerd, which does not answer", "pid", proc.pid)
	return proc.stop(context.WithoutCancel(ctx), s.timing().grace)
}

// adopt returns the running daemon if it is what this binary would start. Another one is ended.
func (s *Supervisor) adopt(ctx context.Context, p paths, config string) (*process, error) {
	proc, err := find(p)
	if err != nil || proc == nil {
		return nil, err
	}
	own, err := buildID("/proc/self/exe")
	if err != nil {
		proc.close()
		return nil, err
	}
	if proc.build == own && proc.config == config {
		s.log().Info("adopted containerd", "pid", proc.pid)
		return proc, nil
	}
	defer proc.close()
	s.log().Info("restarting containerd: its binary or configuration changed", "pid", proc.pid)
	if err := proc.stop(ctx, stopGrace); err != nil {
		return nil, fmt.Errorf("end the old containerd: %w", err)
	}
	return nil, nil
}

// prepare makes the directories and the node binaries, and the configuration that they lead to.
func prepare(p paths) (wanted []byte, programs embedded.Programs, pause string, err error) {
	for _, dir := range []string{p.root, p.state, p.registries, p.cniConf, p.shims} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, programs, "", fmt.Errorf("containerd's directories: %w", err)
		}
	}
	if programs, err = embedded.Extract(p.bin); err != nil {
		return nil, programs, "", err
	}
	program, err := os.ReadFile(programs.Path(embedded.Pause))
	if err != nil {
		return nil, programs, "", err
	}
	pause = pauseImage(program)
	wanted, err = config(p, programs, pause, canLowerOOMScore())
	return wanted, programs, pause, err
}
