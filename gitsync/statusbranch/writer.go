// Package statusbranch keeps what the flock reports on a branch of a Git remote: everybody's signed
// document (status/<node>.cbor) and files for people, in commits that a node's key signs.
//
// Every node has a [Writer] and tells it of new content whenever it likes, which is made when it is to be
// written. One of them, the courier, pushes the newest of it, on change only and within a budget of pushes;
// the others stand by, each longer than the one before it, and push when the branch has not taken in what
// they wait with. Two couriers at once harm nothing: a push compares and swaps, and the loser reads again
// what is there; and of two documents of a node the newer one stays, whoever writes. Nothing ever waits for
// the branch.
package statusbranch

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
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
	// DefaultStandBy is more than a courier ever waits for its budget.
	DefaultStandBy = 30 * time.Second

	rankAgain = 2 * time.Second // until the rank is asked for again
	minRetry  = 2 * time.Second
	maxRetry  = 2 * time.Minute
)

// Config says where a Writer writes, as whom and how often.
type Config struct {
	Remote gitstore.Remote
	Branch string // DefaultBranch when empty
	Signer gitstore.Signer
	// Author is the commits' author and committer; When is not used.
	Author gitstore.Ident
	// PushesPerMinute bounds the pushes in any minute, lost races included.
	PushesPerMinute int // DefaultPushesPerMinute when 0
	// Keys verifies documents before they are written. nil: none are, and files are just files.
	Keys Keys
	// Rank is this node's place among those who may write; 0 is the courier. It is asked again and
	// again. nil: always 0.
	Rank func() int
	// StandBy is how long each rank waits longer than the one before it; DefaultStandBy when 0.
	StandBy time.Duration
	// MaxCommits and MaxAge bound the branch's history; DefaultMaxCommits and DefaultMaxAge when 0.
	MaxCommits int
	MaxAge     time.Duration
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
	Waiting time.Time `json:"waiting,omitzero"`  // since when newer content waits; zero when none does, or it is for another node to write
	StandBy bool      `json:"standBy,omitempty"` // another node writes
	LastTry time.Time `json:"lastTry,omitzero"`
	LastOK  time.Time `json:"lastOK,omitzero"` // the branch was seen to hold the wanted content
	Err     string    `json:"err,omitempty"`   // of the last try; "" when it went well
	Pushes  int64     `json:"pushes"`          // that went well
	Failed  int64     `json:"failed"`          // tries that did not, lost races included
}

// Content makes what a branch is to hold: path, slash separated, to bytes; documents stand at
// [DocumentPath]. It is called by Run alone, some time after it was given, and gives the same each time.
// What it returns is kept, and must not be changed any more.
type Content func() (map[string][]byte, error)

// Writer keeps a branch equal to the newest content it was given.
type Writer struct {
	branch publisher
	budget budget
	report func(Status)
	log    *slog.Logger
	jitter *rand.Rand // used by Run alone
	wake   chan struct{}
	rank   func() int
	wait   time.Duration // of a stand-by, for each rank

	mu     sync.Mutex
	wanted Content // nil before the first Set
	dirty  bool
	waited Content   // what was wanted first of what is dirty now
	since  time.Time // when waited was set; zero when nothing is dirty
	status Status
}

// publisher brings a branch to the wanted content in one attempt.
type publisher interface {
	// publish wants files. waited is nil for the courier, and else what a stand-by has waited with.
	publish(ctx context.Context, files, waited map[string][]byte) (outcome, error)
}

// New returns a Writer that does nothing until Run is called.
func New(cfg Config) *Writer {
	if cfg.Branch == "" {
		cfg.Branch = DefaultBranch
	}
	if cfg.PushesPerMinute <= 0 {
		cfg.PushesPerMinute = DefaultPushesPerMinute
	}
	return newWriter(cfg, &branch{cfg: cfg})
}

