package gitstore

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-git/go-git/v5/plumbing"
)

// Limits bound what a commit may contain.
type Limits struct {
	BlobBytes int64 // of one file
	Files     int64 // in the whole tree
	Depth     int   // directories below each other, the root being 1
	NameBytes int   // of one path element
}

// DefaultLimits are those of a config repository.
func DefaultLimits() Limits {
	return Limits{BlobBytes: 8 << 20, Files: 20_000, Depth: 32, NameBytes: 255}
}

const (
	maxTreeBytes  = 16 << 20 // of one directory listing
	maxRemembered = 1 << 16  // trees that were found good
)

type checkedTree struct {
	id     plumbing.Hash
	limits Limits
}

// treeSize is what a tree adds to the limits of those above it.
type treeSize struct {
	files int64
	depth int
}

// CheckTree refuses a commit whose tree holds anything but files and directories with harmless
// names, sorted and once each, within limits. It errors with an [*ObjectError] naming the path.
// What was found good once is not read again. [ErrIncomplete] leaves the question open.
func (s *Store) CheckTree(commit string, limits Limits) error {
	c, err := s.Commit(commit)
	if err != nil {
		return err
	}
	root, err := parseID(c.Tree)
	if err != nil {
		return err
	}
	k := treeChecker{store: s, limits: limits}
	size, err := k.dir(root, ".", 1)
	if err != nil {
		return err
	}
	return k.within(root, ".", size, 0)
}

type treeChecker struct {
	store  *Store
	limits Limits
}

func (k treeChecker) dir(id plumbing.Hash, dir string, depth int) (treeSize, error) {
	key := checkedTree{id, k.limits}
	entries, size, known, err := k.read(key, dir)
	if err != nil || known {
		return size, err
	}
	for _, e := range entries {
		if e.Mode != ModeDir {
			size.files++
			continue
		}
		if depth == k.limits.Depth {
			return size, &ObjectError{
				ID: e.ID, Path: path.Join(dir, e.Name),
				Reason: fmt.Sprintf("lies more than %d directories deep", k.limits.Depth),
			}
		}
		sub, err := parseID(e.ID)
		if err != nil {
			return size, err
		}
		below, err := k.dir(sub, path.Join(dir, e.Name), depth+1)
		if err != nil {
			return size, err
		}
		size.files += below.files
		size.depth = max(size.depth, below.depth)
		// Checked on the way too: nested trees that repeat each other grow without bound.
		if err := k.within(id, dir, size, depth); err != nil {
			return size, err
		}
	}
	size.depth++
	k.store.mu.Lock()
	defer k.store.mu.Unlock()
	if len(k.store.checked) >= maxRemembered {
		clear(k.store.checked)
	}
	k.store.checked[key] = size
	return size, nil
}

// within holds what is below a directory, which lies depth directories deep, against the limits.
func (k treeChecker) within(id plumbing.Hash, dir string, size treeSize, depth int) error {
	e := &ObjectError{ID: id.String(), Path: dir}
	switch {
	case size.files > k.limits.Files:
		e.Reason = fmt.Sprintf("holds more than %d files", k.limits.Files)
	case depth+size.depth > k.limits.Depth:
		e.Reason = fmt.Sprintf("goes more than %d directories deep", k.limits.Depth)
	default:
		return nil
	}
	return e
}

