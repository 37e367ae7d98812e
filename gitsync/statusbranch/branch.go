package statusbranch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/gossip"
)

// maxListed bounds the paths that the plain commit message names.
const maxListed = 20

// branch is the remote branch as it was last seen. It belongs to one goroutine.
type branch struct {
	cfg   Config
	known bool // the fields below are what the remote has
	tip   string
	files map[string]gitstore.TreeEntry // path from the root
	have  map[string]bool               // ids of all blobs and trees of the tip
	// documents are those of the tip that verify, by node.
	documents map[string]gossip.Sealed
	history   history
	// keepHistory is set when the remote refuses to let go of it.
	keepHistory bool
}

// outcome is what came of an attempt.
type outcome struct {
	commit  string // where the branch is
	pushed  bool
	foreign bool // somebody else has written the branch since the last attempt
	behind  bool // the files were not pushed, and the branch does not hold all of their documents
	refused []error
}

func (b *branch) ref() string { return "refs/heads/" + b.cfg.Branch }

// publish reads the branch when it is not known, and pushes one commit when it differs from what is
// wanted. After an error the branch counts as unknown: somebody else may have moved it, or the
// answer to a push that went well was lost.
//
// A stand-by gives the files that it has waited with: it looks first whether the branch holds their
// documents, and leaves it alone then.
func (b *branch) publish(ctx context.Context, files, waited map[string][]byte) (out outcome, err error) {
	defer func() {
		if err != nil {
			b.known = false
		}
	}()
	for name := range files {
		if !fs.ValidPath(name) || name == "." {
			return out, fmt.Errorf("status branch: %q is not a path", name)
		}
	}
	if !b.known || waited != nil {
		before := b.tip
		if err := b.read(ctx); err != nil {
			return out, err
		}
		out.foreign = b.tip != before && b.history.author != b.cfg.Author.Name && b.tip != ""
	}
	out.commit = b.tip
	if waited == nil && out.foreign || waited != nil && b.covers(waited) {
		// A courier that takes over waits once more, as the one before it may just have used up what the
		// remote is to bear.
		out.behind = waited == nil || !b.covers(files)
		return out, nil
	}
	wanted := make(map[string]gitstore.TreeEntry, len(files))
	for name, data := range files {
		wanted[name] = gitstore.TreeEntry{Mode: gitstore.ModeFile, ID: gitstore.BlobID(data)}
	}
	documents := b.documents
	if b.cfg.Keys != nil {
		documents, out.refused = b.newest(wanted, files)
	}
	changed := differences(b.files, wanted)
	if len(changed) == 0 {
		return out, nil
	}
	reroot := b.tip != "" && !b.keepHistory && b.history.isLong(b.cfg, time.Now())
	id, have, err := b.push(ctx, files, wanted, changed, reroot)
	if _, refused := errors.AsType[*gitstore.RejectedError](err); refused && reroot {
		b.keepHistory = true
		id, have, err = b.push(ctx, files, wanted, changed, false)
	}
	if err != nil {
		return out, err
	}
	b.tip, b.files, b.have, b.documents = id, wanted, have, documents
	out.commit, out.pushed = id, true
	return out, nil
}

// push makes a commit of the wanted tree and pushes it. With reroot it has no parent, and the history
// before it is let go.
func (b *branch) push(ctx context.Context, files map[string][]byte, wanted map[string]gitstore.TreeEntry, changed []string, reroot bool) (
	id string, have map[string]bool, err error,
) {
	// A store of its own for each commit: what is pushed need not be kept.
	store := gitstore.InMemory()
	var objects []string
	have = map[string]bool{}
	add := func(id string) {
		if !b.have[id] && !have[id] {
			objects = append(objects, id)
		}
		have[id] = true
	}
	for name, data := range files {
		id := gitstore.BlobID(data)
		if wanted[name].ID == id && !b.have[id] {
			if _, err := store.WriteBlob(data); err != nil {
				return "", nil, err
			}
		}
	}
	for _, e := range wanted {
		add(e.ID)
	}
	tree, err := writeTree(store, wanted, add)
	if err != nil {
		return "", nil, fmt.Errorf("status branch: %w", err)
	}
	me := b.cfg.Author
	me.When = time.Now()
	next := b.history.next(me.Name, me.When)
	c := gitstore.NewCommit{Tree: tree, Author: me, Committer: me}
	if b.tip == "" || reroot {
		next = history{}.next(me.Name, me.When)
	} else {
		c.Parents = []string{b.tip}
	}
	c.Message = message(changed) + next.trailers()
	if id, err = store.WriteCommit(c, b.cfg.Signer); err != nil {
		return "", nil, fmt.Errorf("status branch: %w", err)
	}
	update := gitstore.Update{Name: b.ref(), Old: b.tip, New: id}
	if err := store.Push(ctx, b.cfg.Remote, []gitstore.Update{update}, append(objects, id)); err != nil {
		return "", nil, err
	}
	b.history = next
	return id, have, nil
}

