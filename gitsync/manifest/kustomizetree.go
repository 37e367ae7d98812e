package manifest

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

var errReadOnly = errors.New("the repository is only read")

// kustomizeTree is the tree as kustomize sees it: rooted at /, read only, every look-up traced.
type kustomizeTree struct {
	r          *reader
	root       string // the topmost kustomization file
	keepOrigin bool   // the user asked for origin annotations himself
	problems   []Problem
}

// name turns a path of kustomize into one of the tree.
func (t *kustomizeTree) name(p string) string {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	if p == "" {
		return "."
	}
	return p
}

func (t *kustomizeTree) kind(p string) string {
	kind, err := t.r.kind(t.name(p))
	if err != nil {
		return foundNothing
	}
	return kind
}

func (t *kustomizeTree) IsDir(p string) bool  { return t.kind(p) == foundDir }
func (t *kustomizeTree) Exists(p string) bool { return t.kind(p) != foundNothing }

func (t *kustomizeTree) CleanedAbs(p string) (filesys.ConfirmedDir, string, error) {
	name := t.name(p)
	kind, err := t.r.kind(name)
	switch {
	case err != nil:
		return "", "", err
	case kind == foundNothing:
		return "", "", fmt.Errorf("no such file or folder in the repository: %s", name)
	case kind == foundDir:
		return filesys.ConfirmedDir(path.Join("/", name)), "", nil
	}
	return filesys.ConfirmedDir(path.Join("/", path.Dir(name))), path.Base(name), nil
}

func (t *kustomizeTree) ReadDir(p string) ([]string, error) {
	entries, err := t.r.readDir(t.name(p))
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, err
}

func (t *kustomizeTree) ReadFile(p string) ([]byte, error) {
	name := t.name(p)
	if slices.Contains(konfig.RecognizedKustomizationFileNames(), path.Base(name)) {
		return t.checked(name)
	}
	data, err := t.r.readFile(name)
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return data, err
}

func (t *kustomizeTree) Open(string) (filesys.File, error)    { return nil, errReadOnly }
func (t *kustomizeTree) Create(string) (filesys.File, error)  { return nil, errReadOnly }
func (t *kustomizeTree) Mkdir(string) error                   { return errReadOnly }
func (t *kustomizeTree) MkdirAll(string) error                { return errReadOnly }
func (t *kustomizeTree) RemoveAll(string) error               { return errReadOnly }
func (t *kustomizeTree) WriteFile(string, []byte) error       { return errReadOnly }
func (t *kustomizeTree) Glob(string) ([]string, error)        { return nil, errReadOnly }
func (t *kustomizeTree) Walk(string, filepath.WalkFunc) error { return errReadOnly }
