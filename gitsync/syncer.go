package gitsync

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pleachdev/pleach/gitsync/gitstore"
)

// ErrUnreachable says that the remote did not answer: wait and retry. What was accepted stays in
// force.
var ErrUnreachable = gitstore.ErrUnreachable

// Config says what a [Syncer] follows.
type Config struct {
	// Dir holds the Git store and what was accepted. One process at a time owns it.
	Dir    string
	Remote gitstore.Remote
	Branch string // "main"
	// Introduction is the commit, in full, that whoever enrolled the node trusts.
	Introduction string
	// Judge says which signer may change what; [KnownSigners] when nil.
	Judge Judge
	// StaleAfter is how long the remote may show an older head than a peer has verified before that is
	// reported; [DefaultStaleAfter] when 0.
	StaleAfter time.Duration
}

// Syncer follows the branch of the config repository. All methods may be called by several
// goroutines at once.
type Syncer struct {
	cfg   Config
	store *gitstore.Store

	walking sync.Mutex // held by the one that walks; guards the fields up to the next mutex
	walker  *walker    // nil until the introduction is in the store
	base    *position  // of the trusted commit; nil when nothing was accepted yet
	tip     *position  // of the head last seen: base, or refused commits after it
	// straight is set when a walk from the introduction gives base, too; see [Syncer.advance].
	straight bool

	mu       sync.Mutex // guards the fields below
	accepted *Accepted
	changed  chan struct{} // closed when another head is accepted
	remote   Remote        // without the alarms
	// branchAlarm is of the last look at the remote, flockAlarm of the last comparison with peers.
	branchAlarm, flockAlarm string
	failing                 time.Time       // when the remote was first out of reach; zero while it answers
	fromPeer                source          // zero when the remote has shown the accepted head
	forks                   map[string]bool // heads that do not contain the accepted one, nor it them
	agreeing                []string        // nodes that have verified the accepted head
}

// Open makes a Syncer and loads what was accepted before, without the network. A state file that
// is lost or damaged is no error: the next Sync walks from the introduction again, and until then
// [Remote.Err] says why. The caller closes the Syncer.
func Open(ctx context.Context, cfg Config) (*Syncer, error) {
	if cfg.Judge == nil {
		cfg.Judge = KnownSigners{}
	}
	store, err := gitstore.Open(filepath.Join(cfg.Dir, "config.git"))
	if err != nil {
		return nil, err
	}
	s := &Syncer{
		cfg: cfg, store: store, remote: Remote{URL: cfg.Remote.String(), Branch: cfg.Branch},
		changed: make(chan struct{}), forks: map[string]bool{},
	}
	if err := s.restore(ctx); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return s, nil
}

// Close releases the store.
func (s *Syncer) Close() error {
	s.walking.Lock()
	defer s.walking.Unlock()
	return s.store.Close()
}

// Accepted is what the flock is asked to run; nil before the first Sync of a new node.
func (s *Syncer) Accepted() *Accepted {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted
}

// Remote says how the last contact with the remote went.
func (s *Syncer) Remote() Remote {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.remote
	r.Alarm = strings.Trim(s.branchAlarm+"; "+s.flockAlarm, "; ")
	return r
}

