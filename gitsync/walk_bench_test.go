package gitsync

import (
	"crypto/sha1"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/gitsync/trust"
)

// signedChain writes n commits of ada that take turns between the trees, in one call of git.
func (s *story) signedChain(n int, parent string, trees ...string) (head string) {
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
		file := filepath.Join(tmp, parent)
		if err := os.WriteFile(file, []byte(raw), 0o600); err != nil {
			s.t.Fatal(err)
		}
		paths += file + "\n"
	}
	s.gitIn([]byte(paths), "hash-object", "-t", "commit", "-w", "--stdin-paths", "--no-filters")
	return parent
}

// BenchmarkWalk judges a commit that changes one of 50 apps with 20 Deployments each.
func BenchmarkWalk(b *testing.B) {
	const apps, objects, commits = 50, 20, 500
	s := newStory(b)
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
	head := s.signedChain(commits, s.ids["start"], two, one)
	s.git("update-ref", "refs/heads/main", head)
	y, err := Open(b.Context(), Config{
		Dir: s.state, Remote: gitstore.Remote{URL: "file://" + s.dir}, Branch: "main", Introduction: s.ids["start"],
	})
	if err != nil {
		b.Fatal(err)
	}
	s.syncer = y
	s.sync()
	if s.err != nil || s.syncer.Accepted().Head.ID != head {
		b.Fatalf("%v\n%s", s.err, s.outcome())
	}
	for b.Loop() {
		w, err := newWalker(y.store, s.ids["start"], KnownSigners{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := w.from(b.Context(), head); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*(commits+1)), "µs/commit")
}