// read takes one directory and judges its entries. The store is held for one directory at a time,
// so that a large tree does not keep others waiting.
func (k treeChecker) read(key checkedTree, dir string) (entries []TreeEntry, size treeSize, known bool, err error) {
	s := k.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if size, ok := s.checked[key]; ok {
		return nil, size, true, nil
	}
	n, err := s.objects.EncodedObjectSize(key.id)
	if err == nil && n > maxTreeBytes {
		return nil, size, false, &ObjectError{
			ID: key.id.String(), Path: dir,
			Reason: fmt.Sprintf("is a listing of %d bytes, more than the limit of %d", n, maxTreeBytes),
		}
	}
	entries, err = s.treeLocked(key.id)
	if err != nil {
		if oe, ok := errors.AsType[*ObjectError](err); ok {
			oe.Path = dir
		}
		return nil, size, false, err
	}
	if i, reason := badEntry(entries, k.limits); reason != "" {
		return nil, size, false, &ObjectError{ID: entries[i].ID, Path: refusedPath(dir, entries[i].Name), Reason: reason}
	}
	for _, e := range entries {
		id, err := parseID(e.ID)
		if err != nil {
			return nil, size, false, err
		}
		if e.Mode == ModeDir {
			continue
		}
		n, err := s.objects.EncodedObjectSize(id)
		switch {
		case errors.Is(err, plumbing.ErrObjectNotFound):
			s.damaged = true
			return nil, size, false, fmt.Errorf("git store: blob %s, %s: %w", id, path.Join(dir, e.Name), ErrIncomplete)
		case err != nil:
			return nil, size, false, fmt.Errorf("git store: read %s: %w", id, err)
		case n > k.limits.BlobBytes:
			return nil, size, false, &ObjectError{
				ID: e.ID, Path: path.Join(dir, e.Name),
				Reason: fmt.Sprintf("has %d bytes, more than the limit of %d: split the file", n, k.limits.BlobBytes),
			}
		}
	}
	return entries, size, false, nil
}

// badEntry finds the first entry that does not belong into a tree, and says why.
func badEntry(entries []TreeEntry, limits Limits) (i int, reason string) {
	seen := make(map[string]bool, len(entries))
	for i, e := range entries {
		switch e.Mode {
		case ModeFile, ModeExecutable, ModeDir:
		default:
			return i, fmt.Sprintf("is %s; only files and directories are allowed", modeName(e.Mode))
		}
		if reason := badName(e.Name, limits.NameBytes); reason != "" {
			return i, reason
		}
		if seen[e.Name] {
			return i, "stands in its directory twice"
		}
		seen[e.Name] = true
		if i > 0 && compareEntries(entries[i-1], e) >= 0 {
			return i, "stands in its directory in the wrong order"
		}
	}
	return 0, ""
}

func modeName(mode string) string {
	switch mode {
	case "120000":
		return "a symbolic link"
	case modeCommit:
		return "a submodule"
	}
	return fmt.Sprintf("of the mode %.10q", mode)
}

// compareEntries is Git's order: a directory sorts as if its name ended in a slash.
func compareEntries(a, b TreeEntry) int { return cmp.Compare(sortName(a), sortName(b)) }

func sortName(e TreeEntry) string {
	if e.Mode == ModeDir {
		return e.Name + "/"
	}
	return e.Name
}

func badName(name string, limit int) string {
	switch {
	case name == "", name == ".", name == "..":
		return "has a name that leads elsewhere"
	case len(name) > limit:
		return fmt.Sprintf("has a name of %d bytes, more than the limit of %d", len(name), limit)
	case !utf8.ValidString(name):
		return "has a name that is not UTF-8"
	case strings.ContainsAny(name, "/\\"):
		return "has a separator in its name"
	case strings.ContainsFunc(name, unicode.IsControl):
		return "has a control character in its name"
	case isDotGit(name):
		return "has a name that some file systems take for .git"
	}
	return ""
}

// isDotGit recognises .git in the disguises that git itself refuses: letter case, the short name
// and trailing dots, spaces and streams of NTFS, and the characters that HFS+ ignores.
func isDotGit(name string) bool {
	folded := strings.Map(func(r rune) rune {
		switch {
		case r >= 0x200c && r <= 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x206a && r <= 0x206f, r == 0xfeff:
			return -1
		}
		return unicode.ToLower(r)
	}, name)
	folded, _, _ = strings.Cut(folded, ":")
	folded = strings.TrimRight(folded, ". ")
	return folded == ".git" || folded == "git~1"
}

// refusedPath is not cleaned: that the name climbs is what its reader should see.
func refusedPath(dir, name string) string {
	if dir == "." {
		return printable(name)
	}
	return dir + "/" + printable(name)
}

// printable makes a name that is refused fit for a message.
func printable(name string) string {
	if utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsControl) {
		return name
	}
	return strings.Trim(strconv.QuoteToASCII(name), `"`)
}

func sortByName(entries []fs.DirEntry) {
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
}
