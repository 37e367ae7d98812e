package gitsync

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/gitsync/manifest"
	"github.com/pleachdev/pleach/gitsync/trust"
	"github.com/pleachdev/pleach/reconcile"
)

// walker makes positions out of commits.
type walker struct {
	store  *gitstore.Store
	judge  Judge
	loader manifest.Loader
	// root knows the descendants of the introduction.
	root *descent
	// known holds positions by commit, as a walk from the introduction reaches them: the newest, and
	// of the others one in each stride, so that any is reached again by a short walk.
	known  map[string]*position
	recent []string // their commits in the order of being reached
	count  int
	// assumed are the commits that count as signed by somebody known; none where it is in earnest.
	assumed map[string]bool
}

const (
	maxRecent = 512
	stride    = 256
)

func newWalker(store *gitstore.Store, introduction string, judge Judge) (*walker, error) {
	root, err := newDescent(store, introduction)
	if err != nil {
		return nil, fmt.Errorf("introduction %.12s: %w", introduction, err)
	}
	return &walker{store: store, judge: judge, root: root, known: map[string]*position{}}, nil
}

// from walks from the introduction to a commit.
func (w *walker) from(ctx context.Context, id string) (*position, error) {
	var todo []string
	p := w.known[id]
	for at := id; p == nil && at != w.root.root; p = w.known[at] {
		todo = append(todo, at)
		next, err := w.root.followed(at)
		if err != nil {
			return nil, err
		}
		at = next
	}
	if p == nil {
		var err error
		if p, err = w.first(ctx, w.root.root); err != nil {
			return nil, err
		}
		w.remember(p)
	}
	for _, next := range slices.Backward(todo) {
		var err error
		if p, err = w.step(ctx, p, next); err != nil {
			return nil, err
		}
		w.remember(p)
	}
	return p, nil
}

func (w *walker) remember(p *position) {
	if w.known[p.id] != nil {
		return
	}
	w.known[p.id] = p
	if w.count++; w.count%stride == 0 {
		return // stays
	}
	w.recent = append(w.recent, p.id)
	if len(w.recent) > maxRecent {
		delete(w.known, w.recent[0])
		w.recent = w.recent[1:]
	}
}

// examined is what a commit is by itself.
type examined struct {
	at      reconcile.Commit
	subject string
	author  string
	message string
	parents []string
	tree    *gitstore.Tree // nil when it is malformed
	signer  trust.Identity
	// reason says why the commit is refused as a whole; "" when its signer is known.
	reason string
	// taints is set when nobody known signed the refused commit; see launder.go.
	taints bool
}

// examine checks a commit by the given signers. An error means that there is no verdict.
func (w *walker) examine(id string, signers *trust.AllowedSigners) (*examined, error) {
	x := &examined{at: reconcile.Commit{ID: id}}
	c, err := w.store.Commit(id)
	if bad, ok := errors.AsType[*gitstore.ObjectError](err); ok && !bad.Missing {
		if x.at.Level, err = w.store.Level(id); err != nil {
			return nil, err
		}
		x.reason, x.taints = bad.Error(), true
		return x, nil
	}
	if err != nil {
		return nil, err
	}
	x.at, x.subject, x.author, x.message, x.parents = place(c), c.Subject(), c.Author.String(), c.Message, c.Parents
	x.signer, err = signers.Verify(c.Payload, c.Signature)
	if err != nil && !w.assumed[id] {
		x.reason, x.taints = err.Error(), true
	}
	err = w.store.CheckTree(id, gitstore.DefaultLimits())
	if bad, ok := errors.AsType[*gitstore.ObjectError](err); ok {
		if x.reason == "" {
			x.reason = bad.Error()
		}
		return x, nil
	}
	if err != nil {
		return nil, err
	}
	if x.tree, err = w.store.Tree(id); err != nil {
		return nil, err
	}
	entries, err := x.tree.ReadDir(".")
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 && x.reason == "" {
		x.reason = "its tree is empty, and nothing is deleted because all is missing: remove apps from pleach.yaml instead"
	}
	return x, nil
}

// refuse words the refusal of the commit for one unit; "" means the commit as a whole.
func (x *examined) refuse(unit, reason string, running reconcile.Commit, problems []manifest.Problem) Refusal {
	return Refusal{
		Commit: x.at, Subject: x.subject, Author: x.author, Signer: strings.Join(x.signer.Principals, ", "),
		App: unit, Reason: reason, Running: running, Problems: problems,
	}
}

func (x *examined) actor() actor { return actor{By: x.signer, Commit: x.at.ID} }

// step is one commit on the way.
type step struct {
	*walker
	*examined
	prev, next *position
	// changed maps the paths that differ from the last readable tree to their content there.
	changed map[string]string
	near    map[string]bool // the changed paths and the folders above them; see step.reads
}

// first makes the position of the introduction. It is trusted because whoever enrolled the node
// named it, and judged by its own rules.
func (w *walker) first(ctx context.Context, id string) (*position, error) {
	fail := func(err error) (*position, error) {
		return nil, fmt.Errorf("introduction %.12s: %w", id, err)
	}
	tree, err := w.store.Tree(id)
	if err != nil {
		return fail(err)
	}
	files, err := clusterFiles(tree)
	if err != nil {
		return fail(err)
	}
	cluster, problems, err := loadCluster(tree)
	if err != nil {
		return fail(err)
	}
	if len(problems) > 0 {
		errs := make([]error, len(problems))
		for i, p := range problems {
			errs[i] = p
		}
		return fail(errors.Join(errs...))
	}
	x, err := w.examine(id, cluster.signers)
	if err != nil {
		return fail(err)
	}
	if x.reason != "" {
		return fail(&unvouchedError{x.refuse("", x.reason, reconcile.Commit{}, nil)})
	}
	cluster.commit, cluster.files, cluster.at = x.at, files, files
	prev := &position{cluster: cluster}
	s := &step{walker: w, examined: x, prev: prev, next: prev.next(id), changed: map[string]string{}}
	s.next.apps, s.next.tainted = map[string]*appUnit{}, map[string]taint{}
	s.next.tree, s.next.trusted = id, x.at
	if err := s.apps(ctx); err != nil {
		return nil, err
	}
	return s.next, nil
}

