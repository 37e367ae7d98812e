package flock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pleachdev/pleach/e2e/lab"
	"github.com/pleachdev/pleach/e2e/needs"
)

const (
	user     = "alice@example.org"
	hintPort = "7433"
	appDir   = "apps/test"
	// patience is for whatever happens soon on an idle machine, and must not fail on a busy one.
	patience = 2 * time.Minute
)

// flock is several nodes of one config repository.
type flock struct {
	t            *testing.T
	lab          *lab.Lab
	underlay     *lab.Underlay
	git          *lab.GitServer
	registry     *lab.Registry
	repo         *lab.Repo
	machines     []*machine
	program      string
	introduction string
	recorder     *recorder
	each         []func(*lab.Node) error // done to a machine before it is switched on for the first time
}

// newFlock starts n nodes that follow a repository with one app, without objects, and waits until each
// has accepted it. At the end of the test the checker of the simulator judges what the nodes published.
// What is given as each is done to every machine before it is switched on for the first time.
func newFlock(t *testing.T, n int, each ...func(*lab.Node) error) *flock {
	t.Helper()
	return newFlockWith(t, n, func(*lab.Repo) {}, each...)
}

// newFlockWith is newFlock with a change of the config repository before any node has seen it.
func newFlockWith(t *testing.T, n int, change func(*lab.Repo), each ...func(*lab.Node) error) *flock {
	t.Helper()
	needs.Root(t)
	f := &flock{t: t, lab: lab.New(t), each: each}
	f.servers()
	f.recorder = &recorder{dir: filepath.Join(f.lab.Dir, "journals")}
	f.must(os.Mkdir(f.recorder.dir, 0o755))
	for range n {
		f.newMachine()
	}
	f.git.Hint("refs/heads/main", "http://"+f.machines[0].Addr.String()+":"+hintPort+"/hint", "")
	f.enrol(change)
	for _, m := range f.machines {
		f.startAgent(m)
	}
	f.waitHead(f.repo.Head(), f.machines...)
	t.Cleanup(f.judge)
	t.Cleanup(func() {
		if t.Failed() {
			f.explain()
		}
	})
	return f
}

// explain prints what each node that is on says of the flock.
func (f *flock) explain() {
	for _, m := range f.machines {
		for _, args := range [][]string{{"status"}, {"get", "pods", "-A", "-o", "wide"}, {"get", "nodes"}} {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			out, err := m.Exec(ctx, append([]string{f.program}, args...)...)
			cancel()
			f.t.Logf("%s: pleach %s: %v\n%s", m.Name, strings.Join(args, " "), err, out)
		}
	}
}

func (f *flock) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// servers makes the network, the Git server and the registry.
func (f *flock) servers() {
	f.t.Helper()
	ctx := f.t.Context()
	built, err := lab.Pleach()
	f.must(err)
	f.program, err = f.lab.Keep(built, "pleach")
	f.must(err)
	f.underlay, err = f.lab.NewUnderlay()
	f.must(err)
	f.git, err = f.lab.GitServer()
	f.must(err)
	f.must(f.git.Create(ctx, "flock"))
	f.registry, err = f.lab.Registry()
	f.must(err)
	for _, version := range []string{"6.14.1", "6.14.2"} {
		image, err := lab.Podinfo(ctx, version)
		f.must(err)
		_, err = f.registry.Push(ctx, "stefanprodan/podinfo:"+version, image)
		f.must(err)
	}
}

// enrol writes the config repository with all nodes and pushes it.
func (f *flock) enrol(change func(*lab.Repo)) {
	f.t.Helper()
	key, err := lab.NewKey(f.t.Context(), f.lab.Dir, user)
	f.must(err)
	dir := filepath.Join(f.lab.Dir, "config")
	var nodes []lab.Enrolled
	for _, m := range f.machines {
		nodes = append(nodes, lab.Enrolled{Name: m.Name, Dir: m.dir(), Address: m.Addr.String()})
	}
	f.introduction, err = lab.Enrol(f.t.Context(), f.program, dir, "test", key, "Alice", nodes...)
	f.must(err)
	f.repo = f.lab.OpenRepo(f.t, key, dir)
	f.repo.Git("remote", "add", "origin", f.git.URL("flock"))
	f.repo.Replace("pleach.yaml", "name: hello", "name: test")
	f.repo.Replace("pleach.yaml", "path: apps/hello", "path: "+appDir)
	f.repo.Remove("apps/hello")
	f.repo.Write(appDir+"/.gitkeep", "")
	change(f.repo)
	f.repo.Commit("an app without objects")
	f.repo.Push()
}

func (f *flock) wait(what string, condition lab.Condition) {
	f.t.Helper()
	lab.Wait(f.t, patience, what, condition)
}

// waitHead waits until nodes have accepted a commit, or a later one.
func (f *flock) waitHead(id string, nodes ...*machine) {
	f.t.Helper()
	for _, m := range nodes {
		f.wait(m.Name+" follows "+id[:12], func(ctx context.Context) error {
			status, err := m.api.Status(ctx)
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
}
