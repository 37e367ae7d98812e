package lab

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// GitServer is Git's own HTTP server, git-http-backend, with protocol version 2 and pushes allowed,
// over bare repositories in one directory. After a push to a branch it calls the hints that were
// asked for, as a forge calls a webhook.
//
// It can be down or slow, and it can lie: see [GitServer.Show].
type GitServer struct {
	*faulty
	dir     string
	backend cgi.Handler
	hinting sync.WaitGroup

	mu     sync.Mutex
	user   string // "" lets everybody in
	secret string
	hints  []hint
	watch  []func(Request)
	faces  map[face]map[string]string // to the refs shown otherwise: name → object id, "" when hidden
	reads  map[string]int
	pushes []Push
	dial   func(ctx context.Context, network, address string) (net.Conn, error)
}

// Push is one ref that a push changed.
type Push struct {
	Repository string
	Ref        string // "refs/heads/main"
	Before     string // "" when the ref is new
	After      string // "" when the ref is gone
	Client     string // address the push came from
	Time       time.Time
}

// Request is one request that was answered, a lie or not.
type Request struct {
	Client       string // address without port
	Action       string // what follows the repository in its path: "info/refs", "git-upload-pack", "git-receive-pack"
	Protocol     string // the header Git-Protocol: "version=2"; "" is the oldest
	Began, Ended time.Time
}

type hint struct{ ref, url, secret string }

// face is what one client is shown of one repository. Client "" is everybody.
type face struct{ repository, client string }

// GitServer starts a Git server without repositories. Make the underlay first if nodes shall reach it.
func (l *Lab) GitServer() (*GitServer, error) {
	g := &GitServer{
		dir:   filepath.Join(l.Dir, "git"),
		faces: make(map[face]map[string]string),
		reads: make(map[string]int),
		dial:  (&net.Dialer{}).DialContext,
	}
	if err := os.MkdirAll(g.dir, 0o755); err != nil {
		return nil, err
	}
	git, err := exec.LookPath("git")
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(l.Dir, "git-server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	l.Defer("close the Git server's log", log.Close)
	g.backend = cgi.Handler{
		Path:   git,
		Args:   []string{"http-backend"},
		Dir:    g.dir,
		Env:    append(gitEnv(g.dir), "GIT_PROJECT_ROOT="+g.dir, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=lab"),
		Stderr: log,
	}
	g.faulty = newFaulty(http.HandlerFunc(g.serve))
	if u := l.Underlay(); u != nil {
		g.dial = u.DialContext
	}
	l.Defer("wait for hints", func() error { g.hinting.Wait(); return nil })
	return g, g.open(l, "the Git server")
}

// gitEnv is an environment in which git sees no configuration but the repository's own.
func gitEnv(home string) []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "LC_ALL=C", "TZ=UTC",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0",
	}
}

// Create makes an empty bare repository whose default branch is main.
func (g *GitServer) Create(ctx context.Context, name string) error {
	if err := g.git(ctx, name, "init", "--quiet", "--bare", "--initial-branch=main", g.path(name)); err != nil {
		return err
	}
	for _, setting := range []string{"http.receivepack=true", "uploadpack.allowAnySHA1InWant=true", "receive.advertisePushOptions=true", "receive.denyDeleteCurrent=ignore", "gc.auto=0"} {
		key, value, _ := strings.Cut(setting, "=")
		if err := g.git(ctx, name, "-C", g.path(name), "config", key, value); err != nil {
			return err
		}
	}
	return nil
}

// URL is the repository's address for clients on this machine.
func (g *GitServer) URL(name string) string { return "http://" + g.Address() + "/" + name + ".git" }

// NodeURL is the repository's address for nodes and pods.
func (g *GitServer) NodeURL(name string) string {
	_, port, _ := net.SplitHostPort(g.Address())
	return "http://" + net.JoinHostPort(ServersAddr.String(), port) + "/" + name + ".git"
}

// Path is the directory of the bare repository: for file remotes, and to change the history behind
// everybody's back.
func (g *GitServer) Path(name string) string { return g.path(name) }

func (g *GitServer) path(name string) string { return filepath.Join(g.dir, name+".git") }

// Require asks every client for this user and password from now on; user "" lets everybody in.
func (g *GitServer) Require(user, password string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.user, g.secret = user, password
}

