package gitstore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/gitsync/internal/gittest"
)

func TestFetchAndRead(t *testing.T) {
	l := newLab(t)
	for name, remote := range l.remotes() {
		t.Run(name, func(t *testing.T) {
			l.T = t
			s := openStore(t)
			l.Git(l.Bare, "update-ref", "-d", mainRef)
			if refs, err := s.Refs(t.Context(), remote, mainRef); err != nil || len(refs) != 0 {
				t.Fatalf("refs of an empty repository: %v, %v", refs, err)
			}
			if _, err := s.Fetch(t.Context(), remote, mainRef); !errors.Is(err, gitstore.ErrMissingRef) {
				t.Fatalf("fetch from an empty repository: %v, want ErrMissingRef", err)
			}
			first := l.Commit("first", map[string]string{"pleach.yaml": "kind: Cluster\n", "apps/web/web.yaml": name + "\n"})
			l.Push()
			got, err := s.Fetch(t.Context(), remote, mainRef)
			if err != nil || got != first {
				t.Fatalf("fetch: %s, %v, want %s", got, err, first)
			}
			second := l.Commit("second\n\nwith a body", map[string]string{"apps/web/web.yaml": name + " two\n"})
			l.Push()
			if got, err = s.Fetch(t.Context(), remote, mainRef); err != nil || got != second {
				t.Fatalf("second fetch: %s, %v, want %s", got, err, second)
			}
			c, err := s.Commit(second)
			if err != nil {
				t.Fatal(err)
			}
			if c.Subject() != "second" || c.Parents[0] != first || c.Author.String() != "Ada <ada@example.com>" {
				t.Errorf("commit %+v", c)
			}
			if parent, err := s.Commit(first); err != nil || parent.Level+1 != c.Level {
				t.Errorf("levels: %v, then %v (%v)", parent, c.Level, err)
			}
			if err := s.CheckTree(second, gitstore.DefaultLimits()); err != nil {
				t.Error(err)
			}
			tree, err := s.Tree(second)
			if err != nil {
				t.Fatal(err)
			}
			if err := fstest.TestFS(tree, "pleach.yaml", "apps/web/web.yaml"); err != nil {
				t.Error(err)
			}
			if data, err := fs.ReadFile(tree, "apps/web/web.yaml"); err != nil || string(data) != name+" two\n" {
				t.Errorf("file: %q, %v", data, err)
			}
			want := strings.TrimSpace(l.Git(l.Work, "rev-parse", "HEAD:apps"))
			if id, ok := tree.Hash("apps"); !ok || id != want {
				t.Errorf("hash of apps: %s %v, want %s", id, ok, want)
			}
			if _, err := tree.ReadFile("apps/none"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a file that is not there: %v", err)
			}
			for _, q := range []struct {
				ancestor, of string
				want         bool
			}{{first, second, true}, {second, first, false}, {first, first, true}} {
				if got, err := s.IsAncestor(q.ancestor, q.of); err != nil || got != q.want {
					t.Errorf("IsAncestor(%.8s, %.8s) = %v, %v; want %v", q.ancestor, q.of, got, err, q.want)
				}
			}
		})
	}
}

func TestPollIsOneRequest(t *testing.T) {
	l := newLab(t)
	head := l.Commit("first", map[string]string{"a": "1"})
	l.Push()
	for i := range 50 {
		l.Git(l.Bare, "update-ref", fmt.Sprintf("refs/heads/other-%d", i), head)
	}
	s := openStore(t)
	for range 3 {
		before := l.Requests.Load()
		refs, err := s.Refs(t.Context(), l.HTTP, mainRef, "refs/heads/other-1", "refs/heads/none")
		if err != nil {
			t.Fatal(err)
		}
		// other-10 matches the prefix and must not be in the answer
		if len(refs) != 2 || refs[mainRef] != head || refs["refs/heads/other-1"] != head {
			t.Fatalf("refs %v", refs)
		}
		t.Logf("%d requests", l.Requests.Load()-before)
	}
	before := l.Requests.Load()
	if _, err := s.Refs(t.Context(), l.HTTP, mainRef); err != nil {
		t.Fatal(err)
	}
	if n := l.Requests.Load() - before; n != 1 {
		t.Errorf("a poll took %d requests, want 1", n)
	}
}

func TestOldServer(t *testing.T) {
	l := newLab(t)
	head := l.Commit("first", map[string]string{"a": "1"})
	l.Push()
	l.Git(l.Bare, "config", "protocol.version", "0")
	s := openStore(t)
	l.Git(l.Bare, "config", "uploadpack.advertiseBundleURIs", "false")
	// A proxy that hides the protocol header is what an old server looks like.
	proxy := gittest.WithoutV2(t, l.HTTP)
	refs, err := s.Refs(t.Context(), proxy, mainRef)
	if err != nil || refs[mainRef] != head {
		t.Fatalf("refs %v, %v", refs, err)
	}
	if got, err := s.Fetch(t.Context(), proxy, mainRef); err != nil || got != head {
		t.Fatalf("fetch %s, %v", got, err)
	}
}

func TestUnreachable(t *testing.T) {
	s := openStore(t)
	status := func(code int) gitstore.Remote {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }))
		t.Cleanup(srv.Close)
		return gitstore.Remote{URL: strings.Replace(srv.URL, "http://", "http://ada:hunter2@", 1) + "/x.git"}
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	html := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>log in</html>") }))
	defer html.Close()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") }))
	defer elsewhere.Close()
	redirect := httptest.NewServer(http.RedirectHandler(elsewhere.URL+"/x.git/info/refs", http.StatusFound))
	defer redirect.Close()
	for name, remote := range map[string]gitstore.Remote{
		"401": status(401), "403": status(403), "404": status(404), "500": status(500),
		"nobody listens": {URL: gone.URL + "/x.git"}, "a web page": {URL: html.URL},
		"redirect": {URL: strings.Replace(redirect.URL, "http://", "http://ada:hunter2@", 1) + "/x.git"},
		"no file":  {URL: "file:///nonexistent/x.git"},
	} {
		_, err := s.Fetch(t.Context(), remote, mainRef)
		if !errors.Is(err, gitstore.ErrUnreachable) {
			t.Errorf("%s: %v, want ErrUnreachable", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error shows the password: %v", name, err)
		}
		t.Log(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Refs(ctx, gitstore.Remote{URL: html.URL}, mainRef); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
