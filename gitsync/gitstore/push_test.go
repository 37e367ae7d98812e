package gitstore_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/gitsync/trust"
)

const statusRef = "refs/heads/pleach/status"

// build writes a signed commit with one file and returns it with the objects to push.
func build(t testing.TB, s *gitstore.Store, signer gitstore.Signer, parent, content string) (string, []string) {
	t.Helper()
	blob, err := s.WriteBlob([]byte(content))
	if err != nil {
		t.Fatal(err)
	}
	sub, err := s.WriteTree([]gitstore.TreeEntry{{Mode: gitstore.ModeFile, Name: "n1.yaml", ID: blob}})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := s.WriteTree([]gitstore.TreeEntry{
		{Mode: gitstore.ModeDir, Name: "nodes", ID: sub}, {Mode: gitstore.ModeFile, Name: "nodes.txt", ID: blob},
	})
	if err != nil {
		t.Fatal(err)
	}
	me := gitstore.Ident{Name: "n1", Mail: "n1@pleach", When: time.Unix(1_700_000_000, 0)}
	c := gitstore.NewCommit{Tree: tree, Author: me, Committer: me, Message: "status of n1\n\nbody"}
	if parent != "" {
		c.Parents = []string{parent}
	}
	id, err := s.WriteCommit(c, signer)
	if err != nil {
		t.Fatal(err)
	}
	return id, []string{blob, sub, tree, id}
}

