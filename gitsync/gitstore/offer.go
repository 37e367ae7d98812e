package gitstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/go-git/go-billy/v5"
	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/storer"
)

// maxOfferBytes bounds a pack of a peer. A history that is larger comes from the remote.
const maxOfferBytes = 128 << 20

// OfferError says that what a peer sent is not what was asked for.
type OfferError struct {
	Peer   string // its URL
	Reason string
}

func (e *OfferError) Error() string { return fmt.Sprintf("%s: %s", e.Peer, e.Reason) }

// Offer is a commit with its history, as a peer sent it: whole, and nothing in the store yet. A peer
// may be hostile where the remote is not, as nobody chose it; so what it sends is looked at first, and
// what is refused leaves nothing behind. The caller closes it.
type Offer struct {
	// Head is the commit that was asked for.
	Head string
	// Contains reports whether the history has the commit that the caller stands at.
	Contains bool

	store *Store
	view  *Store   // the store with what is offered
	pack  *os.File // nil when everything was in the store already
	index *idxfile.MemoryIndex
	base  string // where the pack will lie
	file  billy.File
}

// Ask fetches a commit from a peer, for a caller who stands at the commit since. It errors with
// [ErrUnreachable] when the peer did not deliver, in time or at all, and with an [*OfferError] when what
// it sent cannot be used: not a pack, too large, not whole, or with objects that the commit does not need.
func (s *Store) Ask(ctx context.Context, peer Remote, head, since string) (*Offer, error) {
	want, err := parseID(head)
	if err != nil {
		return nil, err
	}
	at, err := parseID(since)
	if err != nil {
		return nil, err
	}
	o := &Offer{Head: head, store: s, view: s}
	if s.loads(want, 0) != nil {
		l, err := peer.parse()
		if err != nil {
			return nil, err
		}
		haves := s.ancestors(at)
		if o.pack, err = s.download(ctx, l, peer, want, haves, 0, maxOfferBytes); err != nil {
			if tooLarge, ok := errors.AsType[*ObjectError](err); ok {
				err = &OfferError{peer.String(), tooLarge.Error()}
			}
			return nil, err
		}
	}
	if err := o.check(want, at); err != nil {
		o.Close()
		return nil, &OfferError{peer.String(), err.Error()}
	}
	return o, nil
}

// check finds what is wrong with an offer.
func (o *Offer) check(want, since plumbing.Hash) error {
	if o.pack != nil {
		if err := boundPack(o.pack); err != nil {
			return err
		}
		if _, err := o.pack.Seek(0, io.SeekStart); err != nil {
			return err
		}
		checksum, index, err := indexPack(o.pack)
		if err != nil {
			return err
		}
		o.index, o.base = index, o.store.packPath(checksum)
		if err := o.look(); err != nil {
			return err
		}
	}
	var err error
	if o.Contains, err = o.view.IsAncestor(since.String(), o.Head); err != nil || o.pack == nil {
		return err
	}
	// Nothing may be missing, and nothing may come along: the store keeps for ever what it has.
	needed, err := o.view.reach(want, []plumbing.Hash{since}, maxObjects)
	if err != nil {
		return err
	}
	wanted := make(map[plumbing.Hash]bool, len(needed))
	for _, n := range needed {
		wanted[n.id] = true
		if err := o.view.objects.HasEncodedObject(n.id); err != nil {
			return fmt.Errorf("%s %s is missing", n.kind, n.id)
		}
	}
	entries, err := o.index.Entries()
	if err != nil {
		return err
	}
	for {
		e, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !wanted[e.Hash] && !o.store.has(e.Hash) {
			return fmt.Errorf("object %s has nothing to do with commit %s", e.Hash, want)
		}
	}
}

