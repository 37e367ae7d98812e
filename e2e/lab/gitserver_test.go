package lab_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pleachdev/pleach/e2e/lab"
	"github.com/pleachdev/pleach/e2e/needs"
)

// gitLab starts a lab with a Git server, one repository with one pushed commit, and its author.
func gitLab(t *testing.T) (*lab.Lab, *lab.GitServer, *lab.Repo) {
	t.Helper()
	needs.Command(t, "git")
	needs.Command(t, "ssh-keygen")
	l := lab.New(t)
	server, err := l.GitServer()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Create(t.Context(), "config"); err != nil {
		t.Fatal(err)
	}
	key, err := lab.NewKey(t.Context(), l.Dir, "alice@example.org")
	if err != nil {
		t.Fatal(err)
	}
	repo := l.NewRepo(t, key, server.URL("config"))
	repo.Write("trust/allowed_signers", key.AllowedSigner())
	repo.Commit("first")
	repo.Push()
	return l, server, repo
}

func TestPushIsSeenAndHinted(t *testing.T) {
	_, server, repo := gitLab(t)
	hints := make(chan string, 4)
	agent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		hints <- r.Header.Get("X-Hub-Signature-256") + string(body)
	}))
	defer agent.Close()
	server.Hint("refs/heads/main", agent.URL+"/hint", "secret")

	repo.Git("push", "--quiet", "origin", "HEAD:refs/heads/other")
	repo.Write("apps/big.yaml", strings.Repeat("# more than git sends in one piece\n", 1<<16)+repo.Head())
	second := repo.Commit("second")
	repo.Push()

	select {
	case body := <-hints:
		if !strings.Contains(body, second) || !strings.HasPrefix(body, "sha256=") {
			t.Errorf("the hint is %s, want it signed and to tell of %s", body, second)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no hint after a push")
	}
	pushes := server.Pushes()
	if len(pushes) != 3 {
		t.Fatalf("the server saw %d pushes, want 3: %v", len(pushes), pushes)
	}
	last := pushes[2]
	if last.Ref != "refs/heads/main" || last.After != second || last.Before != pushes[0].After || last.Client != "127.0.0.1" {
		t.Errorf("the server saw %+v, want main moved from %s to %s", last, pushes[0].After, second)
	}
	if len(hints) != 0 {
		t.Errorf("also hinted: %s", <-hints)
	}
}

func TestGitServerLies(t *testing.T) {
	_, server, repo := gitLab(t)
	first := repo.Head()
	repo.Write("a", "1")
	second := repo.Commit("second")
	repo.Push()
	seen := func() string {
		t.Helper()
		line := repo.Git("ls-remote", "origin", "refs/heads/main")
		id, _, _ := strings.Cut(line, "\t")
		return id
	}
	steps := []struct {
		what string
		do   func()
		want string
	}{
		{"the truth", func() {}, second},
		{"somebody else is lied to", func() { server.Show("config", "10.99.0.1", "refs/heads/main", first) }, second},
		{"rewound", func() { server.Show("config", "127.0.0.1", "refs/heads/main", first) }, first},
		{"vanished", func() { server.Show("config", "127.0.0.1", "refs/heads/main", "") }, ""},
		{"the truth again", func() { server.ShowTruth("config") }, second},
		{"everybody is lied to", func() { server.Show("config", "", "refs/heads/main", first) }, first},
	}
	for _, step := range steps {
		step.do()
		if got := seen(); got != step.want {
			t.Errorf("%s: main is %q, want %q", step.what, got, step.want)
		}
	}
	// A lie does not touch pushes: this one is a fast-forward of the truth.
	repo.Write("a", "2")
	third := repo.Commit("third")
	repo.Push()
	refs, err := server.Refs(t.Context(), "config")
	if err != nil || refs["refs/heads/main"] != third {
		t.Errorf("after a push main is %v (%v), want %s", refs, err, third)
	}
}