func nodeKey(t testing.TB) *trust.SigningKey {
	t.Helper()
	k, err := trust.LoadOrCreateKey(filepath.Join(t.TempDir(), "node.key"), "n1")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestPush(t *testing.T) {
	l := newLab(t)
	key := nodeKey(t)
	allowed := filepath.Join(t.TempDir(), "allowed_signers")
	if err := os.WriteFile(allowed, []byte(`n1@pleach namespaces="git" `+key.AuthorizedKey()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, remote := range l.remotes() {
		t.Run(name, func(t *testing.T) {
			l.T = t
			s := gitstore.InMemory()
			ref := statusRef + "-" + name
			first, objects := build(t, s, key, "", "one")
			if err := s.Push(t.Context(), remote, []gitstore.Update{{Name: ref, New: first}}, objects); err != nil {
				t.Fatal(err)
			}
			second, objects2 := build(t, s, key, first, "two")
			if err := s.Push(t.Context(), remote, []gitstore.Update{{Name: ref, Old: first, New: second}}, objects2); err != nil {
				t.Fatal(err)
			}
			for _, stale := range []string{"", first} {
				err := s.Push(t.Context(), remote, []gitstore.Update{{Name: ref, Old: stale, New: first}}, objects)
				if !errors.Is(err, gitstore.ErrLostRace) {
					t.Errorf("push from %q: %v, want ErrLostRace", stale, err)
				}
			}
			if got := strings.TrimSpace(l.Git(l.Bare, "rev-parse", ref)); got != second {
				t.Errorf("ref is at %s, want %s", got, second)
			}
			l.Git(l.Bare, "fsck", "--strict", "--no-dangling")
			out := l.Git(l.Bare, "-c", "gpg.ssh.allowedSignersFile="+allowed, "verify-commit", second)
			if !strings.Contains(out, `Good "git" signature for n1@pleach`) {
				t.Errorf("verify-commit says %q", out)
			}
			// Two refs move together or not at all.
			third, objects3 := build(t, s, key, second, "three")
			both := []gitstore.Update{{Name: ref, Old: second, New: third}, {Name: ref + "-lease", Old: "", New: third}}
			if err := s.Push(t.Context(), remote, both, objects3); err != nil {
				t.Fatal(err)
			}
			both[0].Old = third
			if err := s.Push(t.Context(), remote, both, nil); !errors.Is(err, gitstore.ErrLostRace) {
				t.Errorf("one of two refs is stale: %v, want ErrLostRace", err)
			}
			if err := s.Push(t.Context(), remote, []gitstore.Update{{Name: ref + "-lease", Old: third}}, nil); err != nil {
				t.Errorf("delete: %v", err)
			}
			tip := gitstore.InMemory()
			if got, err := tip.FetchTip(t.Context(), remote, ref); err != nil || got != third {
				t.Fatalf("fetch of the tip: %s, %v", got, err)
			}
			if c, err := tip.Commit(third); err != nil || c.Level != 0 || c.Parents[0] != second {
				t.Errorf("tip %+v, %v", c, err)
			}
			if _, err := tip.Commit(second); err == nil {
				t.Error("the tip came with its history")
			}
		})
	}
}

func TestPushRejected(t *testing.T) {
	l := newLab(t)
	hook := filepath.Join(l.Bare, "hooks", "pre-receive")
	if err := os.WriteFile(hook, []byte("#!/bin/sh\necho 'main is protected' >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	s, key := gitstore.InMemory(), nodeKey(t)
	id, objects := build(t, s, key, "", "one")
	err := s.Push(t.Context(), l.HTTP, []gitstore.Update{{Name: statusRef, New: id}}, objects)
	rejected, ok := errors.AsType[*gitstore.RejectedError](err)
	if !ok || !strings.Contains(rejected.Reason, "main is protected") || rejected.Ref != statusRef {
		t.Fatalf("%v, want a rejection with the hook's words", err)
	}
	// An object is left out: the server must notice, and we must pass it on.
	if err := os.Remove(hook); err != nil {
		t.Fatal(err)
	}
	if err := s.Push(t.Context(), l.HTTP, []gitstore.Update{{Name: statusRef, New: id}}, objects[1:]); err == nil {
		t.Fatal("a push without all objects went through")
	} else if _, ok := errors.AsType[*gitstore.RejectedError](err); !ok {
		t.Errorf("%v, want a rejection", err)
	}
	if err := s.Push(t.Context(), gitstore.Remote{URL: "http://127.0.0.1:1/x.git"}, []gitstore.Update{{Name: statusRef, New: id}}, objects); !errors.Is(err, gitstore.ErrUnreachable) {
		t.Errorf("%v, want ErrUnreachable", err)
	}
}

// Twelve push at once from the same commit, again and again: there is always exactly one winner,
// the ref is where he put it, and everybody else is told that he lost.
func TestOneWinner(t *testing.T) {
	const writers, rounds = 12, 4
	l := newLab(t)
	for name, remote := range l.remotes() {
		t.Run(name, func(t *testing.T) {
			l.T = t
			ref := "refs/heads/race-" + name
			old := ""
			stores := make([]*gitstore.Store, writers)
			for i := range stores {
				stores[i] = gitstore.InMemory()
			}
			key := nodeKey(t)
			for round := range rounds {
				ids, packs := make([]string, writers), make([][]string, writers)
				for i, s := range stores {
					ids[i], packs[i] = build(t, s, key, old, fmt.Sprintf("round %d writer %d", round, i))
				}
				var wins atomic.Int64
				var winner atomic.Value
				var wg sync.WaitGroup
				for i, s := range stores {
					wg.Go(func() {
						err := s.Push(t.Context(), remote, []gitstore.Update{{Name: ref, Old: old, New: ids[i]}}, packs[i])
						switch {
						case err == nil:
							wins.Add(1)
							winner.Store(ids[i])
						case !errors.Is(err, gitstore.ErrLostRace):
							t.Errorf("round %d, writer %d: %v, want ErrLostRace", round, i, err)
						}
					})
				}
				wg.Wait()
				if wins.Load() != 1 {
					t.Fatalf("round %d has %d winners", round, wins.Load())
				}
				old = strings.TrimSpace(l.Git(l.Bare, "rev-parse", ref))
				if old != winner.Load() {
					t.Fatalf("round %d: ref is at %s, the winner pushed %v", round, old, winner.Load())
				}
			}
		})
	}
}
