package gitstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"

	"github.com/pleachdev/pleach/state/durable"
)

// fetchTimeout bounds a fetch whose context has no deadline of its own.
const fetchTimeout = 5 * time.Minute

// Fetch brings the whole history of a ref ("refs/heads/main") into the store and returns the commit
// where it points. When Fetch returns without an error, that commit and its tree can be read.
//
// It errors with [ErrUnreachable] when the remote did not deliver, and with [ErrMissingRef] when it
// has no such ref. Any other error says that what it sent is not fit for the store, or that the
// disk failed; then the store is as it was.
func (s *Store) Fetch(ctx context.Context, r Remote, ref string) (string, error) {
	return s.fetch(ctx, r, ref, 0)
}

// FetchCommit is [Store.Fetch] for the commit where [Store.Refs] has just seen the ref, which saves
// asking again. A server may refuse a commit that the ref has left meanwhile: ask anew then.
func (s *Store) FetchCommit(ctx context.Context, r Remote, ref, id string) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	return s.fetchCommit(ctx, r, ref, id, 0)
}

// FetchTip is [Store.Fetch] without the history: one commit and its tree. Ancestry cannot be asked
// of it, so that a store should hold tips only or histories only.
func (s *Store) FetchTip(ctx context.Context, r Remote, ref string) (string, error) {
	return s.fetch(ctx, r, ref, 1)
}

func (s *Store) fetch(ctx context.Context, r Remote, ref string, depth int) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	refs, err := s.Refs(ctx, r, ref)
	if err != nil {
		return "", err
	}
	id, ok := refs[ref]
	if !ok {
		return "", fmt.Errorf("fetch %s of %s: %w", ref, r, ErrMissingRef)
	}
	return id, s.fetchCommit(ctx, r, ref, id, depth)
}

func (s *Store) fetchCommit(ctx context.Context, r Remote, ref, id string, depth int) error {
	l, err := r.parse()
	if err != nil {
		return err
	}
	want, err := parseID(id)
	if err != nil {
		return err
	}
	if err := s.complete(ctx, l, r, ref, want, depth); err != nil {
		return err
	}
	if depth == 0 {
		if err := s.record(r, ref, want); err != nil {
			return fmt.Errorf("git store: %w", err)
		}
	}
	return nil
}

// complete downloads until the commit loads. What the store has is not asked for; when something is
// lacking all the same, everything is, so that a damaged store mends itself.
func (s *Store) complete(ctx context.Context, l location, r Remote, ref string, want plumbing.Hash, depth int) error {
	if s.loads(want, depth) == nil && !s.isDamaged() {
		return nil
	}
	var haves []plumbing.Hash
	if depth == 0 && !s.isDamaged() {
		haves = s.haves(r, ref)
	}
	if slices.Contains(haves, want) {
		haves = nil // it does not load: having it is a mistake
	}
	for {
		pack, err := s.download(ctx, l, r, want, haves, depth, maxPackBytes)
		if err != nil {
			return err
		}
		err = s.addPack(pack, len(haves) == 0)
		_ = pack.Close()           // read to its end
		_ = os.Remove(pack.Name()) // sweep takes what stays
		if err != nil {
			return fmt.Errorf("fetch %s of %s: %w", ref, r, err)
		}
		err = s.loads(want, depth)
		if err == nil {
			return nil
		}
		if len(haves) == 0 {
			// A server that sends less than it announced must not be believed.
			return fmt.Errorf("fetch %s of %s: %w", ref, r, err)
		}
		haves = nil
	}
}

// isDamaged reports whether a tree or a file was missed since the last full download.
func (s *Store) isDamaged() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.damaged
}

// loads reports what keeps a commit from being read: itself, its tree, or, when the history was
// asked for, any of its ancestors.
func (s *Store) loads(id plumbing.Hash, depth int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if depth == 0 {
		if _, err := s.levelLocked(id); err != nil {
			return unlessMalformed(err)
		}
	}
	c, err := s.commitLocked(id)
	if err != nil {
		return unlessMalformed(err)
	}
	tree, err := parseID(c.Tree)
	if err != nil {
		return err
	}
	_, err = s.rawLocked(tree, plumbing.TreeObject)
	return unlessMalformed(err)
}

// unlessMalformed forgives an object that is here but not well formed: fetching it again would not
// change it, and whoever reads it will get the reason.
func unlessMalformed(err error) error {
	if oe, ok := errors.AsType[*ObjectError](err); ok && !oe.Missing {
		return nil
	}
	return err
}

