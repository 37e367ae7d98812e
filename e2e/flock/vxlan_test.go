package flock

import (
	"strings"
	"testing"

	"github.com/pleachdev/pleach/e2e/lab"
)

// TestVXLAN: pods of all nodes reach each other through the tunnel, with a node lost, and when it is back.
func TestVXLAN(t *testing.T) {
	t.Parallel()
	f := newFlockWith(t, 3, func(r *lab.Repo) {
		r.Replace("pleach.yaml", "spec:\n", "spec:\n  network: {transport: vxlan}\n")
	})
	f.deployWeb()
	before := f.spread(6)
	lost, rest := f.machines[2], f.machines[:2]
	f.reachEachOther(before)
	for _, from := range f.machines {
		for _, to := range f.machines {
			if from != to {
				f.tunnelled(from, to)
			}
		}
	}

	f.kill(lost)
	after := f.settled(6, rest...)
	f.stays(before, after, rest...)
	sub := *f
	sub.machines = rest
	sub.reachEachOther(after)

	f.boot(lost)
	back := f.settledWith(6, before[lost.Name])
	f.stays(before, back, rest...)
	f.alive(f.machines...)
	f.repo.Replace(appDir+"/web.yaml", "replicas: 6", "replicas: 9")
	f.deploy("nine replicas", f.machines...)
	placed := f.settled(9, f.machines...)
	if len(placed[lost.Name]) == 0 {
		t.Errorf("the node that is back runs nothing: %v", placed)
	}
	f.reachEachOther(placed)
}

// tunnelled checks that packets to the pods of another node go into the tunnel, which knows where it is.
func (f *flock) tunnelled(from, to *machine) {
	f.t.Helper()
	pods, err := to.own(f.t.Context())
	f.must(err)
	route, err := from.Exec(f.t.Context(), "ip", "route", "get", pods[0].Status.PodIP)
	f.must(err)
	if !strings.Contains(string(route), " dev vxpleach0 ") {
		f.t.Errorf("from %s to %s: %s", from.Name, pods[0].Name, route)
	}
	f.hasWayTo(from, to, true)
}
