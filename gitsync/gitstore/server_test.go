package gitstore_test

import (
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pleachdev/pleach/e2e/needs"
	"github.com/pleachdev/pleach/gitsync/gitstore"
)

// lab is a bare repository behind git's own HTTP server, and a work tree to push from.
type lab struct {
	t        testing.TB
	bare     string
	work     string
	http     gitstore.Remote
	file     gitstore.Remote
	requests atomic.Int64
}

func newLab(t testing.TB) *lab {
	t.Helper()
	needs.Command(t, "git")
	dir := t.TempDir()
	l := &lab{t: t, bare: filepath.Join(dir, "srv", "config.git"), work: filepath.Join(dir, "work")}
	l.git("", "init", "-q", "--bare", "-b", "main", l.bare)
	l.git(l.bare, "config", "http.receivepack", "true")
	l.git("", "init", "-q", "-b", "main", l.work)
	l.git(l.work, "remote", "add", "origin", l.bare)
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(l.git("", "--exec-path")), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + filepath.Dir(l.bare), "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=lab"},
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.requests.Add(1)
		h := *backend
		if p := r.Header.Get("Git-Protocol"); p != "" {
			h.Env = append(h.Env[:len(h.Env):len(h.Env)], "GIT_PROTOCOL="+p)
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	l.http = gitstore.Remote{URL: srv.URL + "/config.git"}
	l.file = gitstore.Remote{URL: "file://" + l.bare}
	return l
}

func (l *lab) git(dir string, args ...string) string {
	l.t.Helper()
	return l.gitIn(dir, "", args...)
}

func (l *lab) gitIn(dir, stdin string, args ...string) string {
	l.t.Helper()
	cmd := exec.CommandContext(l.t.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com", "GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.com")
	out, err := cmd.CombinedOutput()
	if err != nil {
		l.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// commit writes files ("" removes one), commits and returns the id.
func (l *lab) commit(message string, files map[string]string) string {
	l.t.Helper()
	for name, content := range files {
		path := filepath.Join(l.work, filepath.FromSlash(name))
		if content == "" {
			if err := os.Remove(path); err != nil {
				l.t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			l.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			l.t.Fatal(err)
		}
	}
	l.git(l.work, "add", "-A")
	l.git(l.work, "commit", "-q", "--allow-empty", "-m", message)
	return strings.TrimSpace(l.git(l.work, "rev-parse", "HEAD"))
}

func (l *lab) push() {
	l.t.Helper()
	l.git(l.work, "push", "-q", "-f", "origin", "HEAD:refs/heads/main")
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

const mainRef = "refs/heads/main"

// stripProtocol returns the remote as a server that knows no protocol version 2 shows it.
func stripProtocol(t testing.TB, r gitstore.Remote) gitstore.Remote {
	t.Helper()
	target, err := url.Parse(r.URL)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.Out.URL.Scheme, p.Out.URL.Host = target.Scheme, target.Host
		p.Out.Header.Del("Git-Protocol")
	}})
	t.Cleanup(srv.Close)
	return gitstore.Remote{URL: srv.URL + target.Path}
}
