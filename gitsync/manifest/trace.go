package manifest

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"

	"github.com/pleachdev/pleach/gitsync/v1alpha1"
)

// MaxFileSize is the largest file that is read, in bytes.
const MaxFileSize = 2 << 20

var errTooLarge = fmt.Errorf("larger than %d MiB: split the file", MaxFileSize>>20)

// Hasher is what a tree may implement to spare reading: Hash gives the object id of a file's
// content, false when the name is no file of the tree.
type Hasher interface {
	Hash(name string) (string, bool)
}

// Trace is everything that a rendering depends on. Two renderings with equal keys are equal.
type Trace struct {
	Version int32        // spec.version of the cluster
	App     v1alpha1.App // its namespace and path are inputs as well
	Reads   []Read       // sorted by path, each path once
}

// Read is one look-up in the tree and what was found there: "absent", "refused" (a symbolic link, say),
// "file", "dir", or with the content "file:<hash>" and "dir:<hash of the names and types in it>".
type Read struct {
	Path  string
	Found string
}

const (
	foundNothing = "absent"
	foundRefused = "refused"
	foundFile    = "file"
	foundDir     = "dir"
)

// Key is a hash of the trace: 64 hex digits. Trees with and without a Hash method give different
// keys for the same content.
func (t Trace) Key() string {
	h := sha256.New()
	fmt.Fprintf(h, "%d %q %q %q\n", t.Version, t.App.Name, t.App.Path, t.App.Namespace)
	for _, r := range t.Reads {
		fmt.Fprintf(h, "%q %s\n", r.Path, r.Found)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Unchanged says whether every read would find the same in tree. The caller compares Version and
// App itself: they are not in the tree's files as far as the trace knows.
func (t Trace) Unchanged(tree fs.FS) bool {
	r := newReader(tree)
	for _, read := range t.Reads {
		was, _, deep := strings.Cut(read.Found, ":")
		if kind, _ := r.kind(read.Path); kind != was { // its error says why it was refused
			return false
		}
		switch {
		case !deep:
			continue
		case was == foundDir:
			_, _ = r.readDir(read.Path) // an error leaves the hash unknown, which differs
		case !r.hashFile(read.Path):
			_, _ = r.readFile(read.Path)
		}
		if r.found[read.Path] != read.Found {
			return false
		}
	}
	return true
}

// Paths yields every path that was looked at, files, folders and absences alike, sorted.
func (t Trace) Paths() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, r := range t.Reads {
			if !yield(r.Path) {
				return
			}
		}
	}
}

// reader reads a tree and remembers what it found. It follows no symbolic link.
type reader struct {
	tree  fs.FS
	found map[string]string
	links map[string]fs.FileMode // of folders that were found to be no link
}

func newReader(tree fs.FS) *reader {
	return &reader{tree: tree, found: map[string]string{}, links: map[string]fs.FileMode{}}
}

func (r *reader) reads() []Read {
	reads := make([]Read, 0, len(r.found))
	for p, f := range r.found {
		reads = append(reads, Read{Path: p, Found: f})
	}
	slices.SortFunc(reads, func(a, b Read) int { return cmp.Compare(a.Path, b.Path) })
	return reads
}

// note keeps the deepest knowledge of a path.
func (r *reader) note(name, found string) {
	if len(found) > len(r.found[name]) || r.found[name] == foundNothing {
		r.found[name] = found
	}
}

// lstat describes name, after every folder above it was seen to be no link. Its errors leave the name
// out.
func (r *reader) lstat(name string) (fs.FileInfo, error) {
	if !fs.ValidPath(name) {
		return nil, errors.New("leaves the repository")
	}
	for i := range len(name) {
		if name[i] != '/' {
			continue
		}
		dir := name[:i]
		mode, seen := r.links[dir]
		if !seen {
			info, err := fs.Lstat(r.tree, dir)
			if err != nil {
				return nil, err
			}
			mode = info.Mode()
			r.links[dir] = mode
		}
		if mode&fs.ModeSymlink != 0 {
			return nil, fmt.Errorf("its folder %s is a symbolic link, and links are not followed: put the files themselves there", dir)
		}
	}
	info, err := fs.Lstat(r.tree, name)
	if err != nil {
		return nil, err
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		return nil, errors.New("is a symbolic link, and links are not followed: put the file itself there")
	case !info.IsDir() && !info.Mode().IsRegular():
		return nil, errors.New("is neither a file nor a folder (a submodule?): put the files themselves there")
	}
	return info, nil
}

// kind is foundNothing, foundFile or foundDir, and foundRefused with every error.
func (r *reader) kind(name string) (string, error) {
	info, err := r.lstat(name)
	kind := foundNothing
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	case err != nil:
		kind = foundRefused
	case info.IsDir():
		kind = foundDir
	default:
		kind = foundFile
	}
	r.note(name, kind)
	return kind, err
}

func (r *reader) readDir(name string) ([]fs.DirEntry, error) {
	if _, err := r.kind(name); err != nil {
		return nil, err
	}
	entries, err := fs.ReadDir(r.tree, name)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	h := sha256.New()
	for _, e := range entries {
		fmt.Fprintf(h, "%q %s\n", e.Name(), e.Type())
	}
	r.note(name, foundDir+":"+hex.EncodeToString(h.Sum(nil)))
	return entries, nil
}

// hashFile notes the tree's own hash of a file, without reading it.
func (r *reader) hashFile(name string) bool {
	if h, ok := r.tree.(Hasher); ok {
		if hash, ok := h.Hash(name); ok {
			r.note(name, foundFile+":"+hash)
			return true
		}
	}
	return false
}

func (r *reader) readFile(name string) ([]byte, error) {
	kind, err := r.kind(name)
	switch {
	case err != nil:
		return nil, err
	case kind == foundNothing:
		return nil, errors.New("no such file in the repository")
	case kind == foundDir:
		return nil, errors.New("want a file, got a folder")
	}
	hashed := r.hashFile(name)
	if info, err := r.lstat(name); hashed && err == nil && info.Size() > MaxFileSize {
		return nil, errTooLarge
	}
	f, err := r.tree.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	if err != nil {
		return nil, err
	}
	if !hashed {
		sum := sha256.Sum256(data)
		r.note(name, foundFile+":"+hex.EncodeToString(sum[:]))
	}
	if len(data) > MaxFileSize {
		return nil, errTooLarge
	}
	return data, nil
}

// within joins a reference found in a file of dir to a path of the tree. An absolute reference or one
// that climbs out is an error.
func within(dir, ref string) (string, error) {
	if path.IsAbs(ref) {
		return "", fmt.Errorf("%q is an absolute path: write it relative to %s", ref, dir)
	}
	p := path.Join(dir, ref)
	if !fs.ValidPath(p) {
		return "", fmt.Errorf("%q leaves the repository: keep what it names inside", ref)
	}
	return p, nil
}
