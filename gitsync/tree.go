package gitsync

import (
	"errors"
	"io/fs"
	"path"
	"strings"

	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/gitsync/manifest"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
)

// changedFiles maps every path whose content differs between two trees to its object id in the
// first; "" when it is new. A nil tree is empty. Equal folders are not read.
func changedFiles(from, to *gitstore.Tree) (map[string]string, error) {
	changed := map[string]string{}
	err := compareDirs(from, to, ".", changed)
	return changed, err
}

func compareDirs(from, to *gitstore.Tree, dir string, changed map[string]string) error {
	if hash(from, dir) == hash(to, dir) {
		return nil
	}
	names := map[string]bool{} // whether it is a folder on either side
	for _, t := range []*gitstore.Tree{from, to} {
		entries, err := list(t, dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			names[e.Name()] = names[e.Name()] || e.IsDir()
		}
	}
	for name, folder := range names {
		p := path.Join(dir, name)
		before, after := hash(from, p), hash(to, p)
		if before == after {
			continue
		}
		if folder {
			if err := compareDirs(from, to, p, changed); err != nil {
				return err
			}
		}
		if isFile(from, p) || isFile(to, p) {
			if !isFile(from, p) {
				before = ""
			}
			changed[p] = before
		}
	}
	return nil
}

func hash(t *gitstore.Tree, p string) string {
	if t == nil {
		return ""
	}
	h, _ := t.Hash(p)
	return h
}

// list is empty for what is no folder.
func list(t *gitstore.Tree, dir string) ([]fs.DirEntry, error) {
	if t == nil {
		return nil, nil
	}
	info, err := t.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return t.ReadDir(dir)
}

func isFile(t *gitstore.Tree, p string) bool {
	if t == nil {
		return false
	}
	info, err := t.Stat(p)
	return err == nil && !info.IsDir()
}

// clusterFiles maps the cluster's own files to their object ids.
func clusterFiles(t *gitstore.Tree) (map[string]string, error) {
	files := map[string]string{}
	if isFile(t, v1alpha1.ClusterFile) {
		files[v1alpha1.ClusterFile] = hash(t, v1alpha1.ClusterFile)
	}
	for _, dir := range []string{manifest.TrustDir, manifest.NodesDir, manifest.PoliciesDir} {
		if err := addFiles(t, dir, files); err != nil {
			return nil, err
		}
	}
	return files, nil
}

func addFiles(t *gitstore.Tree, dir string, files map[string]string) error {
	entries, err := list(t, dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		p := path.Join(dir, e.Name())
		if e.IsDir() {
			if err := addFiles(t, p, files); err != nil {
				return err
			}
			continue
		}
		files[p] = hash(t, p)
	}
	return nil
}

// clusterOwned reports whether a path is one of the cluster's own files.
func clusterOwned(p string) bool {
	first, _, _ := strings.Cut(p, "/")
	switch first {
	case v1alpha1.ClusterFile, manifest.TrustDir, manifest.NodesDir, manifest.PoliciesDir:
		return true
	}
	return false
}
