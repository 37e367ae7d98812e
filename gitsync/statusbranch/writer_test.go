package statusbranch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pleachdev/pleach/gitsync/gitstore"
)

// fakeBranch records when it was asked for what, and answers as told.
type fakeBranch struct {
	at      []time.Time
	content []string
	errs    []error // of the next attempts
	delay   time.Duration
}

func (f *fakeBranch) publish(ctx context.Context, files, _ map[string][]byte) (outcome, error) {
	f.at = append(f.at, time.Now())
	f.content = append(f.content, string(files["a"]))
	select {
	case <-time.After(f.delay):
	case <-ctx.Done():
		return outcome{}, ctx.Err()
	}
	if len(f.errs) > 0 {
		err := f.errs[0]
		f.errs = f.errs[1:]
		if err != nil {
			return outcome{}, err
		}
	}
	return outcome{commit: fmt.Sprintf("commit-%d", len(f.at)), pushed: true}, nil
}

func start(t *testing.T, perMinute int, f *fakeBranch) *Writer {
	t.Helper()
	cfg := Config{PushesPerMinute: perMinute, Log: New(Config{}).log}
	w := newWriter(cfg, f)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return w
}

func set(w *Writer, content string) { w.Set(of(map[string][]byte{"a": []byte(content)})) }

// of is the content that is these files.
func of(files map[string][]byte) Content {
	return func() (map[string][]byte, error) { return files, nil }
}

func TestFirstChangeGoesOutAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeBranch{}
		w := start(t, 6, f)
		for range 3 {
			time.Sleep(10 * time.Minute)
			before, n := time.Now(), len(f.at)
			set(w, "x")
			synctest.Wait()
			if len(f.at) != n+1 || !f.at[n].Equal(before) {
				t.Fatalf("pushes at %v, set at %v", f.at, before)
			}
		}
		if s := w.Status(); !s.Waiting.IsZero() || s.Pushes != 3 || s.Commit != "commit-3" || s.Err != "" {
			t.Errorf("status %+v", s)
		}
	})
}

// No minute ever sees more pushes than the budget, however often the content changes and whatever
// comes of the pushes, and the newest content always arrives.
func TestBudget(t *testing.T) {
	for _, perMinute := range []int{1, 2, 6, 30} {
		synctest.Test(t, func(t *testing.T) {
			f := &fakeBranch{delay: 300 * time.Millisecond}
			for i := range 40 {
				var err error
				if i%5 == 2 {
					err = gitstore.ErrLostRace
				}
				f.errs = append(f.errs, err)
			}
			w := start(t, perMinute, f)
			last := ""
			for i := range 1200 {
				last = fmt.Sprint(i)
				set(w, last)
				time.Sleep(500 * time.Millisecond)
			}
			time.Sleep(5 * time.Minute)
			synctest.Wait()
			if got := f.content[len(f.content)-1]; got != last {
				t.Errorf("newest content pushed is %s, want %s", got, last)
			}
			for i := perMinute; i < len(f.at); i++ {
				if d := f.at[i].Sub(f.at[i-perMinute]); d < time.Minute {
					t.Fatalf("budget %d: %d pushes within %v", perMinute, perMinute+1, d)
				}
			}
			if least := perMinute * 6; len(f.at) < least {
				t.Errorf("budget %d: %d pushes in 10 minutes of changes, want %d or more", perMinute, len(f.at), least)
			}
		})
	}
}

func TestFailuresAreRetriedAndReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := fmt.Errorf("push: %w: no route", gitstore.ErrUnreachable)
		f := &fakeBranch{errs: []error{down, down, down, down}}
		w := start(t, 6, f)
		set(w, "old")
		synctest.Wait()
		if s := w.Status(); s.Waiting.IsZero() || !strings.Contains(s.Err, "no route") || !s.LastOK.IsZero() {
			t.Errorf("status after a failure: %+v", s)
		}
		set(w, "new")
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if s := w.Status(); !s.Waiting.IsZero() || s.Err != "" || s.Pushes != 1 || s.LastOK.IsZero() {
			t.Errorf("status at the end: %+v", s)
		}
		if f.content[len(f.content)-1] != "new" || len(f.at) != 5 {
			t.Errorf("attempts %v", f.content)
		}
	})
}

func TestSetNeverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeBranch{delay: time.Hour}
		w := start(t, 6, f)
		before := time.Now()
		for i := range 1000 {
			set(w, fmt.Sprint(i))
			synctest.Wait()
		}
		if d := time.Since(before); d != 0 {
			t.Errorf("a thousand calls took %v while a push hung", d)
		}
	})
	// Without Run as well.
	w := newWriter(Config{PushesPerMinute: 6}, &fakeBranch{errs: []error{errors.New("never called")}})
	set(w, "1")
	set(w, "2")
	if s := w.Status(); s.Waiting.IsZero() {
		t.Errorf("status %+v", s)
	}
}

// shared is a branch that several writers push to; face is how one of them sees it.
type shared struct {
	mu      sync.Mutex
	author  string
	version int
	at      []time.Time
}

type face struct {
	*shared
	name string
	seen int
}

func (f *face) publish(_ context.Context, _, waited map[string][]byte) (outcome, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	foreign := f.version != f.seen && f.author != f.name
	f.seen = f.version
	if waited == nil && foreign {
		return outcome{foreign: true, behind: true}, nil
	}
	f.version++
	f.seen, f.author, f.at = f.version, f.name, append(f.at, time.Now())
	return outcome{pushed: true}, nil
}

// No minute sees more pushes of the whole flock than the budget either, however often another node
// becomes the courier.
func TestBudgetOfTheFlock(t *testing.T) {
	const perMinute = 6
	synctest.Test(t, func(t *testing.T) {
		remote := &shared{}
		var courier atomic.Int32
		var writers []*Writer
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for i := range 3 {
			w := newWriter(Config{PushesPerMinute: perMinute, StandBy: time.Hour, Rank: func() int { return (i - int(courier.Load()) + 3) % 3 }},
				&face{shared: remote, name: fmt.Sprint("n", i)})
			writers = append(writers, w)
			group.Go(func() { _ = w.Run(ctx) })
		}
		for second := range 30 * 60 {
			if second%47 == 46 && second < 20*60 {
				courier.Store((courier.Load() + 1) % 3)
			}
			for _, w := range writers {
				set(w, fmt.Sprint(second))
			}
			time.Sleep(time.Second)
		}
		cancel()
		group.Wait()
		for i := perMinute; i < len(remote.at); i++ {
			if d := remote.at[i].Sub(remote.at[i-perMinute]); d < time.Minute {
				t.Fatalf("%d pushes within %v", perMinute+1, d)
			}
		}
		if len(remote.at) < 60 {
			t.Errorf("%d pushes in half an hour of changes", len(remote.at))
		}
	})
}
