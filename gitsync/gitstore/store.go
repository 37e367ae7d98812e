// Package gitstore keeps the history of the config repository in one bare store on disk, and talks
// Git's protocol with its remote.
//
// Nothing is ever checked out: files are read through objects. What a remote sends is believed as
// little as possible: object ids are recomputed with collision detection, commits and trees are
// parsed strictly, packs are bounded before they are unpacked, and a reference is recorded only
// after all that it needs is on the disk. Whether a commit may be followed is decided elsewhere.
package gitstore

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"github.com/go-git/go-git/v5/storage/memory"
	"github.com/pjbgf/sha1cd"

	"github.com/pleachdev/pleach/state/durable"
)

// objectCacheSize bounds the memory that recently read objects take.
const objectCacheSize = 8 * cache.MiByte

// Store is a bare repository. All methods may be called by several goroutines at once; the objects
// have one owner at a time, and the network is never waited for while holding them.
type Store struct {
	dir   string // "" when in memory
	cache cache.Object

	mu      sync.Mutex // guards all below: go-git's storage is for one goroutine
	objects storer.EncodedObjectStorer
	levels  map[plumbing.Hash]int64
	checked map[checkedTree]treeSize
	damaged bool // a tree or blob was missing that an object here names

	dialects dialects
}

// Open opens the store in dir, and creates it when there is none. What a crash has left half
// written is removed. One process at a time owns a store.
func Open(dir string) (*Store, error) {
	for _, sub := range []string{"objects/pack", "refs/heads", "refs/pleach"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("git store: %w", err)
		}
	}
	// A bare repository for git itself too, so that a person can look into it with git log.
	for name, content := range map[string]string{
		"HEAD":   "ref: refs/heads/main\n",
		"config": "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n",
	} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			if err := durable.WriteFile(path, []byte(content)); err != nil {
				return nil, fmt.Errorf("git store: %w", err)
			}
		}
	}
	if err := sweep(dir); err != nil {
		return nil, fmt.Errorf("git store: %w", err)
	}
	s := newStore(dir)
	s.reopenLocked()
	return s, nil
}

// InMemory returns an empty store that lives as long as it is referenced: for a handful of objects
// that are pushed and then forgotten.
func InMemory() *Store {
	s := newStore("")
	s.objects = memory.NewStorage()
	return s
}

func newStore(dir string) *Store {
	return &Store{
		dir:     dir,
		cache:   cache.NewObjectLRU(objectCacheSize),
		levels:  map[plumbing.Hash]int64{},
		checked: map[checkedTree]treeSize{},
	}
}

// reopenLocked makes the packs that were added or removed known to go-git.
func (s *Store) reopenLocked() {
	if s.dir == "" {
		return
	}
	if old, ok := s.objects.(io.Closer); ok {
		_ = old.Close() // only read from
	}
	s.objects = filesystem.NewStorageWithOptions(osfs.New(s.dir), s.cache,
		filesystem.Options{KeepDescriptors: true})
}

// Close releases the open packs.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.objects.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// Dir is where the bare repository lies; "" when it is in memory.
func (s *Store) Dir() string { return s.dir }

// sweep removes what a killed process leaves behind: temporary files, and indexes whose pack was
// not moved into place.
func sweep(dir string) error {
	packs := filepath.Join(dir, "objects", "pack")
	entries, err := os.ReadDir(packs)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		stale := strings.HasPrefix(name, "tmp_")
		if base, ok := strings.CutSuffix(name, ".idx"); ok {
			_, err := os.Stat(filepath.Join(packs, base+".pack"))
			stale = errors.Is(err, os.ErrNotExist)
		}
		if stale {
			if err := os.Remove(filepath.Join(packs, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// rawLocked reads one object and recomputes its id, so that neither a damaged disk nor a collision
// gets any further. It returns an [*ObjectError] for an object that is wrong, and for a commit that
// is missing.
func (s *Store) rawLocked(id plumbing.Hash, want plumbing.ObjectType) ([]byte, error) {
	o, err := s.objects.EncodedObject(plumbing.AnyObject, id)
	if err != nil {
		if errors.Is(err, plumbing.ErrObjectNotFound) {
			if want != plumbing.CommitObject {
				s.damaged = true
				return nil, fmt.Errorf("git store: %s %s: %w", want, id, ErrIncomplete)
			}
			return nil, &ObjectError{ID: id.String(), Reason: "is not in the store", Missing: true}
		}
		return nil, fmt.Errorf("git store: read %s: %w", id, err)
	}
	if o.Type() != want {
		return nil, &ObjectError{ID: id.String(), Reason: fmt.Sprintf("is a %s where a %s belongs", o.Type(), want)}
	}
	r, err := o.Reader()
	if err != nil {
		return nil, fmt.Errorf("git store: read %s: %w", id, err)
	}
	data := make([]byte, o.Size())
	_, err = io.ReadFull(r, data)
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("git store: read %s: %w", id, err)
	}
	got, err := objectID(want, data)
	if err != nil {
		return nil, err
	}
	if got != id {
		return nil, &ObjectError{ID: id.String(), Reason: fmt.Sprintf("content hashes to %s", got)}
	}
	return data, nil
}

// objectID computes an object's id and refuses content that was made to collide.
func objectID(t plumbing.ObjectType, data []byte) (plumbing.Hash, error) {
	h := sha1cd.New()
	_, _ = fmt.Fprintf(h, "%s %d\x00", t, len(data)) // a hash takes every write
	_, _ = h.Write(data)
	var id plumbing.Hash
	sum, collides := h.(sha1cd.CollisionResistantHash).CollisionResistantSum(nil)
	copy(id[:], sum)
	if collides {
		return id, &ObjectError{ID: id.String(), Reason: "content carries a SHA-1 collision attack"}
	}
	return id, nil
}

// parseID accepts a full lower-case hex object id.
func parseID(id string) (plumbing.Hash, error) {
	var h plumbing.Hash
	if len(id) != hex.EncodedLen(len(h)) || strings.ToLower(id) != id {
		return h, &ObjectError{ID: id, Reason: "is not a full object id"}
	}
	if _, err := hex.Decode(h[:], []byte(id)); err != nil {
		return h, &ObjectError{ID: id, Reason: "is not a full object id"}
	}
	return h, nil
}

// refPath is the file that records what was last fetched of a remote's ref. The name is a hash so
// that no ref name of a remote ever becomes a path.
func (s *Store) refPath(r Remote, ref string) string {
	sum := sha256.Sum256([]byte(r.String() + "\x00" + ref))
	return filepath.Join(s.dir, "refs", "pleach", hex.EncodeToString(sum[:8]))
}