// Hint lets the server POST to url whenever a push changed ref ("refs/heads/main"). Addresses of
// nodes are reached. The body is a JSON object with repository, ref, before and after; with a secret
// it is signed as forges do, by the header X-Hub-Signature-256.
func (g *GitServer) Hint(ref, url, secret string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hints = append(g.hints, hint{ref, url, secret})
}

// Watch has f called after each request, before the client can be sure of its end. Calls may overlap.
func (g *GitServer) Watch(f func(Request)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.watch = append(g.watch, f)
}

// Pushes lists what pushes changed, oldest first, one entry for each ref.
func (g *GitServer) Pushes() []Push {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.pushes)
}

// Reads counts how often the client asked what there is: polls and the beginnings of clones and
// fetches. Client is an address without port; "" counts everybody's.
func (g *GitServer) Reads(client string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if client != "" {
		return g.reads[client]
	}
	sum := 0
	for _, n := range g.reads {
		sum += n
	}
	return sum
}

// Show lies: reads of the client see ref at object id, while everything else, and what others see,
// is true. An id of "" hides the ref. Client is an address without port; "" lies to everybody. An
// old id of a branch is a rewound server, or one that has frozen; two clients and two ids are a
// server with two faces. Pushes always meet the truth.
func (g *GitServer) Show(repository, client, ref, id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := face{repository, client}
	if g.faces[key] == nil {
		g.faces[key] = make(map[string]string)
	}
	g.faces[key][ref] = id
}

// ShowTruth ends all lies about the repository.
func (g *GitServer) ShowTruth(repository string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	maps.DeleteFunc(g.faces, func(f face, _ map[string]string) bool { return f.repository == repository })
}

// SetRef moves a ref on the server, to any object and without a push; "" deletes it.
func (g *GitServer) SetRef(ctx context.Context, repository, ref, id string) error {
	if id == "" {
		return g.git(ctx, repository, "-C", g.path(repository), "update-ref", "-d", ref)
	}
	return g.git(ctx, repository, "-C", g.path(repository), "update-ref", ref, id)
}

// Refs reads the true refs of a repository, name to object id.
func (g *GitServer) Refs(ctx context.Context, repository string) (map[string]string, error) {
	cmd := exec.CommandContext(ctx, "git", "-C", g.path(repository), "for-each-ref", "--format=%(refname) %(objectname)")
	cmd.Env = gitEnv(g.dir)
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list refs of %s: %w", repository, err)
	}
	refs := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		if name, id, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			refs[name] = id
		}
	}
	return refs, nil
}

func (g *GitServer) git(ctx context.Context, repository string, args ...string) error {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Env = gitEnv(g.dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: git %s: %w: %s", repository, args[0], err, bytes.TrimSpace(out))
	}
	return nil
}