// Sync asks the remote where the branch is, fetches and judges what is new, and returns what is
// accepted now: the same pointer as before when nothing changed.
//
// It errors with [ErrUnreachable] when the remote does not answer. A commit that is refused, and a
// branch that was rewound or deleted, are no errors: they are in [Accepted.Refusals] and
// [Remote.Alarm]. With an error, too, what was accepted before is returned.
func (s *Syncer) Sync(ctx context.Context) (*Accepted, error) {
	s.walking.Lock()
	defer s.walking.Unlock()
	started := time.Now().UTC()
	alarm, err := s.sync(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen(started, alarm, err)
	return s.accepted, err
}

// sync returns what is wrong with the branch itself.
func (s *Syncer) sync(ctx context.Context) (alarm string, err error) {
	ref := s.ref()
	refs, err := s.store.Refs(ctx, s.cfg.Remote, ref)
	if err != nil {
		return "", err
	}
	head, ok := refs[ref]
	if ok && (s.tip == nil || head != s.tip.id) {
		if err := s.store.FetchCommit(ctx, s.cfg.Remote, ref, head); err != nil {
			return "", err
		}
	}
	switch {
	case !ok && s.base == nil:
		return "", fmt.Errorf("remote %s has no branch %q: push it, or correct the branch's name", s.cfg.Remote, s.cfg.Branch)
	case !ok:
		return fmt.Sprintf("branch %q is gone from the remote; what was accepted stays in force: "+
			"push it again, with the accepted commit %.12s", s.cfg.Branch, s.base.id), nil
	}
	return s.follow(ctx, head)
}

// follow judges the commits up to head and makes the outcome durable, then visible.
func (s *Syncer) follow(ctx context.Context, head string) (alarm string, err error) {
	if s.base == nil {
		known, err := s.store.IsAncestor(s.cfg.Introduction, head)
		if missing, ok := errors.AsType[*gitstore.ObjectError](err); ok && missing.Missing && missing.ID == s.cfg.Introduction {
			known, err = false, nil
		}
		if err != nil {
			return "", err
		}
		if !known {
			return "", fmt.Errorf("branch %q of %s at %.12s does not contain the introduction %.12s: "+
				"is it the right repository, and was the branch rewritten?", s.cfg.Branch, s.cfg.Remote, head, s.cfg.Introduction)
		}
	}
	if s.walker == nil {
		if s.walker, err = newWalker(s.store, s.cfg.Introduction, s.cfg.Judge); err != nil {
			return "", err
		}
	}
	w, err := s.advance(ctx, head)
	if errors.Is(err, errNotDescendant) {
		return s.notFollowed(head)
	}
	if err != nil {
		return "", err
	}
	if s.base == nil || s.tip.id != w.tip.id || s.base.id != w.base.id || s.straight != w.straight {
		if err := s.save(w); err != nil {
			return "", err
		}
		s.publish(w)
	}
	s.mu.Lock()
	s.fromPeer = source{} // the remote has it, too
	s.mu.Unlock()
	return s.emptyHead(head)
}

// walked is where a walk has come.
type walked struct {
	base, tip *position
	straight  bool
}

func (s *Syncer) publish(w walked) {
	s.base, s.tip, s.straight = w.base, w.tip, w.straight
	a := w.tip.accepted()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accepted = a
	close(s.changed)
	s.changed = make(chan struct{})
}

// advance walks from the trusted commit to head.
//
// At a merge, a node follows the side that it trusted before, so that a key which was removed there
// cannot come back by the other side. A node that starts later has trusted neither and follows the
// first. When both ways end with the same accepted content, as they do unless somebody was refused,
// the second one is taken over: then all nodes have the same uids, generations and revisions.
func (s *Syncer) advance(ctx context.Context, head string) (walked, error) {
	w := walked{base: s.base, straight: s.straight}
	if w.base == nil {
		first, err := s.walker.from(ctx, s.cfg.Introduction)
		if err != nil {
			return w, err
		}
		w.base, w.straight = first, true
	}
	trusted, err := newDescent(s.store, w.base.id)
	if err != nil {
		return w, err
	}
	path, err := trusted.path(head)
	if err != nil {
		return w, err
	}
	if err := s.along(ctx, &w, path); err != nil {
		return w, err
	}
	if w.straight {
		return w, nil
	}
	other, err := s.walker.from(ctx, w.base.id)
	if err != nil {
		return w, err
	}
	if !w.base.agrees(other) {
		return w, nil
	}
	rest := path[slices.Index(path, w.base.id)+1:]
	w = walked{base: other, straight: true}
	return w, s.along(ctx, &w, rest)
}

// along steps along a path from w.base.
func (s *Syncer) along(ctx context.Context, w *walked, path []string) error {
	straight := w.straight
	w.tip = w.base
	for _, id := range path {
		if straight {
			usual, err := s.walker.root.followed(id)
			if err != nil {
				return err
			}
			straight = usual == w.tip.id
		}
		tip, err := s.walker.step(ctx, w.tip, id)
		if err != nil {
			return err
		}
		if straight {
			s.walker.remember(tip)
		}
		w.tip = tip
		if tip.trusted.ID == id {
			w.base, w.straight = tip, straight
		}
	}
	return nil
}

// agrees reports whether two positions of one commit accept the same content and hold the same
// against what they do not accept.
func (p *position) agrees(q *position) bool {
	same := func(a, b *appUnit) bool {
		if a.commit.ID != b.commit.ID || (a.accepted == nil) != (b.accepted == nil) {
			return false
		}
		if a.accepted != nil && !maps.Equal(a.accepted.digests, b.accepted.digests) {
			return false
		}
		return maps.Equal(a.tainted, b.tainted) && maps.Equal(a.files, b.files) && a.blind == b.blind &&
			slices.EqualFunc(a.broken, b.broken, func(x, y actor) bool { return x.Commit == y.Commit })
	}
	return p.trusted.ID == q.trusted.ID &&
		p.cluster.commit.ID == q.cluster.commit.ID &&
		maps.Equal(p.cluster.files, q.cluster.files) &&
		maps.Equal(p.tainted, q.tainted) &&
		maps.EqualFunc(p.apps, q.apps, same)
}

// notFollowed words the finding that a head does not contain the trusted commit.
func (s *Syncer) notFollowed(head string) (string, error) {
	_, err := s.store.Commit(head)
	if bad, ok := errors.AsType[*gitstore.ObjectError](err); ok {
		return fmt.Sprintf("branch %q cannot be followed to %.12s: %v; what was accepted stays in force: "+
			"set the branch back to the accepted commit %.12s", s.cfg.Branch, head, bad, s.base.id), nil
	}
	if err != nil {
		return "", err
	}
	older, err := s.store.IsAncestor(head, s.base.id)
	if err != nil {
		return "", err
	}
	if older {
		if alarm, ok := s.behind(head); ok {
			return alarm, nil
		}
		return fmt.Sprintf("branch %q was set back to %.12s, which is older than the accepted commit %.12s; "+
			"what was accepted stays in force: to go back, revert by a new commit on top of it",
			s.cfg.Branch, head, s.base.id), nil
	}
	return fmt.Sprintf("branch %q is at %.12s, which does not contain the accepted commit %.12s: another history; "+
		"what was accepted stays in force: push a branch that contains it", s.cfg.Branch, head, s.base.id), nil
}

func (s *Syncer) emptyHead(head string) (string, error) {
	t, err := s.store.Tree(head)
	if _, bad := errors.AsType[*gitstore.ObjectError](err); bad {
		return "", nil // refused, and said so
	}
	if err != nil {
		return "", err
	}
	entries, err := t.ReadDir(".")
	if err != nil || len(entries) > 0 {
		return "", err
	}
	return fmt.Sprintf("commit %.12s of branch %q has an empty tree; what was accepted stays in force: "+
		"revert it, or set the branch back to the accepted commit %.12s", head, s.cfg.Branch, s.base.id), nil
}