// look makes the view.
func (o *Offer) look() error {
	fs := osfs.New("/")
	file, err := fs.Open(o.pack.Name())
	if err != nil {
		return err
	}
	o.file = file
	o.view = newStore("")
	o.view.objects = &layered{
		below: o.store,
		pack:  packfile.NewPackfileWithCache(o.index, nil, file, cache.NewObjectLRU(objectCacheSize), 0),
	}
	return nil
}

// Commit reads the offered commit.
func (o *Offer) Commit() (*Commit, error) { return o.view.Commit(o.Head) }

// IsAncestor is [Store.IsAncestor] with what is offered.
func (o *Offer) IsAncestor(ancestor, of string) (bool, error) { return o.view.IsAncestor(ancestor, of) }

// Take lets the offer into the store for judge to see. When judge refuses, it is taken out again as if
// it had never been there, and its error returned; else it stays, as if it had been fetched from the
// ref of the remote.
func (o *Offer) Take(r Remote, ref string, judge func() error) error {
	s := o.store
	id, err := parseID(o.Head)
	if err != nil {
		return err
	}
	placed := false
	if o.pack != nil {
		if placed, err = o.place(); err != nil {
			return fmt.Errorf("git store: %w", err)
		}
	}
	if err := judge(); err != nil {
		if placed {
			err = errors.Join(err, o.remove())
		}
		return err
	}
	if err := s.record(r, ref, id); err != nil {
		return fmt.Errorf("git store: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir == "" {
		return nil
	}
	return s.compactLocked()
}

// place reports whether the pack is new to the store.
func (o *Offer) place() (bool, error) {
	o.store.mu.Lock()
	defer o.store.mu.Unlock()
	if _, err := os.Stat(o.base + ".pack"); err == nil {
		return false, nil
	}
	return true, o.store.placeLocked(o.base, o.pack, o.index)
}

func (o *Offer) remove() error {
	s := o.store
	s.mu.Lock()
	defer s.mu.Unlock()
	err := errors.Join(os.Remove(o.base+".pack"), os.Remove(o.base+".idx"))
	// What is remembered of objects that are gone must go too.
	s.cache.Clear()
	clear(s.levels)
	clear(s.checked)
	s.reopenLocked()
	return err
}

// Close gives up what was not taken.
func (o *Offer) Close() {
	if o.file != nil {
		_ = o.file.Close() // only read from
	}
	if o.pack != nil {
		_ = o.pack.Close()           // read to its end
		_ = os.Remove(o.pack.Name()) // gone by its new name, or swept later
	}
}

func (s *Store) has(id plumbing.Hash) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.objects.HasEncodedObject(id) == nil
}

// layered is a store with a pack on top of it, for reading. It is guarded by the mutex of the view that
// it belongs to, and takes that of the store below while it reads there.
type layered struct {
	storer.EncodedObjectStorer // nothing else is asked of it
	below                      *Store
	pack                       *packfile.Packfile
}

func (l *layered) EncodedObject(kind plumbing.ObjectType, id plumbing.Hash) (plumbing.EncodedObject, error) {
	o, err := l.pack.Get(id)
	if !errors.Is(err, plumbing.ErrObjectNotFound) {
		return o, err
	}
	l.below.mu.Lock()
	defer l.below.mu.Unlock()
	if o, err = l.below.objects.EncodedObject(kind, id); err != nil {
		return nil, err
	}
	// Its content may be read later from the store's own files, which are for one goroutine.
	r, err := o.Reader()
	if err != nil {
		return nil, err
	}
	var data bytes.Buffer
	_, err = io.Copy(&data, r)
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	held := new(plumbing.MemoryObject)
	held.SetType(o.Type())
	_, err = held.Write(data.Bytes())
	return held, err
}

func (l *layered) HasEncodedObject(id plumbing.Hash) error {
	if _, err := l.pack.FindOffset(id); err == nil {
		return nil
	}
	l.below.mu.Lock()
	defer l.below.mu.Unlock()
	return l.below.objects.HasEncodedObject(id)
}
