package repository

import (
	"fmt"
	"slices"

	"github.com/go-git/go-git/v5"
)

// Change says who makes a change of a config repository, and how it is recorded.
type Change struct {
	// User signs the commit; not looked at with NoCommit.
	User User
	// Message is the commit's; a fitting one when empty.
	Message string
	// NoCommit leaves the change in the working tree, neither staged nor committed.
	NoCommit bool
}

// make lets write change files of the repository in dir, and commits those that it names, with title
// unless a message is given. What else is changed in the working tree is left alone; a change of one
// of the files may that write touches, which are guarded, would go into the same commit and is refused.
func (c Change) make(dir, title string, guarded []string, write func() (files []string, err error)) (commitID string, err error) {
	r, err := git.PlainOpen(dir)
	if err != nil {
		return "", fmt.Errorf("%s: is no git repository's top directory: %w", dir, err)
	}
	if c.NoCommit {
		_, err := write()
		return "", err
	}
	user, err := c.User.complete(r)
	if err != nil {
		return "", err
	}
	w, err := r.Worktree()
	if err != nil {
		return "", fmt.Errorf("%s: %w", dir, err)
	}
	status, err := w.Status()
	if err != nil {
		return "", fmt.Errorf("git status: %w", err)
	}
	for name, s := range status {
		if s.Staging != git.Unmodified && s.Staging != git.Untracked {
			return "", fmt.Errorf("%s: is staged already and would go into the same commit; commit or unstage it first", name)
		}
		if slices.Contains(guarded, name) && s.Worktree != git.Unmodified {
			return "", fmt.Errorf("%s: has changes that would go into the same commit; commit or restore them first", name)
		}
	}
	files, err := write()
	if err != nil || len(files) == 0 {
		return "", err
	}
	for _, path := range files {
		if _, err := w.Add(path); err != nil {
			return "", fmt.Errorf("git add %s: %w", path, err)
		}
	}
	if c.Message != "" {
		title = c.Message
	}
	id, err := commit(w, user, title)
	if err != nil {
		return "", fmt.Errorf("%s is written and staged, but not committed: %w", files[0], err)
	}
	return id, nil
}
