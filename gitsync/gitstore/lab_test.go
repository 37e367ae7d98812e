package gitstore_test

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
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

// guard asks for a password in front of a remote.
func guard(t testing.TB, r gitstore.Remote, username, password string) gitstore.Remote {
	t.Helper()
	target, err := url.Parse(r.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.Out.URL.Scheme, p.Out.URL.Host = target.Scheme, target.Host
	}}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if u, p, _ := req.BasicAuth(); u != username || p != password {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		proxy.ServeHTTP(w, req)
	}))
	t.Cleanup(srv.Close)
	return gitstore.Remote{URL: srv.URL + target.Path}
}