func TestGitServerFails(t *testing.T) {
	l, server, repo := gitLab(t)
	server.Down(true)
	if _, err := repo.Try("ls-remote", "origin"); err == nil {
		t.Error("a server that is down answered")
	}
	server.Down(false)
	server.Slow(200 * time.Millisecond)
	start := time.Now()
	repo.Git("ls-remote", "origin")
	if took := time.Since(start); took < 200*time.Millisecond {
		t.Errorf("a slow server answered after %s", took)
	}
	server.Slow(0)

	server.Require("node", "secret")
	if _, err := repo.Try("ls-remote", "origin"); err == nil {
		t.Error("a stranger was let in")
	}
	host, port, _ := net.SplitHostPort(server.Address())
	l.Clone(t, repo.Key, "http://node:secret@"+net.JoinHostPort(host, port)+"/config.git")
}

func TestSignedCommits(t *testing.T) {
	l, _, repo := gitLab(t)
	stranger, err := lab.NewKey(t.Context(), l.Dir, "mallory@example.org")
	if err != nil {
		t.Fatal(err)
	}
	verify := func(id string) error {
		_, err := repo.Try("-c", "gpg.ssh.allowedSignersFile=trust/allowed_signers", "verify-commit", id)
		return err
	}
	own := repo.Commit("own")
	if err := verify(own); err != nil {
		t.Errorf("own key: %v", err)
	}
	if err := verify(repo.CommitUnsigned("unsigned")); err == nil {
		t.Error("an unsigned commit is good")
	}
	if err := verify(repo.CommitBy(stranger, "stranger")); err == nil {
		t.Error("a stranger's commit is good")
	}

	repo.Reset(own)
	if raw := repo.Raw(own); string(lab.Unsigned(raw)) == string(raw) {
		t.Errorf("nothing was removed from %s", raw)
	}
	again, err := lab.Sign(t.Context(), lab.Unsigned(repo.Raw(own)), repo.Key)
	if err != nil {
		t.Fatal(err)
	}
	if err := verify(repo.Forge(again)); err != nil {
		t.Errorf("signed by hand: %v", err)
	}
	twice, err := lab.Sign(t.Context(), again, stranger)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(repo.Raw(repo.Forge(twice))), "\ngpgsig "); n != 2 {
		t.Errorf("signed twice: %d signatures", n)
	}
	forged := lab.WithHeader(repo.Raw(own), "tree", strings.Repeat("0", 40))
	if n := strings.Count("\n"+string(repo.Raw(repo.Forge(forged))), "\ntree "); n != 2 {
		t.Errorf("a second tree header: %d headers", n)
	}

	repo.Reset(own)
	trap := repo.Tree("100644 blob " + repo.Blob("x") + "\t..")
	strange := repo.CommitTree("strange", repo.Tree("040000 tree "+trap+"\tapps", "120000 blob "+repo.Blob("/etc/passwd")+"\tlink"))
	if err := verify(strange); err != nil {
		t.Errorf("a tree made by hand: %v", err)
	}
	if names := repo.Git("ls-tree", "-r", "--name-only", strange); names != "apps/..\nlink" {
		t.Errorf("a tree made by hand holds %q", names)
	}
	if names := repo.Git("ls-tree", "-r", "--name-only", repo.CommitTree("empty", repo.Tree())); names != "" {
		t.Errorf("an empty tree holds %q", names)
	}

	repo.Reset(own)
	repo.Write("x", "1")
	bad := repo.Commit("bad")
	if err := verify(repo.Revert(bad)); err != nil {
		t.Errorf("revert: %v", err)
	}
	repo.Push()
	teammate := l.Clone(t, repo.Key, repo.Git("remote", "get-url", "origin"))
	teammate.Write("y", "1")
	teammate.Commit("teammate")
	repo.Write("z", "1")
	theirs := repo.Commit("meanwhile")
	repo.Push()
	merge := teammate.Pull()
	teammate.Push()
	if second := teammate.Git("rev-parse", merge+"^2"); second != theirs {
		t.Errorf("the second parent of a teammate's merge is %s, want %s", second, theirs)
	}
}
