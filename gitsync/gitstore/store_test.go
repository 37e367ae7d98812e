package gitstore_test

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pleachdev/pleach/gitsync/gitstore"
)

// A branch that is set back or replaced is fetched as it is; what it has left stays readable, also
// after the store was opened again.
func TestRewoundAndForked(t *testing.T) {
	l := newLab(t)
	dir := filepath.Join(t.TempDir(), "store.git")
	s, err := gitstore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	first := l.Commit("first", map[string]string{"a": "1"})
	second := l.Commit("second", map[string]string{"a": "2"})
	l.Push()
	fetch := func(want string) {
		t.Helper()
		if got, err := s.Fetch(t.Context(), l.HTTP, mainRef); err != nil || got != want {
			t.Fatalf("fetch: %s, %v, want %s", got, err, want)
		}
	}
	fetch(second)
	l.Git(l.Work, "reset", "-q", "--hard", first)
	l.Push()
	fetch(first)
	fork := l.Commit("fork", map[string]string{"a": "3"})
	l.Push()
	l.Git(l.Bare, "reflog", "expire", "--expire=now", "--all")
	l.Git(l.Bare, "gc", "-q", "--prune=now") // the server does not know second any more
	fetch(fork)
	other := l.Git(l.Work, "commit-tree", "-m", "no parent", "HEAD^{tree}")
	l.Git(l.Work, "reset", "-q", "--hard", strings.TrimSpace(other))
	l.Push()
	fetch(strings.TrimSpace(other))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = gitstore.Open(dir); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for _, id := range []string{first, second, fork} {
		if err := s.CheckTree(id, gitstore.DefaultLimits()); err != nil {
			t.Errorf("left commit %s: %v", id, err)
		}
	}
	if ok, err := s.IsAncestor(second, fork); ok || err != nil {
		t.Errorf("IsAncestor across the fork: %v, %v", ok, err)
	}
	l.Git(dir, "fsck", "--strict") // the refs keep all of it reachable
	if out := l.Git(dir, "for-each-ref"); !strings.Contains(out, "left-"+second) {
		t.Errorf("refs: %s", out)
	}
}

