package gitstore

import (
	"bytes"
	"container/heap"
	"errors"
	"fmt"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"
)

// object is one object of a pack to be made.
type object struct {
	id   plumbing.Hash
	kind plumbing.ObjectType
}

// reach lists what a reader lacks who has some commits with all their history, and wants another one:
// commits, trees and files, each once. haves that the store does not know are passed over. As git does,
// it looks at the trees of the border alone to see what the reader has, so that the cost grows with what
// is new and one tree, not with the history. More than limit objects are an error.
func (s *Store) reach(want plumbing.Hash, haves []plumbing.Hash, limit int) ([]object, error) {
	fresh, border, err := s.freshCommits(want, haves)
	if err != nil {
		return nil, err
	}
	w := reachWalk{store: s, seen: map[plumbing.Hash]bool{}, limit: limit}
	for _, id := range border {
		if err := w.tree(id, false); err != nil {
			return nil, err
		}
	}
	for _, id := range fresh {
		if err := w.add(object{id, plumbing.CommitObject}); err != nil {
			return nil, err
		}
	}
	for _, id := range fresh {
		if err := w.tree(id, true); err != nil {
			return nil, err
		}
	}
	return w.out, nil
}

// freshCommits parts the history of want: commits that no have reaches, and the border, which are their
// parents that one does.
func (s *Store) freshCommits(want plumbing.Hash, haves []plumbing.Hash) (fresh, border []plumbing.Hash, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.levelLocked(want); err != nil {
		return nil, nil, err
	}
	had := map[plumbing.Hash]bool{}
	queue := &byLevel{levels: s.levels}
	queued := map[plumbing.Hash]bool{want: true}
	heap.Push(queue, want)
	for _, id := range haves {
		if _, err := s.levelLocked(id); err != nil {
			if missing, ok := errors.AsType[*ObjectError](err); ok && missing.Missing {
				continue
			}
			return nil, nil, err
		}
		had[id] = true
		if !queued[id] {
			queued[id] = true
			heap.Push(queue, id)
		}
	}
	// Levels fall along every parent, so whether a commit is had is settled when it comes up.
	parents := map[plumbing.Hash]bool{}
	for slices.ContainsFunc(queue.ids, func(id plumbing.Hash) bool { return !had[id] }) {
		id := heap.Pop(queue).(plumbing.Hash)
		ps, err := s.parentsLocked(id)
		if err != nil {
			return nil, nil, err
		}
		if !had[id] {
			fresh = append(fresh, id)
		}
		for _, p := range ps {
			if had[id] {
				had[p] = true
			} else {
				parents[p] = true
			}
			if !queued[p] {
				queued[p] = true
				heap.Push(queue, p)
			}
		}
	}
	for p := range parents {
		if had[p] {
			border = append(border, p)
		}
	}
	return fresh, border, nil
}

// byLevel is a heap of commits, the largest level first.
type byLevel struct {
	ids    []plumbing.Hash
	levels map[plumbing.Hash]int64
}

func (h *byLevel) Len() int           { return len(h.ids) }
func (h *byLevel) Less(i, j int) bool { return h.levels[h.ids[i]] > h.levels[h.ids[j]] }
func (h *byLevel) Swap(i, j int)      { h.ids[i], h.ids[j] = h.ids[j], h.ids[i] }
func (h *byLevel) Push(x any)         { h.ids = append(h.ids, x.(plumbing.Hash)) }
func (h *byLevel) Pop() any {
	last := h.ids[len(h.ids)-1]
	h.ids = h.ids[:len(h.ids)-1]
	return last
}

// reachWalk collects trees and files. The store is held for one object at a time.
type reachWalk struct {
	store *Store
	seen  map[plumbing.Hash]bool
	out   []object
	limit int
}

func (w *reachWalk) add(o object) error {
	if w.seen[o.id] {
		return nil
	}
	w.seen[o.id] = true
	if w.out = append(w.out, o); len(w.out) > w.limit {
		return fmt.Errorf("git store: more than %d objects", w.limit)
	}
	return nil
}

// tree walks the tree of a commit, and lists it or only marks it as had.
func (w *reachWalk) tree(commit plumbing.Hash, list bool) error {
	root, err := w.store.treeOf(commit)
	if err != nil {
		return err
	}
	stack := []plumbing.Hash{root}
	for len(stack) > 0 {
		id := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if w.seen[id] {
			continue
		}
		entries, err := w.store.entries(id)
		if err != nil {
			return err
		}
		if err := w.mark(object{id, plumbing.TreeObject}, list); err != nil {
			return err
		}
		for _, e := range entries {
			below, err := parseID(e.ID)
			switch {
			case err != nil:
				return err
			case e.Mode == ModeDir:
				stack = append(stack, below)
			case e.Mode == modeCommit: // lies in another repository
			default:
				if err := w.mark(object{below, plumbing.BlobObject}, list); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (w *reachWalk) mark(o object, list bool) error {
	if list {
		return w.add(o)
	}
	w.seen[o.id] = true
	return nil
}

func (s *Store) entries(tree plumbing.Hash) ([]TreeEntry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.treeLocked(tree)
}

// treeOf reads no more of a commit than its tree, as parentsLocked does with the parents.
func (s *Store) treeOf(commit plumbing.Hash) (plumbing.Hash, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	raw, err := s.rawLocked(commit, plumbing.CommitObject)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	line, _, _ := bytes.Cut(raw, []byte("\n"))
	value, ok := bytes.CutPrefix(line, []byte("tree "))
	id, err := parseID(string(value))
	if !ok || err != nil {
		return plumbing.ZeroHash, &ObjectError{ID: commit.String(), Reason: `has no tree in its first line`}
	}
	return id, nil
}