// unvouchedError says that the introduction is not signed by anybody whom it names itself.
type unvouchedError struct{ refusal Refusal }

func (e *unvouchedError) Error() string {
	return fmt.Sprintf("%s: name a commit that its own %s vouches for", e.refusal.Reason, manifest.SignersFile)
}

// step judges a commit by the position of the parent that is followed. An error means that there
// is no verdict, for want of an object, of time or of disk: the walk stays where it is.
func (w *walker) step(ctx context.Context, prev *position, id string) (*position, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	x, err := w.examine(id, prev.cluster.signers)
	if err != nil {
		return nil, fmt.Errorf("commit %.12s: %w", id, err)
	}
	s := &step{walker: w, examined: x, prev: prev, next: prev.next(id)}
	if x.tree == nil {
		s.unreadable()
		return s.next, nil
	}
	var before *gitstore.Tree
	if before, err = w.store.Tree(prev.tree); err == nil {
		s.changed, err = changedFiles(before, x.tree)
	}
	if err == nil {
		s.next.tree = id
		if x.reason != "" {
			err = s.refused()
		} else {
			err = s.vouched(ctx)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("commit %.12s: %w", id, err)
	}
	return s.next, nil
}

// unreadable passes a commit whose tree, or which itself, is malformed: no unit is judged.
func (s *step) unreadable() {
	n := s.next
	if s.taints {
		n.blind = s.at.ID
	} else {
		n.silent = append(slices.Clip(n.silent), s.actor())
	}
	c := *n.cluster
	c.at = nil
	n.cluster = &c
	for name, u := range n.apps {
		u = u.clone()
		u.at = &rendering{unreadable: true}
		if s.taints {
			u.blind = s.at.ID
		} else {
			u.broken = append(u.broken, s.actor())
		}
		n.apps[name] = u
	}
	n.refused = withRefusal(n.refused, s.refuse("", s.reason, n.trusted, nil))
}

// refused passes a commit that nobody vouches for: nothing moves, and what a stranger changed is
// marked.
func (s *step) refused() error {
	n, touched := s.next, false
	for p, base := range s.changed {
		switch {
		case s.taints:
			n.mark(p, base, hash(s.tree, p), s.at.ID)
		case n.blind != "":
			n.mark(p, base, hash(s.tree, p), n.blind)
		}
	}
	n.blind, n.silent = "", nil
	files, err := s.clusterFiles()
	if err != nil {
		return err
	}
	if !maps.Equal(files, n.cluster.at) {
		c := *n.cluster
		c.at = files
		c.refusals = withRefusal(c.refusals, s.refuse(ClusterUnit, s.reason, c.commit, nil))
		n.cluster, touched = &c, true
	}
	for _, app := range n.cluster.spec.Spec.Apps {
		u := n.apps[app.Name].clone()
		before := u.position()
		r, err := s.render(u, app)
		if err != nil {
			return err
		}
		if r == before {
			continue
		}
		if s.taints {
			u.taintBy(s.at.ID, before, r)
		} else if !r.ok() {
			u.broken = append(u.broken, s.actor())
		}
		u.stay(r)
		u.refusals = withRefusal(u.refusals, s.refuse(app.Name, s.reason, u.commit, nil))
		n.apps[app.Name], touched = u, true
	}
	if !touched {
		n.refused = withRefusal(n.refused, s.refuse("", s.reason, n.trusted, nil))
	}
	return nil
}

// vouched passes a commit of a known signer: each unit is judged by itself.
func (s *step) vouched(ctx context.Context) error {
	n := s.next
	n.trusted, n.refused = s.at, nil
	n.adopt(adopted(s.message))
	files, err := s.clusterFiles()
	if err != nil {
		return err
	}
	denied, denial := s.judgeCluster(files)
	for p, base := range s.changed {
		switch {
		case n.blind != "":
			n.mark(p, base, hash(s.tree, p), n.blind)
		case denied[p]:
			n.mark(p, base, hash(s.tree, p), s.at.ID)
		default:
			delete(n.tainted, p)
		}
	}
	n.blind, n.silent = "", nil
	if err := s.cluster(files, denial); err != nil {
		return err
	}
	before := n.apps
	if err := s.apps(ctx); err != nil {
		return err
	}
	gone := s.departed()
	if len(gone.denied) == 0 && gone.undecided == "" {
		return nil
	}
	reason := gone.undecided
	if len(gone.denied) > 0 {
		reason = summary(gone.denied)
	}
	s.keepCluster(files, s.refuse(ClusterUnit, reason, s.prev.cluster.commit, gone.denied))
	n.apps = before
	return s.apps(ctx)
}

// clusterFiles are the cluster's own files at this commit.
func (s *step) clusterFiles() (map[string]string, error) {
	at := s.prev.cluster.at
	if at != nil && !slices.ContainsFunc(slices.Collect(maps.Keys(s.changed)), clusterOwned) {
		return at, nil
	}
	return clusterFiles(s.tree)
}
