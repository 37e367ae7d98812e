package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

const (
	goarch = runtime.GOARCH
	module = "github.com/pleachdev/pleach"
)

// Program builds a static program of this repository, given by the import path of its main package
// relative to the module ("e2e/lab/podinfo"), and returns the path of the file. What is up to date
// is not built again. The working directory must be inside the repository.
func Program(ctx context.Context, pkg string, buildFlags ...string) (string, error) {
	dir, err := cacheDir()
	if err != nil {
		return "", err
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	// Working trees side by side, and other flags, must not overwrite one another's programs.
	sum := sha256.Sum256([]byte(strings.Join(append([]string{root, pkg}, buildFlags...), "\x00")))
	dir = filepath.Join(dir, hex.EncodeToString(sum[:6]))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	target := filepath.Join(dir, path.Base(pkg))
	unlock, err := lock(target + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()

	args := append([]string{"build", "-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-o", target}, buildFlags...)
	cmd := exec.CommandContext(ctx, "go", append(args, module+"/"+pkg)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOOS=linux")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, bytes.TrimSpace(out))
	}
	return target, nil
}

func moduleRoot(ctx context.Context) (string, error) {
	file, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	dir := filepath.Dir(strings.TrimSpace(string(file)))
	if content, err := os.ReadFile(filepath.Join(dir, "go.mod")); err != nil || !bytes.Contains(content, []byte("module "+module+"\n")) {
		return "", errors.New("find the module: run inside the repository of Pleach")
	}
	return dir, nil
}

// Busybox gives the path of a static busybox: the machine's, or that of Debian's package, which is
// downloaded once.
func Busybox(ctx context.Context) (string, error) {
	const own = "/bin/busybox"
	if owned, _ := exec.CommandContext(ctx, "dpkg-query", "-S", own).Output(); bytes.HasPrefix(owned, []byte("busybox-static:")) {
		return own, nil
	}
	dir, err := cacheDir()
	if err != nil {
		return "", err
	}
	target := filepath.Join(dir, "busybox")
	unlock, err := lock(target + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(target); err == nil {
		return target, nil
	}
	work, err := os.MkdirTemp(dir, "download-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(work) }()
	script := `apt-get download -q busybox-static || { apt-get update -q && apt-get download -q busybox-static; }
dpkg-deb --fsys-tarfile busybox-static_*.deb | tar -x ./bin/busybox`
	cmd := exec.CommandContext(ctx, "sh", "-e", "-c", script)
	cmd.Dir = work
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("download busybox-static: %w\n%s", err, lastLines(string(out), 10))
	}
	return target, os.Rename(filepath.Join(work, "bin", "busybox"), target)
}

// lock takes the lock file, waiting for other processes.
func lock(file string) (unlock func(), err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", file, err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}
