package gitstore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
)

// The modes that a tree may hold.
const (
	ModeFile       = "100644"
	ModeExecutable = "100755"
	ModeDir        = "40000"

	modeCommit = "160000" // a submodule
)

// TreeEntry is one line of a tree object.
type TreeEntry struct {
	Mode string // as in the object: "100644", "40000"
	Name string
	ID   string // full hex object id
}

// Tree is the content of a commit as a read-only file system. It is safe for use by several
// goroutines. Symbolic links and submodules can be listed, but not opened.
type Tree struct {
	store *Store
	root  plumbing.Hash

	mu   sync.Mutex
	dirs map[plumbing.Hash]*listing
}

var (
	_ fs.ReadFileFS = (*Tree)(nil)
	_ fs.ReadDirFS  = (*Tree)(nil)
	_ fs.StatFS     = (*Tree)(nil)
)

type listing struct {
	entries []TreeEntry // in the tree's order
	byName  map[string]int
}

// Tree opens the content of a commit.
func (s *Store) Tree(commit string) (*Tree, error) {
	c, err := s.Commit(commit)
	if err != nil {
		return nil, err
	}
	root, err := parseID(c.Tree)
	if err != nil {
		return nil, err
	}
	t := &Tree{store: s, root: root, dirs: map[plumbing.Hash]*listing{}}
	if _, err := t.dir(root); err != nil {
		return nil, err
	}
	return t, nil
}

// Hash returns the object id of a file or directory without reading it. The root is ".".
func (t *Tree) Hash(name string) (string, bool) {
	e, err := t.find("hash", name)
	return e.ID, err == nil
}

// Open implements [fs.FS].
func (t *Tree) Open(name string) (fs.File, error) {
	e, err := t.find("open", name)
	if err != nil {
		return nil, err
	}
	if e.Mode == ModeDir {
		entries, err := t.ReadDir(name)
		if err != nil {
			return nil, err
		}
		return &openDir{info: t.info(e), entries: entries}, nil
	}
	data, err := t.blob("open", name, e)
	if err != nil {
		return nil, err
	}
	info := t.info(e)
	info.size = int64(len(data))
	return &openFile{info: info, Reader: bytes.NewReader(data)}, nil
}

// ReadFile implements [fs.ReadFileFS]. The caller owns the slice.
func (t *Tree) ReadFile(name string) ([]byte, error) {
	e, err := t.find("read", name)
	if err != nil {
		return nil, err
	}
	return t.blob("read", name, e)
}

// ReadDir implements [fs.ReadDirFS].
func (t *Tree) ReadDir(name string) ([]fs.DirEntry, error) {
	e, err := t.find("readdir", name)
	if err != nil {
		return nil, err
	}
	if e.Mode != ModeDir {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: errors.New("not a directory")}
	}
	id, err := parseID(e.ID)
	if err != nil {
		return nil, err
	}
	l, err := t.dir(id)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	entries := make([]fs.DirEntry, len(l.entries))
	for i, e := range l.entries {
		entries[i] = dirEntry{t, path.Join(name, e.Name), e}
	}
	// Git sorts a directory as if its name ended in a slash; fs.ReadDirFS wants plain order.
	sortByName(entries)
	return entries, nil
}

// Stat implements [fs.StatFS]. It reads a file's size, not its content.
func (t *Tree) Stat(name string) (fs.FileInfo, error) {
	e, err := t.find("stat", name)
	if err != nil {
		return nil, err
	}
	return t.stat(name, e)
}

func (t *Tree) stat(name string, e TreeEntry) (fs.FileInfo, error) {
	info := t.info(e)
	if !info.mode.IsRegular() {
		return info, nil
	}
	id, err := parseID(e.ID)
	if err != nil {
		return nil, err
	}
	t.store.mu.Lock()
	defer t.store.mu.Unlock()
	if info.size, err = t.store.objects.EncodedObjectSize(id); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return info, nil
}

