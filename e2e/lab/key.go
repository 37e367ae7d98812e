package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Key is an SSH key pair of one person, in two files.
type Key struct {
	Principal string // "alice@example.org", as in an allowed_signers file
	File      string // the private key; the public one is File + ".pub"
	Public    string // "ssh-ed25519 AAAA…", without comment
}

// NewKey makes an ed25519 key for the principal in dir.
func NewKey(ctx context.Context, dir, principal string) (*Key, error) {
	file := filepath.Join(dir, "key-"+strings.NewReplacer("/", "-", "@", "-at-").Replace(principal))
	cmd := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", principal, "-f", file)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("make a key for %s: %w: %s", principal, err, bytes.TrimSpace(out))
	}
	line, err := os.ReadFile(file + ".pub")
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(line))
	if len(fields) < 2 {
		return nil, fmt.Errorf("%s.pub: %q is no public key", file, line)
	}
	return &Key{Principal: principal, File: file, Public: fields[0] + " " + fields[1]}, nil
}

// AllowedSigner is the key's line of an allowed_signers file.
func (k *Key) AllowedSigner() string {
	return k.Principal + ` namespaces="git,pleach-exec@pleach.dev" ` + k.Public + "\n"
}

// sign makes the armoured SSH signature of a text in git's namespace, ending in a newline.
func (k *Key) sign(ctx context.Context, text []byte) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "ssh-keygen", "-q", "-Y", "sign", "-n", "git", "-f", k.File)
	cmd.Stdin = bytes.NewReader(text)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	signature, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("sign as %s: %w: %s", k.Principal, err, bytes.TrimSpace(complaint.Bytes()))
	}
	return signature, nil
}
