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
}

func (b *branch) ref() string { return "refs/heads/" + b.cfg.Branch }

// publish reads the branch when it is not known, and pushes one commit when it differs from what is
// wanted. After an error the branch counts as unknown: somebody else may have moved it, or the
// answer to a push that went well was lost.
func (b *branch) publish(ctx context.Context, files map[string][]byte) (commit string, pushed bool, err error) {
	defer func() {
		if err != nil {
			b.known = false
		}
	}()
	if !b.known {
		if err := b.read(ctx); err != nil {
			return "", false, err
		}
	}
	wanted := make(map[string]gitstore.TreeEntry, len(files))
	for name, e := range b.files {
		if !b.owns(name) {
			wanted[name] = e
		}
	}
	for name, data := range files {
		if !fs.ValidPath(name) || name == "." {
			return "", false, fmt.Errorf("status branch: %q is not a path below %q", name, path.Join("/", b.cfg.Prefix))
		}
		wanted[path.Join(b.cfg.Prefix, name)] = gitstore.TreeEntry{Mode: gitstore.ModeFile, ID: gitstore.BlobID(data)}
	}
	changed := differences(b.files, wanted)
	if len(changed) == 0 {
		return b.tip, false, nil
	}
	// A store of its own for each commit: what is pushed need not be kept.
	store := gitstore.InMemory()
	var objects []string
	have := map[string]bool{}
	add := func(id string) {
		if !b.have[id] && !have[id] {
			objects = append(objects, id)
		}
		have[id] = true
	}
	for _, data := range files {
		id := gitstore.BlobID(data)
		if !b.have[id] {
			if _, err := store.WriteBlob(data); err != nil {
				return "", false, err
			}
		}
	}
	for _, e := range wanted {
		add(e.ID)
	}
	tree, err := writeTree(store, wanted, add)
	if err != nil {
		return "", false, fmt.Errorf("status branch: %w", err)
	}
	me := b.cfg.Author
	me.When = time.Now()
	c := gitstore.NewCommit{Tree: tree, Author: me, Committer: me, Message: b.message(changed)}
	if b.tip != "" {
		c.Parents = []string{b.tip}
	}
	id, err := store.WriteCommit(c, b.cfg.Signer)
	if err != nil {
		return "", false, fmt.Errorf("status branch: %w", err)
	}
	update := gitstore.Update{Name: b.ref(), Old: b.tip, New: id}
	if err := store.Push(ctx, b.cfg.Remote, []gitstore.Update{update}, append(objects, id)); err != nil {
		return "", false, err
	}
	b.tip, b.files, b.have = id, wanted, have
	return id, true, nil
}

func (b *branch) owns(name string) bool {
	return b.cfg.Prefix == "" || strings.HasPrefix(name, b.cfg.Prefix+"/")
}

// read learns what the branch holds. Only its listing is used, never its content.
func (b *branch) read(ctx context.Context) error {
	b.tip, b.files, b.have = "", map[string]gitstore.TreeEntry{}, map[string]bool{}
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
	limits := gitstore.DefaultLimits()
	limits.Files, limits.BlobBytes = 1<<20, 64<<20
	if err := store.CheckTree(tip, limits); err != nil {
		// What is not ours must be kept as it is, and this cannot be written again.
		if b.cfg.Prefix != "" {
			return fmt.Errorf("status branch %s: %w; remove it, or delete the branch", b.cfg.Branch, err)
		}
		b.known, b.tip = true, tip
		return nil
	}
	if err := b.list(tree, "."); err != nil {
		return fmt.Errorf("status branch %s: %w", b.cfg.Branch, err)
	}
	b.known, b.tip = true, tip
	return nil
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

func (b *branch) message(changed []string) string {
	if b.cfg.Message != nil {
		return b.cfg.Message(changed)
	}
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
