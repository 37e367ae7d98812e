package volumes

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The layout is the kubelet's, because programs watch it:
//
//	volume/key    -> ..data/key
//	volume/..data -> ..1234567
//	volume/..1234567/key
//
// Renaming a new ..data over the old one changes all files at once.
const dataLink = "..data"

// replace makes dir hold exactly files. own is called with the new directory before it shows. A
// volume that holds the same already is not touched.
func replace(dir string, files map[string]file, own func(path string) error) error {
	current, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if current == "" || !same(filepath.Join(dir, current), files) {
		fresh, err := write(dir, files, own)
		if err != nil {
			return err
		}
		link := filepath.Join(dir, dataLink+"_tmp")
		if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Symlink(filepath.Base(fresh), link); err != nil {
			return err
		}
		if err := os.Rename(link, filepath.Join(dir, dataLink)); err != nil {
			return err
		}
		current = filepath.Base(fresh)
	}
	return tidy(dir, current, files)
}

func write(dir string, files map[string]file, own func(string) error) (string, error) {
	fresh, err := os.MkdirTemp(dir, "..")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(fresh, 0o755); err != nil {
		return "", err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(fresh, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(path, files[name].data, 0o600); err != nil {
			return "", err
		}
		if err := os.Chmod(path, files[name].mode); err != nil {
			return "", err
		}
	}
	return fresh, own(fresh)
}

// same compares contents and the set of names. A mode cannot change without a new pod.
func same(dir string, files map[string]file) bool {
	seen := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		want, ok := files[filepath.ToSlash(name)]
		if !ok {
			return fs.ErrExist
		}
		have, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !bytes.Equal(have, want.data) {
			return fs.ErrInvalid
		}
		seen++
		return nil
	})
	return err == nil && seen == len(files)
}

// tidy makes the links that users see, and removes links and data directories of earlier contents.
func tidy(dir, current string, files map[string]file) error {
	want := map[string]bool{}
	for name := range files {
		first, _, _ := strings.Cut(name, "/")
		want[first] = true
	}
	for _, first := range slices.Sorted(maps.Keys(want)) {
		err := os.Symlink(filepath.Join(dataLink, first), filepath.Join(dir, first))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		switch {
		case name == dataLink || name == current || want[name]:
		case e.Type()&fs.ModeSymlink != 0 || strings.HasPrefix(name, ".."):
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}
