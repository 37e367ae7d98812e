package gitsync

import (
	"errors"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pleachdev/pleach/gitsync/gitstore"
)

// forge is git's own HTTP server over a bare repository.
type forge struct {
	*httptest.Server
	down atomic.Bool
}

func newForge(t *testing.T, repo string) *forge {
	t.Helper()
	exe, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	backend := &cgi.Handler{
		Path:       filepath.Join(strings.TrimSpace(string(exe)), "git-http-backend"),
		Env:        []string{"GIT_PROJECT_ROOT=" + filepath.Dir(repo), "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=test"},
		InheritEnv: []string{"PATH"},
	}
	f := &forge{}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.down.Load() {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		if v := r.Header.Get("Git-Protocol"); v != "" {
			h := *backend
			h.Env = append([]string{"GIT_PROTOCOL=" + v}, backend.Env...)
			h.ServeHTTP(w, r)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(f.Close)
	return f
}

// clone is a teammate's working copy, used as people do.
type clone struct {
	t   *testing.T
	dir string
	who string
}

func (c clone) git(args ...string) string {
	c.t.Helper()
	dir, _ := keys() // newStory has checked the error
	args = append([]string{
		"-c", "user.name=" + c.who, "-c", "user.email=" + c.who + "@example.com", "-c", "gpg.format=ssh",
		"-c", "user.signingkey=" + filepath.Join(dir, c.who), "-c", "commit.gpgsign=true", "-c", "pull.rebase=false",
	}, args...)
	cmd := exec.Command("git", args...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_EDITOR=true")
	out, err := cmd.CombinedOutput()
	if err != nil {
		c.t.Fatalf("%s: git %s: %v: %s", c.who, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit writes one app's image and commits it.
func (c clone) commit(app, tag string) {
	c.t.Helper()
	file := filepath.Join(c.dir, "apps", app, app+".yaml")
	if err := os.WriteFile(file, []byte(deployment(app, tag)), 0o644); err != nil {
		c.t.Fatal(err)
	}
	c.git("commit", "-qam", app+" "+tag)
}

// Two people work over HTTP with git pull and git push; one reverts the other.
func TestTeam(t *testing.T) {
	t.Parallel()
	s := newStory(t)
	s.run("start ada start")
	s.git("update-ref", "refs/heads/main", s.ids["start"])
	s.git("symbolic-ref", "HEAD", "refs/heads/main")
	s.git("config", "http.receivepack", "true")
	s.git("config", "core.bare", "true")
	f := newForge(t, filepath.Join(s.dir, ".git"))
	url := f.URL + "/.git"
	var team []clone
	for _, who := range []string{"ada", "bob"} {
		c := clone{t, t.TempDir(), who}
		c.git("clone", "-q", url, ".")
		team = append(team, c)
	}
	ada, bob := team[0], team[1]
	y, err := Open(t.Context(), Config{
		Dir: s.state, Remote: gitstore.Remote{URL: strings.Replace(url, "http://", "http://user:hunter2@", 1)}, Branch: "main", Introduction: s.ids["start"],
	})
	if err != nil {
		t.Fatal(err)
	}
	s.syncer = y
	sync := func(label string, by clone) {
		t.Helper()
		s.labels[by.git("rev-parse", "HEAD")] = label
		s.sync()
	}
	sync("start", ada)
	s.expect("head start\ncluster start\nshop start shop=1\nweb start web=1")

	ada.commit("web", "2")
	ada.git("push", "-q")
	sync("web2", ada)
	s.expect("head web2\ncluster web2\nshop web2 shop=1\nweb web2 web=2")

	bob.commit("shop", "2")
	bob.git("pull", "-q", "--no-edit") // makes ada's commit the second parent
	bob.git("push", "-q")
	sync("pulled", bob)
	s.expect("head pulled\ncluster pulled\nshop pulled shop=2\nweb pulled web=2")

	ada.git("pull", "-q")
	ada.git("revert", "--no-edit", "-m", "2", "HEAD")
	ada.git("push", "-q")
	sync("reverted", ada)
	s.expect("head reverted\ncluster reverted\nshop reverted shop=1\nweb reverted web=2")

	bob.git("pull", "-q")
	bob.git("reset", "-q", "--hard", "HEAD~1")
	bob.git("push", "-q", "--force")
	sync("", bob)
	s.expect("alarm: branch \"main\" was set back to …\nhead reverted\ncluster reverted\nshop reverted shop=1\nweb reverted web=2")

	f.down.Store(true)
	s.sync()
	if !errors.Is(s.err, ErrUnreachable) {
		t.Errorf("a server that is down: %v, want %v", s.err, ErrUnreachable)
	}
	r := s.syncer.Remote()
	if r.Err == "" || r.Alarm == "" || !r.LastOK.Before(r.LastTry) {
		t.Errorf("with the server down: %+v", r)
	}
	if strings.Contains(r.URL+r.Err+r.Alarm, "hunter2") {
		t.Errorf("a password is shown: %+v", r)
	}
	if s.syncer.Accepted() == nil {
		t.Error("with the server down nothing is accepted any more")
	}
	f.down.Store(false)
	ada.git("push", "-q", "--force")
	sync("reverted", ada)
	s.expect("head reverted\ncluster reverted\nshop reverted shop=1\nweb reverted web=2")
}

// Without its state, a node cannot know that the branch was newer: only the introduction protects.
func TestRewoundWithoutState(t *testing.T) {
	t.Parallel()
	s := newStory(t)
	s.run("start ada start\ntwo ada web=2\nthree ada web=3\npush three")
	if err := s.syncer.Close(); err != nil {
		t.Fatal(err)
	}
	s.syncer, s.state = nil, t.TempDir()
	s.run("push two")
	s.expect("head two\ncluster two\nshop two shop=1\nweb two web=2")
	s.run("other ada on other start\npush other")
	s.expect("alarm: branch \"main\" is at …, which does not contain the accepted commit …\nhead two\ncluster two\nshop two shop=1\nweb two web=2")
}

// A state file that is lost or damaged costs a walk, and nothing else.
func TestDamagedState(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(path string) error{
		"lost":      os.Remove,
		"empty":     func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"cut":       func(p string) error { return os.Truncate(p, 200) },
		"other":     func(p string) error { return os.WriteFile(p, []byte(`{"version":99}`), 0o600) },
		"unrelated": func(p string) error { return os.WriteFile(p, []byte(`{"version":1,"trusted":{"id":"0123"}}`), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStory(t)
			s.run("start ada start web/b=1,2\ntwo ada web=2\nbad eve web=3 shop=7\nthree ada -web/b\npush three")
			before := jsonOf(t, s.syncer.Accepted())
			path := s.syncer.statePath()
			if err := s.syncer.Close(); err != nil {
				t.Fatal(err)
			}
			if err := damage(path); err != nil {
				t.Fatal(err)
			}
			// A killed writer's file must not stay either.
			leftover := filepath.Join(s.state, ".accepted.json-1")
			if err := os.WriteFile(leftover, []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
			s.syncer = s.open(s.state)
			if _, err := os.Stat(leftover); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s stays: %v", leftover, err)
			}
			if s.syncer.Accepted() != nil {
				t.Error("accepted from a damaged file")
			}
			if r := s.syncer.Remote(); (r.Err == "") != (name == "lost") {
				t.Errorf("remote says %q", r.Err)
			}
			s.sync()
			if after := jsonOf(t, s.syncer.Accepted()); after != before {
				t.Errorf("got:\n%s\nwant:\n%s", after, before)
			}
		})
	}
}

// A file of another introduction is not this node's.
func TestIntroductionChanges(t *testing.T) {
	t.Parallel()
	s := newStory(t)
	s.run("start ada start\ntwo ada web=2\npush two")
	if err := s.syncer.Close(); err != nil {
		t.Fatal(err)
	}
	s.ids["start"] = s.ids["two"]
	s.syncer = s.open(s.state)
	s.sync()
	s.expect("head two\ncluster two\nshop two shop=1\nweb two web=2")
	if got, want := s.about(s.find("web/web")), "g1 at two, 2@two"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestIntroductionMustStand(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, script, want string }{
		{"unsigned", "start - start\npush start", "error: introduction …: is not signed: name a commit that its own trust/allowed_signers vouches for"},
		{"stranger", "start eve start\npush start", "error: introduction …: signed by a key that trust/allowed_signers does not know…"},
		{"broken", "start ada start file:pleach.yaml=a:_b\npush start", "error: introduction …: pleach.yaml:1: …"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newStory(t)
			s.run(tc.script)
			s.expect(tc.want)
		})
	}
}
