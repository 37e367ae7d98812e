package node_test

import (
	"strings"
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
