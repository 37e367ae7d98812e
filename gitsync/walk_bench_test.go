package gitsync

import (
	"crypto/sha1"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pleachdev/pleach/gitsync/trust"
)

// signedChain writes n commits of ada that take turns between the trees, in one call of git, and
// returns their ids.
func (s *story) signedChain(n int, parent string, trees ...string) (ids []string) {
	s.t.Helper()
	dir, _ := keys() // newStory has checked the error
	key, err := trust.LoadKey(filepath.Join(dir, "ada"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = key.Close() }() // held in memory only
	tmp, paths := s.t.TempDir(), ""
	for i := range n {
		who := "Ada <ada@example.com> 1700000000 +0000"
		head := fmt.Sprintf("tree %s\nparent %s\nauthor %s\ncommitter %s\n", trees[i%len(trees)], parent, who, who)
		message := fmt.Sprintf("\ncommit %d\n", i)
		sig, err := key.Sign([]byte(head + message))
		if err != nil {
			s.t.Fatal(err)
		}
		raw := head + "gpgsig " + strings.ReplaceAll(strings.TrimSpace(sig), "\n", "\n ") + "\n" + message
		parent = fmt.Sprintf("%x", sha1.Sum(fmt.Appendf(nil, "commit %d\x00%s", len(raw), raw)))
		ids = append(ids, parent)
		file := filepath.Join(tmp, parent)
		if err := os.WriteFile(file, []byte(raw), 0o600); err != nil {
			s.t.Fatal(err)
		}
		paths += file + "\n"
	}
	s.gitIn([]byte(paths), "hash-object", "-t", "commit", "-w", "--stdin-paths", "--no-filters")
	return ids
}

// manyApps is a story of 50 apps with 20 Deployments each, and of commits that change one app.
func manyApps(b *testing.B, commits int) (s *story, ids []string) {
	b.Helper()
	const apps, objects = 50, 20
	s = newStory(b)
	words := []string{"start", "ada"}
	var names []string
	for i := range apps {
		names = append(names, fmt.Sprintf("app%d", i))
		tags := strings.TrimSuffix(strings.Repeat("1,", objects), ",")
		words = append(words, fmt.Sprintf("app%d=%s", i, tags))
	}
	words = append(words, "file:pleach.yaml="+word(clusterYAML(names...)), "file:trust/allowed_signers="+word(s.signer("ada")))
	s.commit(words)
	one := s.git("rev-parse", s.ids["start"]+"^{tree}")
	s.commit([]string{"other", "ada", "app7=" + strings.TrimSuffix(strings.Repeat("2,", objects), ",")})
	two := s.git("rev-parse", s.ids["other"]+"^{tree}")
	return s, s.signedChain(commits, s.ids["start"], two, one)
}

// BenchmarkWalk judges commits from the introduction on.
func BenchmarkWalk(b *testing.B) {
	const commits = 500
	s, ids := manyApps(b, commits)
	head := ids[commits-1]
	s.git("update-ref", "refs/heads/main", head)
	s.sync()
	if s.err != nil || s.syncer.Accepted().Head.ID != head {
		b.Fatalf("%v\n%s", s.err, s.outcome())
	}
	for b.Loop() {
		w, err := newWalker(s.syncer.store, s.ids["start"], KnownSigners{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := w.from(b.Context(), head); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*(commits+1)), "µs/commit")
}

// BenchmarkSync is one push of one commit, from the question where the branch is to the new
// Accepted, over a file remote.
func BenchmarkSync(b *testing.B) {
	s, ids := manyApps(b, 400)
	s.git("update-ref", "refs/heads/main", ids[0])
	s.sync()
	for i := 1; b.Loop(); i++ {
		b.StopTimer()
		if i == len(ids) {
			b.Fatal("too few commits")
		}
		s.git("update-ref", "refs/heads/main", ids[i])
		b.StartTimer()
		s.sync()
		if s.err != nil || s.syncer.Accepted().Head.ID != ids[i] {
			b.Fatalf("%v\n%s", s.err, s.outcome())
		}
	}
}

// BenchmarkRestore is the start of an agent with 1,000 Deployments.
func BenchmarkRestore(b *testing.B) {
	s, ids := manyApps(b, 12)
	for _, id := range ids {
		s.git("update-ref", "refs/heads/main", id)
		s.sync()
	}
	for b.Loop() {
		if err := s.syncer.Close(); err != nil {
			b.Fatal(err)
		}
		s.syncer = s.open(s.state)
		if s.syncer.Accepted() == nil {
			b.Fatal("nothing is accepted after a restart")
		}
	}
}
