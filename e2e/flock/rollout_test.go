package flock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/e2e/lab"
)

// TestRollout: one push of six replicas over three nodes; then image changes, with a revert, with an agent
// that dies in the midst, with a node that is behind, and with a node that dies. None of the six is ever
// missed by who asks them over HTTP, but what the dead node ran.
func TestRollout(t *testing.T) {
	f := newFlock(t, 3)
	f.repo.Write(appDir+"/web.yaml", web)
	f.deploy("six replicas", f.machines...)
	placed := f.spread(6)
	spectator := f.watchPods(f.machines...)
	time.Sleep(2 * near) // until it has met all of them

	t.Run("pods reach each other", func(t *testing.T) { f.in(t).reachEachOther(placed) })
	t.Run("status branch", func(t *testing.T) { f.in(t).statusBranch() })

	began := time.Now().Add(near)
	steps := []struct {
		name  string
		image string
		midst func()
		mend  func()
	}{
		{"image change", nextImage, func() {}, func() {}},
		{"revert", image, func() {}, func() {}},
		{"an agent dies in the midst", nextImage, func() { f.killAgent(f.machines[1]) }, func() { f.startAgent(f.machines[1]) }},
	}
	for _, s := range steps {
		if !t.Run(s.name, func(t *testing.T) {
			f := f.in(t)
			f.change(s.image)
			f.midway(s.image)
			s.midst()
			s.mend()
			f.rolled(6, s.image, f.machines...)
			f.always(spectator, 6, began, s.name)
		}) {
			return
		}
	}

	t.Run("a node is behind", func(t *testing.T) {
		f := f.in(t)
		behind := f.machines[2]
		// Neither Git nor a peer tells it of the commit, and the others do not take it for dead yet.
		heal := f.isolate(behind)
		id := f.change(image)
		f.waitHead(id, f.machines[:2]...)
		lab.Hold(t, 2*time.Second, "no pod of a node that has not promised is given up", func(ctx context.Context) error {
			pods, err := behind.own(ctx)
			if err != nil {
				return err
			}
			for _, p := range pods {
				if p.Spec.Containers[0].Image != nextImage {
					return errors.New(p.Name + " is new")
				}
			}
			return nil
		})
		heal()
		f.rolled(6, image, f.machines...)
		f.always(spectator, 6, began, "a node was behind")
	})
	t.Run("a node dies in the midst", func(t *testing.T) {
		f := f.in(t)
		dead := f.machines[2]
		f.change(nextImage)
		f.midway(nextImage)
		f.kill(dead)
		f.rolled(6, nextImage, f.machines[:2]...)
		f.boot(dead)
		f.rolled(6, nextImage, f.machines...)
	})
}

// in is the flock for a subtest, which then fails by itself.
func (f *flock) in(t *testing.T) *flock {
	sub := *f
	sub.t, sub.repo = t, f.lab.OpenRepo(t, f.repo.Key, f.repo.Dir)
	return &sub
}

// change pushes another image.
func (f *flock) change(to string) string {
	f.t.Helper()
	from := image
	if to == image {
		from = nextImage
	}
	f.repo.Replace(appDir+"/web.yaml", from, to)
	return f.deploy("web at "+to, f.machines[0])
}

// midway waits until a rollout is under way: some pods run the image, and some do not.
func (f *flock) midway(image string) {
	f.t.Helper()
	f.wait("the rollout is under way", func(ctx context.Context) error {
		for _, m := range f.machines {
			pods, err := m.own(ctx)
			if err != nil {
				return err
			}
			for _, p := range pods {
				if p.Spec.Containers[0].Image == image && p.Status.Phase == corev1.PodRunning {
					return nil
				}
			}
		}
		return errors.New("no pod runs the new image")
	})
}

func (f *flock) reachEachOther(placed map[string][]string) {
	for _, to := range f.machines {
		pods, err := to.own(f.t.Context())
		f.must(err)
		for _, from := range f.machines {
			out, err := from.Exec(f.t.Context(), f.program, "exec", placed[from.Name][0], "--", "podcli", "check", "http", pods[0].Status.PodIP+":9898/healthz")
			if err != nil {
				f.t.Errorf("from %s to %s: %s%v", from.Name, pods[0].Name, out, err)
			}
		}
	}
}

// statusBranch: one commit has the documents of all nodes, and every commit of the branch is signed by a
// node that the repository knows.
func (f *flock) statusBranch() {
	const branch = "pleach/status"
	f.wait("one commit has all documents", func(context.Context) error {
		if _, err := f.repo.Try("fetch", "--quiet", "--force", "origin", "+refs/heads/"+branch+":refs/remotes/origin/"+branch); err != nil {
			return err
		}
		for _, m := range f.machines {
			body, err := f.repo.Try("show", "origin/"+branch+":status/"+m.Name+".json")
			if err != nil {
				return err
			}
			if n := strings.Count(body, `"ready": true`); n != 2 {
				return fmt.Errorf("%s says that %d pods are ready", m.Name, n)
			}
		}
		return nil
	})
	signers := filepath.Join(f.lab.Dir, "signers")
	f.must(os.WriteFile(signers, []byte(f.repo.Read("trust/allowed_signers")), 0o644))
	out, err := exec.CommandContext(f.t.Context(), "git", "-C", f.repo.Dir, "-c", "gpg.ssh.allowedSignersFile="+signers,
		"log", "--format=%G? %GS %H", "origin/"+branch).Output()
	f.must(err)
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "G node/") {
			f.t.Errorf("a status commit is not signed by a node: %s", line)
		}
	}
}
