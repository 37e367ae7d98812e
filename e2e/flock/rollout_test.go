package flock

import (
	"context"
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/state"
)

// TestRollout: one push of six replicas over three nodes; then image changes, with a revert, with an agent
// that dies in the midst, with a node that is behind, and with a node that dies. None of the six is ever
// missed by who asks them over HTTP, but what the dead node ran.
func TestRollout(t *testing.T) {
	f := newFlock(t, 3)
	f.deployWeb()
	placed := f.spread(6)
	spectator, _ := f.watchAll()

	t.Run("pods reach each other", func(t *testing.T) { f.in(t).reachEachOther(placed) })
	t.Run("status branch", func(t *testing.T) { f.in(t).verified() })

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
		behind, rest := f.machines[2], f.machines[:2]
		old, err := f.placed(t.Context(), 6, f.machines...)
		f.must(err)
		// Neither Git nor a peer tells it of the commit, and the others do not hold it for gone yet.
		heal := f.isolate(behind)
		f.waitHead(f.change(image), rest...)
		f.heldBack(behind, rest, old)
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

// heldBack looks at the nodes that have accepted a commit for as long as none of them holds the one that has not
// for gone: none of their pods ends, since that one has not promised to start no change of its own. In so
// long a time a rollout is over.
func (f *flock) heldBack(behind *machine, rest []*machine, old map[string][]string) {
	f.t.Helper()
	const enough = 3 * time.Second
	for began := time.Now(); !f.t.Failed(); time.Sleep(askEvery) {
		have := map[string][]string{}
		for _, m := range rest {
			pods, err := m.own(f.t.Context())
			f.must(err)
			for _, p := range pods {
				have[m.Name] = append(have[m.Name], p.Name)
			}
		}
		// Asked afterwards: what was seen before it was held for gone was decided before as well.
		for _, m := range rest {
			st, err := m.api.Status(f.t.Context())
			f.must(err)
			for _, n := range st.Nodes {
				if n.Name == behind.Name && n.Standing == state.Gone {
					if d := time.Since(began); d < enough {
						f.t.Errorf("it was held for gone after %s, so that this shows nothing", d)
					}
					return
				}
			}
		}
		f.stays(old, have, rest...)
	}
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

// reachEachOther asks a pod of every node from one on every node.
func (f *flock) reachEachOther(placed map[string][]string) {
	for _, to := range f.machines {
		pods, err := to.own(f.t.Context())
		f.must(err)
		for _, from := range f.machines {
			if len(pods) == 0 || len(placed[from.Name]) == 0 {
				continue
			}
			out, err := from.Exec(f.t.Context(), f.program, "exec", placed[from.Name][0], "--", "podcli", "check", "http", pods[0].Status.PodIP+":9898/healthz")
			if err != nil {
				f.t.Errorf("from %s to %s: %s%v", from.Name, pods[0].Name, out, err)
			}
		}
	}
}