// download asks for what the store lacks of want, and returns the pack as a temporary file.
func (s *Store) download(ctx context.Context, l location, r Remote, want plumbing.Hash, haves []plumbing.Hash, depth int, limit int64) (*os.File, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // go-git leaves an answer open that it cannot read
	client, ep, auth, err := l.transport(limit)
	if err != nil {
		return nil, err
	}
	session, err := client.NewUploadPackSession(ep, auth)
	if err != nil {
		return nil, unreachable(r, "fetch", err)
	}
	defer func() { _ = session.Close() }() // the pack has been read
	if !l.http() {
		// A file session is one conversation and starts with this; over HTTP each request stands
		// alone, and the refs are known already.
		if _, err := session.AdvertisedReferencesContext(ctx); err != nil {
			return nil, unreachable(r, "fetch", err)
		}
	}
	// Every server of the last fifteen years has these; thin packs are not asked for, since a pack
	// must be whole by itself to be indexed before anything is believed.
	req := packp.NewUploadPackRequest()
	for _, c := range []capability.Capability{capability.OFSDelta, capability.Sideband64k, capability.NoProgress} {
		if err := req.Capabilities.Set(c); err != nil {
			return nil, err
		}
	}
	req.Wants, req.Haves = []plumbing.Hash{want}, haves
	if depth > 0 {
		req.Depth = packp.DepthCommits(depth)
		if err := req.Capabilities.Set(capability.Shallow); err != nil {
			return nil, err
		}
	}
	res, err := session.UploadPack(ctx, req)
	if err != nil {
		return nil, unreachable(r, "fetch", err)
	}
	defer func() { _ = res.Close() }() // read to its end
	f, err := os.CreateTemp(s.tempDir(), "tmp_fetch_")
	if err != nil {
		return nil, fmt.Errorf("git store: %w", err)
	}
	if s.dir == "" {
		_ = os.Remove(f.Name()) // nobody sweeps there; the open file is enough
	}
	n, err := io.Copy(f, io.LimitReader(sideband.NewDemuxer(sideband.Sideband64k, res), limit+1))
	switch {
	case errors.Is(err, errTooLarge), err == nil && n > limit:
		err = &ObjectError{ID: want.String(), Reason: fmt.Sprintf("comes with a history of more than %d MiB", limit>>20)}
	case isOf(err, f):
		err = fmt.Errorf("git store: keep what %s has sent: %w", r, err) // no room on the disk, perhaps: not the remote's doing
	case err != nil:
		err = unreachable(r, "fetch", err)
	}
	if err != nil {
		_ = f.Close()
		_ = os.Remove(f.Name()) // sweep takes what stays
		return nil, err
	}
	return f, nil
}

// isOf tells whether an error is that of this very file.
func isOf(err error, f *os.File) bool {
	path, ok := errors.AsType[*fs.PathError](err)
	return ok && path.Path == f.Name()
}

func (s *Store) tempDir() string {
	if s.dir == "" {
		return ""
	}
	return filepath.Join(s.dir, "objects", "pack")
}

// haves names commits that the store has with all their history: what was last fetched of the ref,
// and ancestors ever further back, in case the branch was rewound.
func (s *Store) haves(r Remote, ref string) []plumbing.Hash {
	if s.dir == "" {
		return nil
	}
	data, err := os.ReadFile(s.refPath(r, ref))
	if err != nil {
		return nil
	}
	id, err := parseID(strings.TrimSpace(string(data)))
	if err != nil {
		return nil
	}
	return s.ancestors(id)
}

// ancestors names a commit and others ever further back along first parents.
func (s *Store) ancestors(id plumbing.Hash) []plumbing.Hash {
	s.mu.Lock()
	defer s.mu.Unlock()
	var haves []plumbing.Hash
	for step, next := 0, 0; len(haves) < 32; step++ {
		parents, err := s.parentsLocked(id)
		if err != nil {
			break
		}
		if step == next {
			haves, next = append(haves, id), 2*next+1
		}
		if len(parents) == 0 {
			break
		}
		id = parents[0]
	}
	return haves
}

// record remembers what was fetched. A commit that the ref has left, by a force-push, keeps a
// ref of its own: somebody may still run it.
func (s *Store) record(r Remote, ref string, id plumbing.Hash) error {
	if s.dir == "" {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	path := s.refPath(r, ref)
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	before := strings.TrimSpace(string(old))
	if before == id.String() {
		return nil
	}
	if beforeID, err := parseID(before); err == nil {
		if follows, err := s.isAncestorLocked(beforeID, id); err != nil || !follows {
			kept := filepath.Join(filepath.Dir(path), "left-"+before)
			if err := durable.WriteFile(kept, []byte(before+"\n")); err != nil {
				return err
			}
		}
	}
	return durable.WriteFile(path, []byte(id.String()+"\n"))
}
