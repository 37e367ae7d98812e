package gitstore_test

import (
	"path/filepath"
	"testing"

	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/gitsync/internal/gittest"
)

const mainRef = gittest.MainRef

type lab struct{ *gittest.Lab }

func newLab(t testing.TB) *lab {
	t.Helper()
	return &lab{gittest.New(t)}
}

func (l *lab) remotes() map[string]gitstore.Remote {
	return map[string]gitstore.Remote{"http": l.HTTP, "file": l.File}
}

func openStore(t testing.TB) *gitstore.Store {
	t.Helper()
	s, err := gitstore.Open(filepath.Join(t.TempDir(), "store.git"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}
