package flock

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestWiped: a node comes back under its name with an empty disk: with the key that it had, and with a new
// one, at once and when its pods have been replaced. No slot runs twice, and nothing of what it was before
// counts.
func TestWiped(t *testing.T) {
	f := newFlock(t, 3)
	f.deployWeb()
	placed := f.spread(6)
	m, rest := f.machines[2], f.machines[:2]
	spectator := f.watchPods(rest...)

	for _, c := range []struct {
		name     string
		replaced bool // its pods, by the others
		newKey   bool
	}{
		{"with its key, at once", false, false},
		{"with a new key, at once", false, true},
		{"with its key, when it was replaced", true, false},
		{"with a new key, when it was replaced", true, true},
	} {
		if !t.Run(c.name, func(t *testing.T) {
			f := f.in(t)
			before, n := placed, len(all(placed))
			old := f.nodeKey(m)
			f.kill(m)
			if c.replaced {
				f.settled(n, rest...)
			}
			f.wipe(m, c.newKey)
			f.must(m.Start(t.Context()))
			head := f.repo.Head()
			if c.newKey {
				f.commit("node", "remove", m.Name, "--forget")
				f.add(m)
				head = f.push(rest...)
			}
			f.startAgent(m)
			f.waitHead(head, m)
			f.alive(f.machines...)
			placed = f.settledWith(n, before[m.Name])
			f.stays(before, placed, rest...)
			if c.replaced {
				f.repo.Replace(appDir+"/web.yaml", fmt.Sprintf("replicas: %d", n), fmt.Sprintf("replicas: %d", n+2))
				f.deploy("two more replicas", f.machines...)
				before, placed = placed, f.settled(n+2, f.machines...)
				f.stays(before, placed, f.machines...)
				if len(placed[m.Name]) != 2 {
					t.Errorf("%s does not run the two new pods: %v", m.Name, placed)
				}
			}
			f.agreed(placed)
			f.reachEachOther(placed)
			for _, other := range rest {
				if err := f.call(other, m.Name, old); (err == nil) == c.newKey {
					t.Errorf("%s answers to the key that the node had: %v", other.Name, err)
				}
			}
		}) {
			return
		}
	}
	// What the two others ran from the start they run still.
	f.always(spectator, 4, spectator.began.Add(2*near), "all the while")
}

// wipe empties the disk of a machine that is off. Unless it gets a new key, its keys were kept elsewhere.
func (f *flock) wipe(m *machine, newKey bool) {
	f.t.Helper()
	f.must(f.recorder.wipe(m.Name, newKey))
	entries, err := os.ReadDir(m.Dir)
	f.must(err)
	for _, e := range entries {
		if e.Name() != filepath.Base(m.dir()) {
			f.must(os.RemoveAll(filepath.Join(m.Dir, e.Name())))
		}
	}
	entries, err = os.ReadDir(m.dir())
	f.must(err)
	for _, e := range entries {
		if e.Name() != "registries" && (newKey || e.Name() != "keys") { // registries says where this lab's images are
			f.must(os.RemoveAll(filepath.Join(m.dir(), e.Name())))
		}
	}
}
