package gitstore

import (
	"errors"
	"fmt"
	"slices"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
)

// Clone is somebody's own clone of the config repository, which is read and never written. Its work
// tree and index are not looked at.
type Clone struct {
	*Store
	repository *git.Repository
}

// OpenClone opens the repository that dir lies in: a clone with a work tree, a linked work tree, or a
// bare one. The caller closes it.
func OpenClone(dir string) (*Clone, error) {
	r, err := git.PlainOpenWithOptions(dir, &git.PlainOpenOptions{DetectDotGit: true, EnableDotGitCommonDir: true})
	if errors.Is(err, git.ErrRepositoryNotExists) {
		return nil, fmt.Errorf("%s: is in no Git repository", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	s := newStore("") // nothing is fetched into it, so that it need not be opened again
	s.cache, s.objects = cache.NewObjectLRU(objectCacheSize), r.Storer
	return &Clone{s, r}, nil
}

// Resolve finds the commit that a revision names, in git's own words: a branch, HEAD~2, a tag, the
// first digits of an id.
func (c *Clone) Resolve(revision string) (string, error) {
	id, err := c.repository.ResolveRevision(plumbing.Revision(revision))
	if err != nil {
		return "", fmt.Errorf("%s: no such commit in this clone", revision)
	}
	return id.String(), nil
}

// Shallow reports whether the clone lacks a part of the history.
func (c *Clone) Shallow() bool {
	ids, err := c.repository.Storer.Shallow()
	return err == nil && len(ids) > 0
}

// Remote is the branch of the remote origin as it was fetched last: the one that origin shows to who
// clones it, else main or master. "" when there is none.
func (c *Clone) Remote() string {
	names := []string{"origin/HEAD", "origin/main", "origin/master"}
	i := slices.IndexFunc(names, func(name string) bool {
		_, err := c.repository.ResolveRevision(plumbing.Revision("refs/remotes/" + name))
		return err == nil
	})
	if i < 0 {
		return ""
	}
	return names[i]
}
