package node_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// checkStatusCommits lets git itself judge the status branch, by the rules of the repository.
func (f *flock) checkStatusCommits() {
	f.t.Helper()
	head := f.repo.Fetch("pleach/status")
	f.repo.Git("config", "gpg.ssh.allowedSignersFile", "trust/allowed_signers")
	commits := strings.Fields(f.repo.Git("rev-list", head))
	log := f.repo.Git("log", "--show-signature", "--format=%H %G? %GS", head)
	good := 0
	for line := range strings.Lines(log) {
		fields := strings.Fields(line)
		if len(fields) > 1 && len(fields[0]) == 40 {
			if fields[1] != "G" {
				f.t.Errorf("status commit %s: git says %q", fields[0], fields[1:])
			}
			good++
		}
	}
	if good != len(commits) || good == 0 {
		f.t.Errorf("%d of %d status commits were judged:\n%s", good, len(commits), log)
	}
	f.t.Logf("%d status commits, the last by %s", good, f.repo.Git("log", "-1", "--format=%GS", head))
}

// The status branch may be in a repository of its own, so that no node can write to the one that
// people review. It goes there as soon as pleach.yaml says so.
func TestStatusInAnotherRepository(t *testing.T) {
	t.Parallel()
	f := newFlock(t)
	must(t, f.git.Create(t.Context(), "status"))
	f.repo.Write("pleach.yaml", f.repo.Read("pleach.yaml")+"  status:\n    remote: "+f.git.NodeURL("status")+"\n    branch: observed\n")
	head := f.deploy("status into a repository of its own")
	other := f.lab.Clone(t, f.repo.Key, f.git.URL("status"))
	f.wait("the other repository has the status", func(context.Context) error {
		if _, err := other.Try("fetch", "origin", "observed"); err != nil {
			return err
		}
		readme, err := other.Try("show", "FETCH_HEAD:README.md")
		if err == nil && !strings.Contains(readme, head[:12]) {
			err = fmt.Errorf("it does not name commit %.12s:\n%s", head, readme)
		}
		return err
	})
}
