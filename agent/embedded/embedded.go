// Package embedded carries the node's small programs inside the pleach binary: the containerd shim,
// the CNI plugin, runc and the pause program. [Extract] puts them on disk.
//
// They are built by `make node-binaries`. A pleach binary built without them compiles and runs, and
// Extract says what is missing.
package embedded

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/pleachdev/pleach/state/durable"
)

//go:embed assets
var assets embed.FS

// Names of the programs, as files in [Programs.Dir].
const (
	Shim  = "containerd-shim-runc-v2" // the name by which containerd finds it
	CNI   = "pleach-cni"
	Runc  = "runc"
	Pause = "pleach-pause"
)

// ErrMissing is returned by [Extract] when this binary was built without its programs.
var ErrMissing = errors.New("this binary was built without its node binaries: run make build")

// Programs says where the extracted programs are.
type Programs struct {
	// Dir is a path that stays the same from version to version: a symbolic link to the directory
	// of the current version. What is configured with it uses the newest programs.
	Dir string

	// Version is the directory that Dir leads to, named by the hash of its content.
	Version string
}

// Path returns the absolute path of the program called name, by way of Dir.
func (p Programs) Path(name string) string { return filepath.Join(p.Dir, name) }

// Extract makes dir hold the programs of this binary, as dir/<content hash>/<name>, and dir/current
// lead there. A version that is there already is not written again. Whatever the moment of a crash,
// a version directory is complete or absent.
//
// dir must be an absolute path.
func Extract(dir string) (Programs, error) { return extract(assets, dir) }

func extract(from fs.FS, dir string) (Programs, error) {
	hash, err := contentHash(from)
	if err != nil {
		return Programs{}, fmt.Errorf("node binaries: %w", err)
	}
	version := filepath.Join(dir, hash)
	p := Programs{Dir: filepath.Join(dir, "current"), Version: version}
	if _, err := os.Stat(version); errors.Is(err, fs.ErrNotExist) {
		if err := write(from, dir, version); err != nil {
			return Programs{}, fmt.Errorf("extract node binaries to %s: %w", version, err)
		}
	} else if err != nil {
		return Programs{}, fmt.Errorf("node binaries: %w", err)
	}
	if err := link(hash, p.Dir); err != nil {
		return Programs{}, fmt.Errorf("point %s to %s: %w", p.Dir, hash, err)
	}
	return p, nil
}

// contentHash names a version by the compressed bytes of all programs.
func contentHash(from fs.FS) (string, error) {
	h := sha256.New()
	for _, name := range []string{Shim, CNI, Runc, Pause} {
		b, err := fs.ReadFile(from, "assets/"+name+".zst")
		if errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("%s is missing: %w", name, ErrMissing)
		}
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %d\n", name, len(b))
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

func write(from fs.FS, dir, version string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(dir, ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) // a rename took it away when all went well
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	for _, name := range []string{Shim, CNI, Runc, Pause} {
		if err := decompress(from, name, filepath.Join(tmp, name)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := durable.SyncDir(tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, version); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return durable.SyncDir(dir)
}

func decompress(from fs.FS, name, to string) error {
	packed, err := fs.ReadFile(from, "assets/"+name+".zst")
	if err != nil {
		return err
	}
	z, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer z.Close()
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, z); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Close()
}

// link makes path a symbolic link to target in one step.
func link(target, path string) error {
	if old, err := os.Readlink(path); err == nil && old == target {
		return nil
	}
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

// Prune removes the versions beside p that no running process was started from, and what a crash
// left half extracted. A shim goes on running with its own version's file for as long as its pod
// lives, and its file is kept so that a person can still look at it.
func (p Programs) Prune() error {
	dir := filepath.Dir(p.Dir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("prune node binaries: %w", err)
	}
	inUse := executables()
	var errs []error
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if !e.IsDir() || path == p.Version || usedFrom(inUse, path) {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			errs = append(errs, fmt.Errorf("prune node binaries: %w", err))
		}
	}
	return errors.Join(errs...)
}

func usedFrom(executables []string, dir string) bool {
	for _, exe := range executables {
		if strings.HasPrefix(exe, dir+"/") {
			return true
		}
	}
	return false
}

// executables lists the files that the processes of this machine were started from. Processes that
// end meanwhile, and kernel threads, have none.
func executables() []string {
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return nil
	}
	var paths []string
	for _, l := range links {
		if exe, err := os.Readlink(l); err == nil {
			paths = append(paths, exe)
		}
	}
	return paths
}