// read learns what the branch holds. Only its listing is used, never its content.
func (b *branch) read(ctx context.Context) error {
	b.tip, b.files, b.have = "", map[string]gitstore.TreeEntry{}, map[string]bool{}
	b.documents, b.history = nil, history{}
	store := gitstore.InMemory()
	tip, err := store.FetchTip(ctx, b.cfg.Remote, b.ref())
	if errors.Is(err, gitstore.ErrMissingRef) {
		b.known = true
		return nil
	}
	if err != nil {
		return err
	}
	tree, err := store.Tree(tip)
	if err != nil {
		return fmt.Errorf("status branch %s: %w", b.cfg.Branch, err)
	}
	if c, err := store.Commit(tip); err == nil {
		b.history = historyOf(c)
	}
	err = store.CheckTree(tip, branchLimits())
	if _, foreign := errors.AsType[*gitstore.ObjectError](err); foreign {
		b.known, b.tip = true, tip // nothing of ours: all of it is written again
		return nil
	}
	if err != nil {
		return fmt.Errorf("status branch %s: %w", b.cfg.Branch, err)
	}
	if err := b.list(tree, "."); err != nil {
		return fmt.Errorf("status branch %s: %w", b.cfg.Branch, err)
	}
	if b.cfg.Keys != nil {
		// What was tampered with is written again like anything that differs.
		if b.documents, _, err = readDocuments(tree, b.cfg.Keys); err != nil {
			return fmt.Errorf("status branch %s: %w", b.cfg.Branch, err)
		}
	}
	b.known, b.tip = true, tip
	return nil
}

// branchLimits are wide: what the branch holds grows with the flock.
func branchLimits() gitstore.Limits {
	limits := gitstore.DefaultLimits()
	limits.Files, limits.BlobBytes = 1<<20, 64<<20
	return limits
}

func (b *branch) list(tree *gitstore.Tree, dir string) error {
	id, _ := tree.Hash(dir)
	b.have[id] = true
	entries, err := tree.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if e.IsDir() {
			if err := b.list(tree, name); err != nil {
				return err
			}
			continue
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		mode := gitstore.ModeFile
		if info.Mode()&0o100 != 0 {
			mode = gitstore.ModeExecutable
		}
		id, _ := tree.Hash(name)
		b.have[id] = true
		b.files[name] = gitstore.TreeEntry{Mode: mode, ID: id}
	}
	return nil
}

func message(changed []string) string {
	var m strings.Builder
	fmt.Fprintf(&m, "status: %d files\n\n", len(changed))
	for _, name := range changed[:min(len(changed), maxListed)] {
		fmt.Fprintf(&m, "%s\n", name)
	}
	if more := len(changed) - maxListed; more > 0 {
		fmt.Fprintf(&m, "and %d more\n", more)
	}
	return m.String()
}

// differences returns the paths whose entries differ, sorted.
func differences(a, b map[string]gitstore.TreeEntry) []string {
	changed := map[string]bool{}
	for name, e := range a {
		if b[name] != e {
			changed[name] = true
		}
	}
	for name, e := range b {
		if a[name] != e {
			changed[name] = true
		}
	}
	return slices.Sorted(maps.Keys(changed))
}

// writeTree stores the directories of files (path to entry) and tells add of each one's id.
func writeTree(store *gitstore.Store, files map[string]gitstore.TreeEntry, add func(id string)) (string, error) {
	var entries []gitstore.TreeEntry
	below := map[string]map[string]gitstore.TreeEntry{}
	for name, e := range files {
		dir, rest, nested := strings.Cut(name, "/")
		if !nested {
			e.Name = name
			entries = append(entries, e)
			continue
		}
		if below[dir] == nil {
			below[dir] = map[string]gitstore.TreeEntry{}
		}
		below[dir][rest] = e
	}
	for dir, sub := range below {
		id, err := writeTree(store, sub, add)
		if err != nil {
			return "", fmt.Errorf("%s/%w", dir, err)
		}
		entries = append(entries, gitstore.TreeEntry{Mode: gitstore.ModeDir, Name: dir, ID: id})
	}
	id, err := store.WriteTree(entries)
	if err != nil {
		return "", err
	}
	add(id)
	return id, nil
}