func (g *GitServer) serve(w http.ResponseWriter, r *http.Request) {
	client, _, _ := net.SplitHostPort(r.RemoteAddr)
	name, action, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), ".git/")
	if !ok {
		http.NotFound(w, r)
		return
	}
	g.mu.Lock()
	user, secret, watch := g.user, g.secret, g.watch
	g.mu.Unlock()
	began := time.Now()
	defer func() {
		for _, f := range watch {
			f(Request{client, action, r.Header.Get("Git-Protocol"), began, time.Now()})
		}
	}()
	if u, s, _ := r.BasicAuth(); user != "" && (u != user || s != secret) {
		w.Header().Set("WWW-Authenticate", `Basic realm="lab"`)
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	// CGI wants to know the length of what it reads, and git sends large packs in chunks.
	if r.ContentLength < 0 {
		spool, err := spoolBody(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		defer func() { _ = spool.Close() }()
	}
	switch {
	case action == "git-receive-pack":
		g.receive(w, r, name, client)
		return
	case action == "info/refs" && r.URL.Query().Get("service") == "git-receive-pack":
	default:
		if action == "info/refs" {
			g.mu.Lock()
			g.reads[client]++
			g.mu.Unlock()
		}
		path, err := g.faceOf(r.Context(), name, client)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		if path != "" {
			r.URL.Path = "/" + path + "/" + action
		}
	}
	g.backend.ServeHTTP(w, r)
}

func (g *GitServer) receive(w http.ResponseWriter, r *http.Request, name, client string) {
	// A push that went through is told of even when its client does not wait for the answer.
	ctx := context.WithoutCancel(r.Context())
	before, err := g.Refs(ctx, name)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	g.backend.ServeHTTP(w, r)
	after, err := g.Refs(ctx, name)
	if err != nil {
		return
	}
	refs := slices.Compact(slices.Sorted(func(yield func(string) bool) {
		for _, m := range []map[string]string{before, after} {
			for ref := range m {
				if !yield(ref) {
					return
				}
			}
		}
	}))
	for _, ref := range refs {
		if before[ref] == after[ref] {
			continue
		}
		push := Push{Repository: name, Ref: ref, Before: before[ref], After: after[ref], Client: client, Time: time.Now()}
		g.mu.Lock()
		// Two pushes at a time may both see one change.
		known := slices.ContainsFunc(g.pushes, func(p Push) bool {
			return p.Repository == name && p.Ref == ref && p.Before == push.Before && p.After == push.After && push.Time.Sub(p.Time) < time.Second
		})
		if !known {
			g.pushes = append(g.pushes, push)
		}
		hints := slices.Clone(g.hints)
		g.mu.Unlock()
		for _, h := range hints {
			if h.ref == ref && !known {
				g.hinting.Go(func() { g.call(ctx, h, push) })
			}
		}
	}
}

// call gives one hint. A hint that is lost is no loss: who missed it polls.
func (g *GitServer) call(ctx context.Context, h hint, push Push) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	body, err := json.Marshal(map[string]string{
		"repository": push.Repository, "ref": push.Ref, "before": push.Before, "after": push.After,
	})
	if err != nil {
		return
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(body))
	if err != nil {
		return
	}
	request.Header.Set("Content-Type", "application/json")
	if h.secret != "" {
		mac := hmac.New(sha256.New, []byte(h.secret))
		mac.Write(body)
		request.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	}
	transport := &http.Transport{DialContext: g.dial, DisableKeepAlives: true}
	if response, err := transport.RoundTrip(request); err == nil {
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
	}
}

// faceOf makes the repository that the client is shown, with the objects of the true one and refs
// of its own, and gives its name in the server's directory; "" when the client sees the truth.
func (g *GitServer) faceOf(ctx context.Context, name, client string) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := face{name, client}
	shown, ok := g.faces[key]
	if !ok {
		key.client = ""
		if shown, ok = g.faces[key]; !ok {
			return "", nil
		}
	}
	refs, err := g.Refs(ctx, name)
	if err != nil {
		return "", err
	}
	for ref, id := range shown {
		refs[ref] = id
		if id == "" {
			delete(refs, ref)
		}
	}
	base := strings.ReplaceAll("face-"+name+"-"+key.client, ":", "-")
	path := g.path(base)
	if _, err := os.Stat(path); err != nil {
		if err := g.git(ctx, name, "init", "--quiet", "--bare", "--initial-branch=main", path); err != nil {
			return "", err
		}
		alternates := filepath.Join(path, "objects", "info", "alternates")
		if err := os.WriteFile(alternates, []byte(filepath.Join(g.path(name), "objects")+"\n"), 0o644); err != nil {
			return "", err
		}
	}
	var packed strings.Builder
	packed.WriteString("# pack-refs with: sorted\n")
	for _, ref := range slices.Sorted(maps.Keys(refs)) {
		fmt.Fprintf(&packed, "%s %s\n", refs[ref], ref)
	}
	next := filepath.Join(path, "packed-refs.next")
	if err := os.WriteFile(next, []byte(packed.String()), 0o644); err != nil {
		return "", err
	}
	return base + ".git", os.Rename(next, filepath.Join(path, "packed-refs"))
}

// spoolBody reads the request's body into a file without a name, which the caller closes, and
// gives the request a length.
func spoolBody(r *http.Request) (*os.File, error) {
	spool, err := os.CreateTemp("", prefix+"-body-")
	if err != nil {
		return nil, err
	}
	_ = os.Remove(spool.Name())
	n, err := io.Copy(spool, r.Body)
	if err == nil {
		_, err = spool.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = spool.Close()
		return nil, err
	}
	r.Body, r.ContentLength, r.TransferEncoding = spool, n, nil
	return spool, nil
}