// find walks down to a name. A name that is not there is [fs.ErrNotExist].
func (t *Tree) find(op, name string) (TreeEntry, error) {
	if !fs.ValidPath(name) {
		return TreeEntry{}, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	e := TreeEntry{Mode: ModeDir, Name: ".", ID: t.root.String()}
	if name == "." {
		return e, nil
	}
	for part := range strings.SplitSeq(name, "/") {
		if e.Mode != ModeDir {
			return TreeEntry{}, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
		}
		id, err := parseID(e.ID)
		if err != nil {
			return TreeEntry{}, err
		}
		l, err := t.dir(id)
		if err != nil {
			return TreeEntry{}, &fs.PathError{Op: op, Path: name, Err: err}
		}
		i, ok := l.byName[part]
		if !ok {
			return TreeEntry{}, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
		}
		e = l.entries[i]
	}
	return e, nil
}

func (t *Tree) dir(id plumbing.Hash) (*listing, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.dirs[id]; l != nil {
		return l, nil
	}
	t.store.mu.Lock()
	entries, err := t.store.treeLocked(id)
	t.store.mu.Unlock()
	if err != nil {
		return nil, err
	}
	l := &listing{entries: entries, byName: make(map[string]int, len(entries))}
	for i, e := range entries {
		l.byName[e.Name] = i
	}
	t.dirs[id] = l
	return l, nil
}

func (t *Tree) blob(op, name string, e TreeEntry) ([]byte, error) {
	switch e.Mode {
	case ModeFile, ModeExecutable:
	case ModeDir:
		return nil, &fs.PathError{Op: op, Path: name, Err: errors.New("is a directory")}
	default:
		return nil, &fs.PathError{Op: op, Path: name, Err: fmt.Errorf("is %s, which is never followed", modeName(e.Mode))}
	}
	id, err := parseID(e.ID)
	if err != nil {
		return nil, err
	}
	t.store.mu.Lock()
	defer t.store.mu.Unlock()
	data, err := t.store.rawLocked(id, plumbing.BlobObject)
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return data, nil
}

func (t *Tree) info(e TreeEntry) fileInfo {
	mode := fs.ModeIrregular
	switch e.Mode {
	case ModeFile:
		mode = 0o644
	case ModeExecutable:
		mode = 0o755
	case ModeDir:
		mode = fs.ModeDir | 0o755
	case "120000":
		mode = fs.ModeSymlink | 0o777
	}
	return fileInfo{name: e.Name, mode: mode}
}

// treeLocked parses a tree object: every entry whole, nothing behind the last. What the entries may
// be is for CheckTree to say.
func (s *Store) treeLocked(id plumbing.Hash) ([]TreeEntry, error) {
	raw, err := s.rawLocked(id, plumbing.TreeObject)
	if err != nil {
		return nil, err
	}
	entries, ok := parseTree(raw)
	if !ok {
		return nil, &ObjectError{ID: id.String(), Reason: "is a malformed tree"}
	}
	return entries, nil
}

func parseTree(raw []byte) (entries []TreeEntry, ok bool) {
	for len(raw) > 0 {
		head, rest, ok := bytes.Cut(raw, []byte{0})
		mode, name, ok2 := strings.Cut(string(head), " ")
		var id plumbing.Hash
		if !ok || !ok2 || len(rest) < len(id) {
			return nil, false
		}
		raw = rest[copy(id[:], rest):]
		entries = append(entries, TreeEntry{Mode: mode, Name: name, ID: id.String()})
	}
	return entries, true
}

type fileInfo struct {
	name string
	size int64
	mode fs.FileMode
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return i.size }
func (i fileInfo) Mode() fs.FileMode  { return i.mode }
func (i fileInfo) ModTime() time.Time { return time.Time{} } // git keeps none
func (i fileInfo) IsDir() bool        { return i.mode.IsDir() }
func (i fileInfo) Sys() any           { return nil }

type dirEntry struct {
	tree *Tree
	path string
	TreeEntry
}

func (d dirEntry) Name() string               { return d.TreeEntry.Name }
func (d dirEntry) IsDir() bool                { return d.Mode == ModeDir }
func (d dirEntry) Type() fs.FileMode          { return d.tree.info(d.TreeEntry).mode.Type() }
func (d dirEntry) Info() (fs.FileInfo, error) { return d.tree.stat(d.path, d.TreeEntry) }

type openFile struct {
	info fileInfo
	*bytes.Reader
}

func (f *openFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *openFile) Close() error               { return nil }

type openDir struct {
	info    fileInfo
	entries []fs.DirEntry
}

func (d *openDir) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *openDir) Close() error               { return nil }
func (d *openDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.info.name, Err: errors.New("is a directory")}
}

// ReadDir implements [fs.ReadDirFile].
func (d *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if n <= 0 {
		n = len(d.entries)
	} else if len(d.entries) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.entries))
	entries := d.entries[:n:n]
	d.entries = d.entries[n:]
	return entries, nil
}