func newWriter(cfg Config, p publisher) *Writer {
	var seed [32]byte
	copy(seed[:], cfg.Author.Name+cfg.Remote.String())
	if cfg.Report == nil {
		cfg.Report = func(Status) {}
	}
	if cfg.Rank == nil {
		cfg.Rank = func() int { return 0 }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Writer{
		branch: p,
		budget: newBudget(cfg.PushesPerMinute),
		report: cfg.Report,
		log:    cfg.Log,
		jitter: rand.New(rand.NewChaCha8(seed)),
		wake:   make(chan struct{}, 1),
		rank:   cfg.Rank,
		wait:   cmp.Or(cfg.StandBy, DefaultStandBy),
		status: Status{Remote: cfg.Remote.String(), Branch: cfg.Branch},
	}
}

// Set replaces the wanted content. It never blocks; of several calls only the newest counts.
func (w *Writer) Set(content Content) {
	w.mu.Lock()
	w.wanted = content
	if w.dirty = true; w.since.IsZero() {
		w.waited, w.since = w.wanted, time.Now()
	}
	if w.status.Waiting.IsZero() && !w.status.StandBy {
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
		rank := w.stand()
		job := w.newest()
		if job.content == nil {
			select {
			case <-ctx.Done():
				return nil
			case <-w.wake:
			}
			continue
		}
		d := max(time.Until(notBefore), w.budget.wait(time.Now()))
		if rank == 0 {
			job.waited = nil
		} else {
			d = max(d, time.Until(job.since.Add(time.Duration(rank)*w.wait)))
		}
		if d > 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(min(d, rankAgain)):
			}
			continue // with what has been set meanwhile
		}
		err := w.attempt(ctx, job)
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

// stand asks for the rank, and notes whether another node writes.
func (w *Writer) stand() int {
	rank := w.rank()
	w.mu.Lock()
	defer w.mu.Unlock()
	was := w.status
	if w.status.StandBy = rank > 0; w.status.StandBy {
		w.status.Waiting = time.Time{}
	} else if w.dirty {
		w.status.Waiting = w.since
	}
	if w.status != was {
		status := w.status
		defer w.report(status)
	}
	return rank
}

// jittered is between half of d and d.
func (w *Writer) jittered(d time.Duration) time.Duration {
	return d/2 + time.Duration(w.jitter.Int64N(int64(d/2)+1))
}

// job is what an attempt is to bring about.
type job struct {
	content Content // nil when there is nothing to do
	waited  Content
	since   time.Time
}

func (w *Writer) newest() job {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.dirty {
		return job{}
	}
	return job{w.wanted, w.waited, w.since}
}

// publish makes the content, and publishes it.
func (w *Writer) publish(ctx context.Context, j job) (outcome, error) {
	files, err := j.content()
	var waited map[string][]byte
	if err == nil && j.waited != nil {
		waited, err = j.waited()
	}
	if err != nil {
		return outcome{}, err
	}
	return w.branch.publish(ctx, files, waited)
}

func (w *Writer) attempt(ctx context.Context, j job) error {
	w.mu.Lock()
	// A Set during the attempt makes it dirty again.
	w.dirty, w.waited, w.since = false, nil, time.Time{}
	w.mu.Unlock()
	start := time.Now()
	out, err := w.publish(ctx, j)
	for _, r := range out.refused {
		w.log.Warn("a document is not written to the status branch", "err", r)
	}
	if out.foreign {
		w.budget.drain(start)
	}
	_, refused := errors.AsType[*gitstore.RejectedError](err)
	// An attempt that failed has most likely cost the remote a push too.
	if out.pushed || err != nil && (j.waited == nil || refused || errors.Is(err, gitstore.ErrLostRace)) {
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
		w.waited, w.since = j.waited, j.since
		if j.waited == nil {
			w.waited = j.content
		}
		w.status.Err = err.Error()
		w.status.Failed++
		return err
	}
	if out.behind && !w.dirty {
		w.dirty, w.waited, w.since = true, j.content, start
	}
	w.status.Err, w.status.LastOK = "", start
	if w.status.Waiting = (time.Time{}); w.dirty && !w.status.StandBy {
		w.status.Waiting = start // or a little later: what was set during the attempt
	}
	w.status.Commit = out.commit
	if out.pushed {
		w.status.Pushes++
	}
	return nil
}
