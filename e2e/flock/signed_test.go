package flock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pleachdev/pleach/gitsync/statusbranch"
)

const statusBranch = "pleach/status"

// TestStatusBranch: everybody's documents are on the branch, signed; one that was tampered with is
// recognised, and does not stay.
func TestStatusBranch(t *testing.T) {
	t.Parallel()
	f := newFlock(t, 3)
	f.deployWeb()
	f.spread(6)
	f.verified()
	reader, victim := f.machines[0], f.machines[1]
	whole := f.tip()

	for _, c := range []struct {
		name   string
		change func(document string) error // a file of the branch
		want   string
	}{
		{"a changed byte", func(document string) error {
			body, err := os.ReadFile(document)
			if err != nil {
				return err
			}
			body[len(body)/2] ^= 1
			return os.WriteFile(document, body, 0o644)
		}, statusbranch.DocumentPath(victim.Name) + ": "},
		{"another node's document", func(document string) error {
			return os.Rename(strings.Replace(document, victim.Name, reader.Name, 1), document)
		}, statusbranch.DocumentPath(victim.Name) + ": is the document of node " + reader.Name},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := f.in(t)
			f.git.Show("flock", reader.Addr.String(), "refs/heads/"+statusBranch, f.tampered(whole, c.change, victim))
			defer f.git.ShowTruth("flock")
			f.wait("it is recognised", func(ctx context.Context) error {
				out, err := reader.Exec(ctx, f.program, "status", "--verify")
				if err == nil {
					return fmt.Errorf("everything is good:\n%s", out)
				}
				if !strings.Contains(string(out), "REFUSED") || !strings.Contains(string(out), c.want) {
					return fmt.Errorf("%w\n%s", err, out)
				}
				return nil
			})
		})
	}
	t.Run("it does not stay", func(t *testing.T) {
		f := f.in(t)
		f.must(f.git.SetRef(t.Context(), "flock", "refs/heads/"+statusBranch, f.tampered(whole, func(document string) error {
			return os.WriteFile(document, []byte("garbage"), 0o644)
		}, victim)))
		if out, err := reader.Exec(t.Context(), f.program, "status", "--verify"); err == nil {
			t.Errorf("garbage was not recognised:\n%s", out)
		}
		f.rolledTo(nextImage) // there is news to be written
		f.wait("the branch is written anew", func(ctx context.Context) error {
			out, err := reader.Exec(ctx, f.program, "status", "--verify")
			if err != nil {
				err = fmt.Errorf("%w\n%s", err, out)
			}
			return err
		})
	})
}

// tampered makes a commit on a commit of the status branch in which the document of a node was changed, signed
// by a person, and returns its id. It is on the server, on another branch.
func (f *flock) tampered(tip string, change func(document string) error, victim *machine) string {
	f.t.Helper()
	dir := filepath.Join(f.t.TempDir(), "tampered")
	f.repo.Git("worktree", "add", "--quiet", "--detach", dir, tip)
	defer f.repo.Git("worktree", "remove", "--force", dir)
	f.must(change(filepath.Join(dir, statusbranch.DocumentPath(victim.Name))))
	f.repo.Git("-C", dir, "commit", "--quiet", "--all", "--message", "tampered with")
	id := f.repo.Git("-C", dir, "rev-parse", "HEAD")
	f.repo.Git("push", "--quiet", "--force", "origin", id+":refs/heads/aside")
	return id
}

// tip fetches the status branch and returns its newest commit.
func (f *flock) tip() string {
	f.t.Helper()
	const local = "refs/remotes/origin/" + statusBranch
	f.repo.Git("fetch", "--quiet", "--force", "origin", "+refs/heads/"+statusBranch+":"+local)
	return f.repo.Git("rev-parse", local)
}

// verified waits until one commit of the status branch has the documents of all nodes with all of their pods, and checks
// that every commit is signed by a node that the repository knows, and every document by its node.
func (f *flock) verified() {
	f.t.Helper()
	f.wait("one commit has all documents", func(ctx context.Context) error {
		tip := f.tip()
		for _, m := range f.machines {
			body, err := f.repo.Try("show", tip+":status/"+m.Name+".json")
			if err != nil {
				return err
			}
			pods, err := m.own(ctx)
			if err != nil {
				return err
			}
			if n := strings.Count(body, `"ready": true`); n != len(pods) {
				return fmt.Errorf("%s says that %d pods are ready, and has %d", m.Name, n, len(pods))
			}
		}
		return nil
	})
	signers := filepath.Join(f.lab.Dir, "signers")
	f.must(os.WriteFile(signers, []byte(f.repo.Read("trust/allowed_signers")), 0o644))
	// Without the user's own configuration, as f.repo's commands have it; but this one shows what git says.
	git := exec.CommandContext(f.t.Context(), "git", "-C", f.repo.Dir, "-c", "gpg.ssh.allowedSignersFile="+signers,
		"log", "--show-signature", "--format=commit %H %G? %GS", f.tip())
	out, err := git.CombinedOutput()
	f.must(err)
	commits, good := 0, 0
	for line := range strings.Lines(string(out)) {
		switch fields := strings.Fields(line); {
		case strings.HasPrefix(line, `Good "git" signature for node/`):
			good++
		case len(fields) == 4 && fields[0] == "commit":
			if commits++; fields[2] != "G" || !strings.HasPrefix(fields[3], "node/") {
				f.t.Errorf("a status commit is not signed by a node: %s", line)
			}
		default:
			f.t.Errorf("git log --show-signature says %s", line)
		}
	}
	if commits == 0 || good != commits {
		f.t.Errorf("%d of %d status commits have a good signature:\n%s", good, commits, out)
	}
	f.wait("every document is signed by its node", func(ctx context.Context) error {
		out, err := f.machines[0].Exec(ctx, f.program, "status", "--verify")
		if err != nil {
			return err
		}
		for _, m := range f.machines {
			if !hasLine(string(out), m.Name, "by its key") {
				return errors.New(string(out))
			}
		}
		return nil
	})
}

// hasLine reports whether a line begins and ends so.
func hasLine(text, begin, end string) bool {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, begin+" ") && strings.HasSuffix(line, end) {
			return true
		}
	}
	return false
}
