package cni

import (
	"cmp"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pleachdev/pleach/netplugins/ipam"
	"github.com/pleachdev/pleach/netplugins/rules"
)

// Pods returns the pods of leases, the oldest first. Leases without an owner are left out.
func Pods(leases map[netip.Addr]ipam.Lease) []rules.Pod {
	var out []rules.Pod
	for _, addr := range slices.SortedFunc(maps.Keys(leases), func(a, b netip.Addr) int {
		return cmp.Or(leases[a].Made.Compare(leases[b].Made), a.Compare(b))
	}) {
		if l := leases[addr]; l.Sandbox != "" {
			out = append(out, rules.Pod{Link: HostLink(l.Owner), HardwareAddr: HardwareAddr(addr), Address: addr, Ports: l.Ports})
		}
	}
	return out
}

// setPods brings the rules up to the leases. Holding the lease lock, it never writes an older state
// over a newer one.
func (c Config) setPods() error {
	return c.leases().View(func(leases map[netip.Addr]ipam.Lease) error {
		return rules.SetPods(c.Bridge, Pods(leases))
	})
}

// forget ends what the kernel remembers of UDP to ports of the node: a sender that never pauses would
// stay with the pod that had the port before, or with none.
func forget(ports []ipam.Port) error {
	var errs []error
	for _, p := range ports {
		if p.Protocol != unix.IPPROTO_UDP {
			continue
		}
		filter := &netlink.ConntrackFilter{}
		err := filter.AddProtocol(p.Protocol)
		if err == nil {
			err = filter.AddPort(netlink.ConntrackOrigDstPort, p.HostPort)
		}
		if err == nil {
			_, err = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.FAMILY_V4, filter)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
