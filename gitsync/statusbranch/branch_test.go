package statusbranch_test

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/gitsync/internal/gittest"
	"github.com/pleachdev/pleach/gitsync/statusbranch"
	"github.com/pleachdev/pleach/gitsync/trust"
)

// node is a Writer that runs until the test ends.
func node(t *testing.T, remote gitstore.Remote, name string) (*statusbranch.Writer, *trust.SigningKey) {
	t.Helper()
	key, err := trust.LoadOrCreateKey(filepath.Join(t.TempDir(), "node.key"), name)
	if err != nil {
		t.Fatal(err)
	}
	w := statusbranch.New(statusbranch.Config{
		Remote: remote, Signer: key, PushesPerMinute: 6000,
		Author: gitstore.Ident{Name: name, Mail: name + "@pleach.dev"},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return w, key
}

func settled(t *testing.T, w *statusbranch.Writer) statusbranch.Status {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		s := w.Status()
		if s.Waiting.IsZero() {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("still pending: %+v", s)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func files(pairs ...string) map[string][]byte {
	m := map[string][]byte{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = []byte(pairs[i+1])
	}
	return m
}

// of is the content that is these files.
func of(files map[string][]byte) statusbranch.Content {
	return func() (map[string][]byte, error) { return files, nil }
}

// content is what git shows of the branch.
func content(l *gittest.Lab) map[string]string {
	m := map[string]string{}
	for name := range strings.Lines(l.Git(l.Bare, "ls-tree", "-r", "--name-only", statusbranch.DefaultBranch)) {
		name = strings.TrimSpace(name)
		m[name] = l.Git(l.Bare, "show", statusbranch.DefaultBranch+":"+name)
	}
	return m
}

func commits(l *gittest.Lab) int {
	return len(strings.Fields(l.Git(l.Bare, "rev-list", statusbranch.DefaultBranch)))
}

func TestWriterAgainstGit(t *testing.T) {
	l := gittest.New(t)
	for name, remote := range map[string]gitstore.Remote{"http": l.HTTP, "file": l.File} {
		t.Run(name, func(t *testing.T) {
			l.T = t
			l.Git(l.Bare, "update-ref", "-d", "refs/heads/"+statusbranch.DefaultBranch)
			w, key := node(t, remote, "n1")
			w.Set(of(files("README.md", "all well\n", "nodes/n1.yaml", "ready\n", "apps/web/web.yaml", "3/3\n")))
			s := settled(t, w)
			want := map[string]string{"README.md": "all well\n", "nodes/n1.yaml": "ready\n", "apps/web/web.yaml": "3/3\n"}
			if got := content(l); !maps.Equal(got, want) {
				t.Fatalf("branch holds %v (%+v)", got, s)
			}
			w.Set(of(files("README.md", "all well\n", "nodes/n1.yaml", "ready\n", "apps/web/web.yaml", "3/3\n")))
			if again := settled(t, w); again.Commit != s.Commit || commits(l) != 1 {
				t.Errorf("the same content made a commit: %+v", again)
			}
			w.Set(of(files("README.md", "hm\n", "nodes/n1.yaml", "ready\n")))
			settled(t, w)
			if got := content(l); !maps.Equal(got, map[string]string{"README.md": "hm\n", "nodes/n1.yaml": "ready\n"}) {
				t.Errorf("branch holds %v", got)
			}
			// A writer that starts later continues the branch, and does nothing when it is right.
			later, _ := node(t, remote, "n2")
			later.Set(of(files("README.md", "hm\n", "nodes/n1.yaml", "ready\n")))
			if s := settled(t, later); commits(l) != 2 || s.Commit == "" || s.Pushes != 0 {
				t.Errorf("%d commits, %+v", commits(l), s)
			}
			// Somebody deletes the branch: it is made again.
			l.Git(l.Bare, "update-ref", "-d", "refs/heads/"+statusbranch.DefaultBranch)
			w.Set(of(files("README.md", "again\n")))
			if s := settled(t, w); s.Failed == 0 || commits(l) != 1 {
				t.Errorf("%d commits, %+v", commits(l), s)
			}
			allowed := filepath.Join(t.TempDir(), "allowed_signers")
			if err := os.WriteFile(allowed, []byte("n1@pleach.dev "+key.AuthorizedKey()+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			l.Git(l.Bare, "-c", "gpg.ssh.allowedSignersFile="+allowed, "verify-commit", statusbranch.DefaultBranch)
			l.Git(l.Bare, "fsck", "--strict", "--no-dangling")
		})
	}
}

func TestPathsStayInTheBranch(t *testing.T) {
	l := gittest.New(t)
	for _, bad := range []string{"../n2/x", "/x", "", ".", "a//b", "a/../../x", ".git/config", "a\\b"} {
		w, _ := node(t, l.HTTP, "n1")
		w.Set(of(files(bad, "x")))
		deadline := time.Now().Add(10 * time.Second)
		for w.Status().Err == "" && time.Now().Before(deadline) {
			time.Sleep(5 * time.Millisecond)
		}
		if s := w.Status(); s.Err == "" || s.Pushes != 0 {
			t.Errorf("path %q: %+v", bad, s)
		}
	}
}
