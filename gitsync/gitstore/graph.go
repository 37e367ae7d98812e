package gitstore

import (
	"bytes"

	"github.com/go-git/go-git/v5/plumbing"
)

// Level is a commit's generation number: 1 for a root, else one more than the largest of its
// parents. It needs the whole history and reads every commit once in the store's life.
func (s *Store) Level(id string) (int64, error) {
	h, err := parseID(id)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.levelLocked(h)
}

func (s *Store) levelLocked(id plumbing.Hash) (int64, error) {
	// Depth first with a stack of our own: a history is deeper than a goroutine should recurse.
	stack := []plumbing.Hash{id}
	for len(stack) > 0 {
		top := stack[len(stack)-1]
		if s.levels[top] != 0 {
			stack = stack[:len(stack)-1]
			continue
		}
		parents, err := s.parentsLocked(top)
		if err != nil {
			return 0, err
		}
		level, ready := int64(1), true
		for _, p := range parents {
			l := s.levels[p]
			if l == 0 {
				stack, ready = append(stack, p), false
			}
			level = max(level, l+1)
		}
		if ready {
			s.levels[top] = level
			stack = stack[:len(stack)-1]
		}
	}
	return s.levels[id], nil
}

// Parents lists a commit's parents in its order, and reads no more of it: so that a commit which
// [Store.Commit] refuses can be passed on the way through a history.
func (s *Store) Parents(id string) ([]string, error) {
	h, err := parseID(id)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	parents, err := s.parentsLocked(h)
	if err != nil {
		return nil, err
	}
	ids := make([]string, len(parents))
	for i, p := range parents {
		ids[i] = p.String()
	}
	return ids, nil
}

// parentsLocked reads no more of a commit than its parents, which come right after the tree: a
// history from before Pleach may hold commits that the strict parser refuses.
func (s *Store) parentsLocked(id plumbing.Hash) ([]plumbing.Hash, error) {
	raw, err := s.rawLocked(id, plumbing.CommitObject)
	if err != nil {
		return nil, err
	}
	var parents []plumbing.Hash
	for i, line := range bytes.SplitAfter(raw, []byte("\n")) {
		if i == 0 {
			continue
		}
		value, ok := bytes.CutPrefix(line, []byte("parent "))
		if !ok {
			break
		}
		p, err := parseID(string(bytes.TrimSuffix(value, []byte("\n"))))
		if err != nil {
			return nil, &ObjectError{ID: id.String(), Reason: `has a malformed object id in the header "parent"`}
		}
		parents = append(parents, p)
	}
	return parents, nil
}

// IsAncestor reports whether a commit is reachable from another one along any parents; a commit is
// its own ancestor.
func (s *Store) IsAncestor(ancestor, of string) (bool, error) {
	a, err := parseID(ancestor)
	if err != nil {
		return false, err
	}
	o, err := parseID(of)
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.isAncestorLocked(a, o)
}

func (s *Store) isAncestorLocked(ancestor, of plumbing.Hash) (bool, error) {
	floor, err := s.levelLocked(ancestor)
	if err != nil {
		return false, err
	}
	if _, err := s.levelLocked(of); err != nil {
		return false, err
	}
	// Levels fall along every parent, so nothing at or below the ancestor's leads to it.
	seen := map[plumbing.Hash]bool{of: true}
	queue := []plumbing.Hash{of}
	for len(queue) > 0 {
		id := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if id == ancestor {
			return true, nil
		}
		if s.levels[id] <= floor {
			continue
		}
		parents, err := s.parentsLocked(id)
		if err != nil {
			return false, err
		}
		for _, p := range parents {
			if !seen[p] {
				seen[p] = true
				queue = append(queue, p)
			}
		}
	}
	return false, nil
}