// What a crash leaves half written does not matter, and what gets lost is fetched again.
func TestStoreMendsItself(t *testing.T) {
	l := newLab(t)
	dir := filepath.Join(t.TempDir(), "store.git")
	open := func() *gitstore.Store {
		t.Helper()
		s, err := gitstore.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	l.Commit("first", map[string]string{"a": "1", "dir/b": "2"})
	l.Push()
	if _, err := s.Fetch(t.Context(), l.HTTP, mainRef); err != nil {
		t.Fatal(err)
	}
	head := l.Commit("second", map[string]string{"dir/b": "3"})
	l.Push()
	if _, err := s.Fetch(t.Context(), l.HTTP, mainRef); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	packs, err := filepath.Glob(filepath.Join(dir, "objects", "pack", "*.pack"))
	if err != nil || len(packs) != 2 {
		t.Fatalf("packs %v, %v", packs, err)
	}
	for _, lost := range packs {
		// The pack is gone and its index is not, as after a crash between the two.
		if err := os.Remove(lost); err != nil {
			t.Fatal(err)
		}
		junk := filepath.Join(dir, "objects", "pack", "tmp_fetch_1")
		if err := os.WriteFile(junk, []byte("half a pack"), 0o600); err != nil {
			t.Fatal(err)
		}
		s = open()
		for _, gone := range []string{junk, strings.TrimSuffix(lost, ".pack") + ".idx"} {
			if _, err := os.Stat(gone); err == nil {
				t.Errorf("%s was not swept", gone)
			}
		}
		// A reader may be the first to notice.
		if err := s.CheckTree(head, gitstore.DefaultLimits()); err != nil {
			oe, ok := errors.AsType[*gitstore.ObjectError](err)
			if !errors.Is(err, gitstore.ErrIncomplete) && (!ok || !oe.Missing) {
				t.Errorf("a loss is taken for a bad commit: %v", err)
			}
		}
		if _, err := s.Fetch(t.Context(), l.HTTP, mainRef); err != nil {
			t.Fatal(err)
		}
		if err := s.CheckTree(head, gitstore.DefaultLimits()); err != nil {
			t.Errorf("after mending: %v", err)
		}
		l.Git(dir, "fsck", "--strict")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestManyReaders(t *testing.T) {
	l := newLab(t)
	s := openStore(t)
	l.Commit("first", map[string]string{"a": "1", "dir/b": "2"})
	l.Push()
	head, err := s.Fetch(t.Context(), l.HTTP, mainRef)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := s.Tree(head)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if _, err := fs.ReadFile(tree, "dir/b"); err != nil {
					t.Error(err)
				}
				if err := s.CheckTree(head, gitstore.DefaultLimits()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 20 {
		l.Commit(fmt.Sprint(i), map[string]string{"a": fmt.Sprint(i + 10)})
		l.Push()
		if _, err := s.Fetch(t.Context(), l.HTTP, mainRef); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
}

// packBomb is a pack with one object that says it is as large as size.
func packBomb(kind byte, size uint64, content []byte) []byte {
	var p bytes.Buffer
	p.WriteString("PACK")
	_ = binary.Write(&p, binary.BigEndian, [2]uint32{2, 1})
	b := kind<<4 | byte(size&15)
	for size >>= 4; size > 0; size >>= 7 {
		p.WriteByte(b | 0x80)
		b = byte(size & 0x7f)
	}
	p.WriteByte(b)
	if kind == 7 { // a delta against some object
		p.Write(bytes.Repeat([]byte{1}, 20))
	}
	z := zlib.NewWriter(&p)
	_, _ = z.Write(content)
	_ = z.Close()
	sum := sha1.Sum(p.Bytes())
	p.Write(sum[:])
	return p.Bytes()
}

// A server that announces one thing and sends another: bombs, and packs without the commit.
func TestHostilePacks(t *testing.T) {
	want := strings.Repeat("ab", 20)
	var pack []byte
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pkt := func(s string) string { return fmt.Sprintf("%04x%s", len(s)+4, s) }
		body, _ := io.ReadAll(r.Body)
		switch {
		case r.Method == http.MethodGet:
			_, _ = io.WriteString(w, pkt("version 2\n")+pkt("ls-refs\n")+"0000")
		case bytes.Contains(body, []byte("ls-refs")):
			_, _ = io.WriteString(w, pkt(want+" "+mainRef+"\n")+"0000")
		default:
			_, _ = io.WriteString(w, pkt("NAK\n"))
			for rest := pack; len(rest) > 0; {
				n := min(len(rest), 60_000)
				_, _ = io.WriteString(w, pkt("\x01"+string(rest[:n])))
				rest = rest[n:]
			}
			_, _ = io.WriteString(w, "0000")
		}
	}))
	defer srv.Close()
	delta := append(binary.AppendUvarint(binary.AppendUvarint(nil, 10), 1<<40), 0x90, 10)
	for _, tt := range []struct {
		name string
		pack []byte
		want string
	}{
		{"large object", packBomb(3, 1<<33, nil), "more than the limits"},
		{"large by delta", packBomb(7, uint64(len(delta)), delta), "more than the limits"},
		{"longer than it says", packBomb(3, 3, bytes.Repeat([]byte("x"), 1<<20)), "exceeds declared size"},
		{"something else", packBomb(3, 5, []byte("hello")), "not in the store"},
		{"no pack", []byte("hello"), "pack"},
		{"cut", packBomb(3, 5, []byte("hello"))[:20], "pack"},
		{"no base", packBomb(7, 4, []byte{5, 5, 0x90, 5}), "pack"},
	} {
		s := openStore(t)
		pack = tt.pack
		start := time.Now()
		_, err := s.Fetch(t.Context(), gitstore.Remote{URL: srv.URL}, mainRef)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if left, _ := filepath.Glob(filepath.Join(s.Dir(), "objects", "pack", "tmp_*")); len(left) > 0 {
			t.Errorf("%s: left behind %v", tt.name, left)
		}
		t.Logf("%s: %v (%v)", tt.name, err, time.Since(start))
	}
}

func TestCredentials(t *testing.T) {
	l := newLab(t)
	head := l.Commit("first", map[string]string{"a": "1"})
	l.Push()
	guarded := guard(t, l.HTTP, "ada", "hunter2")
	withUserinfo := gitstore.Remote{URL: strings.Replace(guarded.URL, "http://", "http://ada:hunter2@", 1)}
	for _, r := range []gitstore.Remote{withUserinfo, {URL: guarded.URL, Username: "ada", Password: "hunter2"}} {
		s := openStore(t)
		if got, err := s.Fetch(t.Context(), r, mainRef); err != nil || got != head {
			t.Errorf("fetch: %s, %v", got, err)
		}
		id, objects := build(t, s, nodeKey(t), "", "x")
		ref := fmt.Sprintf("%s-%.8s", statusRef, id)
		if err := s.Push(t.Context(), r, []gitstore.Update{{Name: ref, New: id}}, objects); err != nil {
			t.Errorf("push: %v", err)
		}
	}
	s := openStore(t)
	if _, err := s.Fetch(t.Context(), gitstore.Remote{URL: guarded.URL, Password: "wrong"}, mainRef); !errors.Is(err, gitstore.ErrUnreachable) ||
		!strings.Contains(err.Error(), "credentials") || strings.Contains(err.Error(), "wrong") {
		t.Errorf("wrong password: %v", err)
	}
	for _, bad := range []string{"ssh://host/x", "file://host/x", "host:x", "http://", "http://h/x?y", ":"} {
		if _, err := s.Refs(t.Context(), gitstore.Remote{URL: bad}, mainRef); err == nil || errors.Is(err, gitstore.ErrUnreachable) {
			t.Errorf("%q: %v, want an error about the URL", bad, err)
		}
	}
	for _, bad := range []string{"main", "refs/heads/a b", "refs/heads/x\n0000", "refs/heads/../x", ""} {
		if _, err := s.Refs(t.Context(), l.HTTP, bad); err == nil {
			t.Errorf("ref %q: accepted", bad)
		}
	}
}
