package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// PeerPort is where agents serve each other unless they are told another.
const PeerPort = "7434"

// Pleach builds the program under test, with the node binaries inside, once in a process.
var Pleach = sync.OnceValues(func() (program string, err error) {
	ctx := context.Background()
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "make", "--silent", "node-binaries")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("make node-binaries: %w\n%s", err, out)
	}
	return Program(ctx, "cmd/pleach")
})

// Keep copies a program into the lab, as NAME, so that nobody builds it anew while it runs there.
func (l *Lab) Keep(program, name string) (string, error) {
	body, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	kept := filepath.Join(l.Dir, name)
	return kept, os.WriteFile(kept, body, 0o755)
}

// Enrolled is a node as a config repository is to have it.
type Enrolled struct {
	Name    string
	Dir     string // of its agent, where its keys are, or are made
	Address string // where the others find it; not needed of the first
}

// Enrol writes a config repository into dir by "pleach init" and "pleach node add", in commits that key
// signs. It returns the first of them, the introduction.
func Enrol(ctx context.Context, program, dir, cluster string, key *Key, author string, nodes ...Enrolled) (introduction string, err error) {
	run := func(program string, args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, program, args...)
		var complaint bytes.Buffer
		cmd.Stderr = &complaint
		out, err := cmd.Output()
		if err != nil {
			err = fmt.Errorf("%s %s: %w: %s", filepath.Base(program), strings.Join(args, " "), err, bytes.TrimSpace(complaint.Bytes()))
		}
		return strings.TrimSpace(string(out)), err
	}
	for i, n := range nodes {
		args := []string{"init", dir, "--cluster", cluster, "--node", n.Name, "--dir", n.Dir}
		if i > 0 {
			args = []string{"node", "add", n.Name, "-C", dir, "--address", n.Address, "--dir", n.Dir}
		}
		if _, err := run(program, append(args, "--signing-key", key.File, "--author-name", author, "--author-email", key.Principal)...); err != nil {
			return "", err
		}
	}
	return run("git", "-C", dir, "rev-list", "--max-parents=0", "HEAD")
}
