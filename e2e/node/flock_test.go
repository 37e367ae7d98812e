package node_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/pleachdev/pleach/agent/api"
	"github.com/pleachdev/pleach/e2e/lab"
	"github.com/pleachdev/pleach/e2e/needs"
)

const (
	nodeName = "node-1"
	port     = "7433"
	app      = "test" // the one app of a new flock
	appDir   = "apps/" + app
	user     = "alice@example.org"
	// patience is for whatever happens soon on an idle machine, and must not fail on a busy one.
	patience = 90 * time.Second
)

// flock is one node in a lab of its own, following a config repository that the test writes.
type flock struct {
	t        *testing.T
	lab      *lab.Lab
	git      *lab.GitServer
	registry *lab.Registry
	node     *lab.Node
	repo     *lab.Repo // the user's clone
	api      *api.Client

	program      string // pleach
	introduction string // commit
	agentFlags   []string
}

// newFlock starts a node that follows a repository with one app, without objects, in appDir. Flags
// are added to the agent's.
//
// The registry stands for every registry of the world: it has the images of versions, "box:1" and
// what tests push.
func newFlock(t *testing.T, flags ...string) *flock {
	t.Helper()
	needs.Root(t)
	f := &flock{t: t, lab: lab.New(t), agentFlags: flags}
	f.setUp()
	f.startAgent()
	f.waitHead(f.introduction)
	f.waitHead(f.repo.Head())
	return f
}

// in is the flock for a subtest, which then fails by itself.
func (f *flock) in(t *testing.T) *flock {
	sub := *f
	sub.t = t
	sub.repo = f.lab.OpenRepo(t, f.repo.Key, f.repo.Dir)
	return &sub
}

// run runs a subtest on the flock.
func (f *flock) run(name string, test func(f *flock)) {
	f.t.Run(name, func(t *testing.T) { test(f.in(t)) })
}

// must ends the test on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// setUp makes the servers, the node, which is on, and the config repository.
func (f *flock) setUp() {
	f.t.Helper()
	ctx := f.t.Context()
	built, err := lab.Pleach()
	must(f.t, err)
	f.program, err = f.lab.Keep(built, "pleach")
	must(f.t, err)
	_, err = f.lab.NewUnderlay()
	must(f.t, err)
	f.git, err = f.lab.GitServer()
	must(f.t, err)
	must(f.t, f.git.Create(ctx, "flock"))
	f.registry, err = f.lab.Registry()
	must(f.t, err)
	f.pushImages()

	f.node, err = f.lab.NewNode(ctx, nodeName)
	must(f.t, err)
	must(f.t, f.registry.Mirror(filepath.Join(f.dir(), "registries")))
	must(f.t, f.node.Start(ctx))
	f.git.Hint("refs/heads/main", "http://"+f.node.Addr.String()+":"+port+"/hint", "")
	f.api = api.NewClient(filepath.Join(f.dir(), api.SocketName))
	f.initRepo()
}

// initRepo writes the config repository and pushes it.
func (f *flock) initRepo() {
	f.t.Helper()
	key, err := lab.NewKey(f.t.Context(), f.lab.Dir, user)
	must(f.t, err)
	dir := filepath.Join(f.lab.Dir, "config")
	f.introduction, err = lab.Enrol(f.t.Context(), f.program, dir, "test", key, "Alice", lab.Enrolled{Name: nodeName, Dir: f.dir()})
	must(f.t, err)
	f.repo = f.lab.OpenRepo(f.t, key, dir)
	f.repo.Git("remote", "add", "origin", f.git.URL("flock"))
	f.repo.Replace("pleach.yaml", "name: hello", "name: "+app)
	f.repo.Replace("pleach.yaml", "path: apps/hello", "path: "+appDir)
	f.repo.Remove("apps/hello")
	f.repo.Write(appDir+"/.gitkeep", "")
	f.repo.Commit("an app without objects")
	f.repo.Push()
}

// dir is the agent's directory as seen from outside; inside it is pleach's default.
func (f *flock) dir() string { return filepath.Join(f.node.Dir, "pleach") }

// startAgent starts the agent and returns when it answers.
func (f *flock) startAgent() {
	f.t.Helper()
	f.launchAgent()
	f.wait("the agent answers", func(ctx context.Context) error {
		_, err := f.api.Status(ctx)
		return err
	})
}

// launchAgent starts the agent and returns at once.
func (f *flock) launchAgent() {
	f.t.Helper()
	args := []string{
		f.program, "agent", "--node", nodeName, "--remote", f.git.NodeURL("flock"), "--introduction", f.introduction,
		"--listen", ":" + port,
	}
	_, err := f.node.StartAgent(append(args, f.agentFlags...)...)
	must(f.t, err)
}

// push commits the work tree, pushes it and waits until the node has followed: the commit is its
// head. Whether an app was refused is another question. Returns the commit's id.
func (f *flock) push(message string) string {
	f.t.Helper()
	id := f.repo.Commit(message)
	f.repo.Push()
	f.waitHead(id)
	return id
}

// deploy is push for a commit of which nothing may be refused.
func (f *flock) deploy(message string) string {
	f.t.Helper()
	id := f.push(message)
	for _, r := range f.status().Refusals {
		if r.Commit.ID == id {
			f.t.Fatalf("%s: refused: %s", message, r.Reason)
		}
	}
	return id
}

// waitHead waits until the node has verified a commit, or a later one.
func (f *flock) waitHead(id string) {
	f.t.Helper()
	f.wait("the node follows "+id[:12], func(ctx context.Context) error {
		status, err := f.api.Status(ctx)
		if err != nil {
			return err
		}
		if status.Head.ID == "" {
			return errors.New("nothing was accepted yet")
		}
		if _, err := f.repo.Try("merge-base", "--is-ancestor", id, status.Head.ID); err != nil {
			return fmt.Errorf("its head is %.12s", status.Head.ID)
		}
		return nil
	})
}

// wait waits for a condition with patience.
func (f *flock) wait(what string, condition lab.Condition) {
	f.t.Helper()
	lab.Wait(f.t, patience, what, condition)
}

// status asks the agent.
func (f *flock) status() *api.Status {
	f.t.Helper()
	status, err := f.api.Status(f.t.Context())
	must(f.t, err)
	return status
}

// kubectl runs the pleach command on the node, with kubectl's habits, and returns what it prints.
func (f *flock) kubectl(args ...string) string {
	f.t.Helper()
	out, err := f.try(args...)
	must(f.t, err)
	return out
}

// try is kubectl for a command that may fail; the error holds what it complained.
func (f *flock) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	out, err := f.node.Exec(ctx, append([]string{f.program}, args...)...)
	return string(out), err
}
