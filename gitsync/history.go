package gitsync

import (
	"errors"
	"fmt"
	"slices"

	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/reconcile"
)

// errNotDescendant says that a head does not contain the commit that the walk starts from.
var errNotDescendant = errors.New("is not an ancestor")

// descent knows which commits contain a root. It remembers its answers.
type descent struct {
	store *gitstore.Store
	root  string
	level int64
	live  map[string]bool
}

func newDescent(store *gitstore.Store, root string) (*descent, error) {
	level, err := store.Level(root)
	if err != nil {
		return nil, err
	}
	return &descent{store: store, root: root, level: level, live: map[string]bool{root: true}}, nil
}

// contains reports whether the root is id or one of its ancestors.
func (d *descent) contains(id string) (bool, error) {
	// Depth first with a stack of its own: histories are deeper than goroutines should recurse.
	stack := []string{id}
	for len(stack) > 0 {
		top := stack[len(stack)-1]
		if _, known := d.live[top]; known {
			stack = stack[:len(stack)-1]
			continue
		}
		level, err := d.store.Level(top)
		if err != nil {
			return false, err
		}
		if level <= d.level { // levels fall along every parent
			d.live[top] = false
			continue
		}
		parents, err := d.store.Parents(top)
		if err != nil {
			return false, err
		}
		live, ready := false, true
		for _, p := range parents {
			known, ok := d.live[p]
			if !ok {
				stack, ready = append(stack, p), false
			}
			live = live || known
		}
		if ready || live {
			d.live[top] = live
		}
	}
	return d.live[id], nil
}

// followed is the first parent of id that contains the root.
func (d *descent) followed(id string) (string, error) {
	parents, err := d.store.Parents(id)
	if err != nil {
		return "", err
	}
	for _, p := range parents {
		ok, err := d.contains(p)
		if err != nil {
			return "", err
		}
		if ok {
			return p, nil
		}
	}
	return "", fmt.Errorf("commit %.12s: %.12s %w", id, d.root, errNotDescendant)
}

// path lists the commits after the root up to head, oldest first, along the followed parents.
func (d *descent) path(head string) ([]string, error) {
	var path []string
	for id := head; id != d.root; {
		path = append(path, id)
		next, err := d.followed(id)
		if err != nil {
			return nil, err
		}
		id = next
	}
	slices.Reverse(path)
	return path, nil
}

// place is what the rest of the agent knows of a commit.
func place(c *gitstore.Commit) reconcile.Commit {
	return reconcile.Commit{ID: c.ID, Level: c.Level, Time: c.Committer.When}
}
