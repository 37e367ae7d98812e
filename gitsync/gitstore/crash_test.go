package gitstore_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/pleachdev/pleach/gitsync/gitstore"
)

// A process that is killed at any moment while it fetches and merges packs leaves a store that
// opens, keeps what it had, and goes on.
func TestKilled(t *testing.T) {
	if dir := os.Getenv("PLEACH_TEST_STORE"); dir != "" {
		fetchForever(t, dir, os.Getenv("PLEACH_TEST_REMOTE"))
		return
	}
	rounds := 5
	if testing.Short() {
		rounds = 2
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	l := newLab(t)
	dir := filepath.Join(t.TempDir(), "store.git")
	l.Commit("first", map[string]string{"a": "1"})
	l.Push()
	known := ""
	for round := range rounds {
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilled$")
		child.Env = append(os.Environ(), "PLEACH_TEST_STORE="+dir, "PLEACH_TEST_REMOTE="+l.File.URL)
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		for i := range 6 {
			l.Commit("more", map[string]string{"a": fmt.Sprint(round, i)})
			l.Push()
			time.Sleep(time.Duration(random.Int64N(int64(15 * time.Millisecond))))
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait() // killed
		s, err := gitstore.Open(dir)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if known != "" {
			if err := s.CheckTree(known, gitstore.DefaultLimits()); err != nil {
				t.Errorf("round %d: %s was lost: %v", round, known, err)
			}
		}
		if known, err = s.Fetch(t.Context(), l.HTTP, mainRef); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		l.Git(dir, "fsck", "--strict")
	}
}

func fetchForever(t *testing.T, dir, url string) {
	s, err := gitstore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := s.Fetch(t.Context(), gitstore.Remote{URL: url}, mainRef); err != nil {
			t.Log(err)
		}
	}
}
