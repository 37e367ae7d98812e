package node_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
)

// leases compares the addresses that are leased with those of the pods.
func (f *flock) leases() error {
	entries, err := os.ReadDir(filepath.Join(f.dir(), "cni", "leases"))
	if err != nil {
		return err
	}
	var leased, wanted []string
	for _, e := range entries {
		if addr, err := netip.ParseAddr(e.Name()); err == nil {
			leased = append(leased, addr.String())
		}
	}
	pods, err := f.listPods(f.t.Context(), "")
	if err != nil {
		return err
	}
	for _, p := range pods {
		if !p.Spec.HostNetwork {
			wanted = append(wanted, p.Status.PodIP)
		}
	}
	slices.Sort(leased)
	slices.Sort(wanted)
	if !slices.Equal(leased, wanted) {
		return fmt.Errorf("leased are %v, and the pods have %v", leased, wanted)
	}
	return nil
}
