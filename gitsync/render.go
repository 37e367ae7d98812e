package gitsync

import (
	"errors"
	"io/fs"

	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/gitsync/manifest"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
)

// wholeTree remembers when a part of a tree was missing in the store: then what was made of the
// tree says nothing about the commit.
type wholeTree struct {
	*gitstore.Tree
	lost error
}

func (t *wholeTree) check(err error) error {
	if errors.Is(err, gitstore.ErrIncomplete) {
		t.lost = err
	}
	return err
}

// Open implements [fs.FS].
func (t *wholeTree) Open(name string) (fs.File, error) {
	f, err := t.Tree.Open(name)
	return f, t.check(err)
}

// ReadFile implements [fs.ReadFileFS].
func (t *wholeTree) ReadFile(name string) ([]byte, error) {
	data, err := t.Tree.ReadFile(name)
	return data, t.check(err)
}

// ReadDir implements [fs.ReadDirFS].
func (t *wholeTree) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := t.Tree.ReadDir(name)
	return entries, t.check(err)
}

// Stat implements [fs.StatFS].
func (t *wholeTree) Stat(name string) (fs.FileInfo, error) {
	info, err := t.Tree.Stat(name)
	return info, t.check(err)
}

// render loads an app of a tree.
func render(l *manifest.Loader, t *gitstore.Tree, cluster *v1alpha1.Cluster, app v1alpha1.App) (*rendering, error) {
	tree := &wholeTree{Tree: t}
	res := l.Load(tree, cluster, app)
	if tree.lost != nil {
		return nil, tree.lost
	}
	r := &rendering{
		app: app, version: cluster.Spec.Version, trace: res.Trace,
		objects: res.Objects, held: res.Held, errors: res.Errors, warns: res.Warnings,
	}
	if len(res.Errors) > 0 {
		return r, nil
	}
	r.digests = make(map[string]string, len(res.Objects)+len(res.Held))
	for _, o := range res.Objects {
		r.digests[objectKey(o.Object)] = o.Digest
	}
	for _, o := range res.Held {
		r.digests[objectKey(o.Object)] = o.Digest
	}
	return r, nil
}
