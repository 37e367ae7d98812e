// Package statusbranch writes what a node reports to a branch of a Git remote, in commits that the
// node's key signs.
//
// The caller sets the whole content whenever it likes; the [Writer] pushes the newest of it, on
// change only and within a budget of pushes, and nothing ever waits for it.
package statusbranch

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/pleachdev/pleach/gitsync/gitstore"
)

const (
	// DefaultBranch is where status goes when the cluster names no other branch.
	DefaultBranch = "pleach/status"
	// DefaultPushesPerMinute is what the large forges ask automation to stay below.
	DefaultPushesPerMinute = 6

	minRetry = 2 * time.Second
	maxRetry = 2 * time.Minute
)

// Config says where a Writer writes, as whom and how often.
type Config struct {
	Remote gitstore.Remote
	Branch string // DefaultBranch when empty
	// Prefix is the directory that the Writer owns, "nodes/n1"; everything outside of it is kept
	// as it is. Empty: the whole tree.
	Prefix string
	Signer gitstore.Signer
	// Author is the commits' author and committer; When is not used.
	Author gitstore.Ident
	// PushesPerMinute bounds the pushes in any minute, lost races included.
	PushesPerMinute int // DefaultPushesPerMinute when 0
	// Message makes the commit message from the sorted paths that change. nil: a plain one.
	Message func(changed []string) string
	// Report is told of every change of the Status; it must not block. nil: nobody is told.
	Report func(Status)
	Log    *slog.Logger // nil: silent
}

// Status says how the pushing goes.
type Status struct {
	Remote string `json:"remote,omitempty"` // without credentials
	Branch string `json:"branch"`
	// Commit is the newest one that was pushed, full hex; "" before the first.
	Commit  string    `json:"commit,omitempty"`
	Waiting time.Time `json:"waiting,omitzero"` // since when newer content waits; zero when none does
	LastTry time.Time `json:"lastTry,omitzero"`
	LastOK  time.Time `json:"lastOK,omitzero"` // the branch was seen to hold the wanted content
	Err     string    `json:"err,omitempty"`   // of the last try; "" when it went well
	Pushes  int64     `json:"pushes"`          // that went well
	Failed  int64     `json:"failed"`          // tries that did not, lost races included
}

// Writer keeps a branch equal to the newest content it was given.
type Writer struct {
	branch publisher
	budget budget
	report func(Status)
	log    *slog.Logger
	jitter *rand.Rand // used by Run alone
	wake   chan struct{}

	mu     sync.Mutex
	wanted map[string][]byte // nil before the first Set
	dirty  bool
	status Status
}

// publisher brings a branch to the wanted content in one attempt.
type publisher interface {
	// publish returns the branch's commit, and whether a push was made for it.
	publish(ctx context.Context, files map[string][]byte) (commit string, pushed bool, err error)
}

// New returns a Writer that does nothing until Run is called.
func New(cfg Config) *Writer {
	if cfg.Branch == "" {
		cfg.Branch = DefaultBranch
	}
	if cfg.PushesPerMinute <= 0 {
		cfg.PushesPerMinute = DefaultPushesPerMinute
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return newWriter(cfg, &branch{cfg: cfg})
}

func newWriter(cfg Config, p publisher) *Writer {
	var seed [32]byte
	copy(seed[:], cfg.Author.Name+cfg.Remote.String())
	if cfg.Report == nil {
		cfg.Report = func(Status) {}
	}
	return &Writer{
		branch: p,
		budget: newBudget(cfg.PushesPerMinute),
		report: cfg.Report,
		log:    cfg.Log,
		jitter: rand.New(rand.NewChaCha8(seed)),
		wake:   make(chan struct{}, 1),
		status: Status{Remote: cfg.Remote.String(), Branch: cfg.Branch},
	}
}

// Set replaces the wanted content: path below the prefix, slash separated, to bytes. It never
// blocks; of several calls only the newest counts. The Writer keeps the slices, which must not be
// changed any more.
func (w *Writer) Set(files map[string][]byte) {
	w.mu.Lock()
	w.wanted = maps.Clone(files)
	if w.wanted == nil {
		w.wanted = map[string][]byte{}
	}
	w.dirty = true
	if w.status.Waiting.IsZero() {
		w.status.Waiting = time.Now()
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default: // one wake-up is waiting already, and will see the newest content
	}
}

// Status returns how things stand.
func (w *Writer) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status
}

// Run pushes until ctx ends. What is pending then is not pushed any more: the next Run reads the
// branch and catches up.
func (w *Writer) Run(ctx context.Context) error {
	retry := minRetry
	var notBefore time.Time
	for ctx.Err() == nil {
		files, dirty := w.newest()
		if !dirty {
			select {
			case <-ctx.Done():
				return nil
			case <-w.wake:
			}
			continue
		}
		if d := max(time.Until(notBefore), w.budget.wait(time.Now())); d > 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(d):
			}
			continue // with what has been set meanwhile
		}
		err := w.attempt(ctx, files)
		switch {
		case err == nil:
			retry = minRetry
		case errors.Is(err, gitstore.ErrLostRace):
			// Read again at once, while the budget lasts; the pause keeps two writers apart.
			notBefore = time.Now().Add(w.jittered(200 * time.Millisecond))
		case ctx.Err() == nil:
			notBefore = time.Now().Add(w.jittered(retry))
			w.log.Warn("status push failed", "err", err, "retryIn", time.Until(notBefore))
			retry = min(2*retry, maxRetry)
		}
	}
	return nil
}

// jittered is between half of d and d.
func (w *Writer) jittered(d time.Duration) time.Duration {
	return d/2 + time.Duration(w.jitter.Int64N(int64(d/2)+1))
}

func (w *Writer) newest() (files map[string][]byte, dirty bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wanted, w.dirty
}

func (w *Writer) attempt(ctx context.Context, files map[string][]byte) error {
	w.mu.Lock()
	w.dirty = false // a Set during the attempt makes it dirty again
	w.mu.Unlock()
	start := time.Now()
	commit, pushed, err := w.branch.publish(ctx, files)
	// An attempt that failed has most likely cost the remote a push too.
	if pushed || err != nil {
		w.budget.take(start)
	}
	w.mu.Lock()
	defer func() {
		status := w.status
		w.mu.Unlock()
		w.report(status)
	}()
	w.status.LastTry = start
	if err != nil {
		w.dirty = true
		w.status.Err = err.Error()
		w.status.Failed++
		return err
	}
	w.status.Err, w.status.LastOK = "", start
	if w.status.Waiting = (time.Time{}); w.dirty {
		w.status.Waiting = start // or a little later: what was set during the attempt
	}
	w.status.Commit = commit
	if pushed {
		w.status.Pushes++
	}
	return nil
}
