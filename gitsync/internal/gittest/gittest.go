// Package gittest gives tests a real Git server.
package gittest

import (
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pleachdev/pleach/e2e/needs"
	"github.com/pleachdev/pleach/gitsync/gitstore"
)

// Lab is a bare repository behind git's own HTTP server, and a work tree to push from.
type Lab struct {
	T        testing.TB // fails when a command does; a subtest sets its own
	Bare     string
	Work     string
	HTTP     gitstore.Remote
	File     gitstore.Remote
	Requests atomic.Int64 // that came over HTTP
}

// MainRef is the branch that Push moves.
const MainRef = "refs/heads/main"

// New starts a server that ends with the test.
func New(t testing.TB) *Lab {
	t.Helper()
	needs.Command(t, "git")
	dir := t.TempDir()
	l := &Lab{T: t, Bare: filepath.Join(dir, "srv", "config.git"), Work: filepath.Join(dir, "work")}
	l.Git("", "init", "-q", "--bare", "-b", "main", l.Bare)
	l.Git(l.Bare, "config", "http.receivepack", "true")
	l.Git("", "init", "-q", "-b", "main", l.Work)
	l.Git(l.Work, "remote", "add", "origin", l.Bare)
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(l.Git("", "--exec-path")), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + filepath.Dir(l.Bare), "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=lab"},
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.Requests.Add(1)
		h := *backend
		if p := r.Header.Get("Git-Protocol"); p != "" {
			h.Env = append(slices.Clip(h.Env), "GIT_PROTOCOL="+p)
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	l.HTTP = gitstore.Remote{URL: srv.URL + "/config.git"}
	l.File = gitstore.Remote{URL: "file://" + l.Bare}
	return l
}

// Git runs git in dir and returns what it prints.
func (l *Lab) Git(dir string, args ...string) string {
	l.T.Helper()
	return l.GitIn(dir, "", args...)
}

// GitIn is Git with something on standard input.
func (l *Lab) GitIn(dir, stdin string, args ...string) string {
	l.T.Helper()
	cmd := exec.CommandContext(l.T.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com", "GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.com")
	out, err := cmd.CombinedOutput()
	if err != nil {
		l.T.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Commit writes files ("" removes one), commits and returns the id.
func (l *Lab) Commit(message string, files map[string]string) string {
	l.T.Helper()
	for name, content := range files {
		path := filepath.Join(l.Work, filepath.FromSlash(name))
		if content == "" {
			if err := os.Remove(path); err != nil {
				l.T.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			l.T.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			l.T.Fatal(err)
		}
	}
	l.Git(l.Work, "add", "-A")
	l.Git(l.Work, "commit", "-q", "--allow-empty", "-m", message)
	return strings.TrimSpace(l.Git(l.Work, "rev-parse", "HEAD"))
}

// Push moves the server's main branch to the work tree's head, forwards or not.
func (l *Lab) Push() {
	l.T.Helper()
	l.Git(l.Work, "push", "-q", "-f", "origin", "HEAD:"+MainRef)
}

// WithoutV2 returns the remote as a server that knows no protocol version 2 shows it.
func WithoutV2(t testing.TB, r gitstore.Remote) gitstore.Remote {
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
