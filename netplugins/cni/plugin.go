// Package cni is the CNI plugin of Pleach: it gives a pod one veth link to the node's bridge, an
// address of the node's podCIDR and a default route. The bridge itself and all that lies behind it
// belong to package netplugins.
//
// Every step can be repeated: an ADD that was killed anywhere is completed by the next ADD and
// undone by DEL, also when the network namespace is gone.
package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/vishvananda/netlink"

	"github.com/pleachdev/pleach/netplugins/ipam"
)

// Main runs the plugin as the CNI specification says: the command in the environment, the
// configuration on stdin, the result on stdout. It exits with status 1 after an error.
func Main() {
	skel.PluginMainFuncs(
		skel.CNIFuncs{Add: add, Del: del, Check: check, GC: gc, Status: status},
		version.PluginSupports("0.4.0", "1.0.0", Version),
		"CNI plugin "+Type+": one link of a pod to the node's bridge",
	)
}

func add(args *skel.CmdArgs) (err error) {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	bridge, err := bridgeLink(c.Bridge)
	if err != nil {
		return err
	}
	owner := ipam.Owner{Sandbox: args.ContainerID, Ifname: args.IfName}
	ports, err := c.ports()
	if err != nil {
		return err
	}
	addr, err := c.leases().Acquire(owner, ports...)
	if errors.Is(err, ipam.ErrExhausted) {
		return types.NewError(types.ErrTryAgainLater, err.Error(), "the node's podCIDR is too small for its pods")
	}
	if err != nil {
		return err
	}
	if err := c.setPods(); err != nil { // before there is a link: without a rule nothing that it sends passes
		return fmt.Errorf("rules for pod sandbox %s: %w", args.ContainerID, err)
	}
	if err := forget(ports); err != nil {
		return fmt.Errorf("ports of pod sandbox %s: %w", args.ContainerID, err)
	}
	// No release on failure: the runtime calls DEL after a failed ADD, and GC finds the rest.
	host, err := connect(bridge, owner, args.Netns, netip.PrefixFrom(addr, c.PodCIDR.Bits()), c.MTU)
	if err != nil {
		return fmt.Errorf("connect pod sandbox %s to %s: %w", args.ContainerID, c.Bridge, err)
	}
	return types.PrintResult(result(c, args, bridge, host, addr), c.CNIVersion)
}

func result(c Config, args *skel.CmdArgs, bridge, host netlink.Link, addr netip.Addr) *current.Result {
	gateway := net.IP(ipam.Gateway(c.PodCIDR).AsSlice())
	return &current.Result{
		CNIVersion: Version,
		Interfaces: []*current.Interface{
			{Name: c.Bridge, Mac: bridge.Attrs().HardwareAddr.String()},
			{Name: host.Attrs().Name, Mac: host.Attrs().HardwareAddr.String()},
			{Name: args.IfName, Mac: HardwareAddr(addr).String(), Sandbox: args.Netns},
		},
		IPs: []*current.IPConfig{{
			Interface: new(2),
			Address:   ipNet(netip.PrefixFrom(addr, c.PodCIDR.Bits())),
			Gateway:   gateway,
		}},
		Routes: []*types.Route{{Dst: anywhere(), GW: gateway}},
	}
}

// del succeeds when nothing of the pod's network is left, whoever removed it.
func del(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	owner := ipam.Owner{Sandbox: args.ContainerID, Ifname: args.IfName}
	// The link goes first: an address is free only when nobody answers to it any more.
	if err := disconnect(owner); err != nil {
		return fmt.Errorf("disconnect pod sandbox %s: %w", args.ContainerID, err)
	}
	leases, err := c.leases().Leases()
	if err != nil {
		return err
	}
	if err := c.leases().Release(owner); err != nil {
		return err
	}
	if err := c.setPods(); err != nil && !errors.Is(err, fs.ErrNotExist) { // without tables there is nothing to remove
		return fmt.Errorf("rules of pod sandbox %s: %w", args.ContainerID, err)
	}
	for _, l := range leases {
		if l.Owner == owner {
			err = errors.Join(err, forget(l.Ports))
		}
	}
	return err
}

func check(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	bridge, err := bridgeLink(c.Bridge)
	if err != nil {
		return err
	}
	leases, err := c.leases().Leases()
	if err != nil {
		return err
	}
	owner := ipam.Owner{Sandbox: args.ContainerID, Ifname: args.IfName}
	for addr, have := range leases {
		if have.Owner == owner {
			return checkConnected(bridge, owner, args.Netns, netip.PrefixFrom(addr, c.PodCIDR.Bits()))
		}
	}
	return fmt.Errorf("pod sandbox %s has no address in %s", args.ContainerID, c.LeaseDir)
}

func gc(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	live := make(map[string]bool, len(c.ValidAttachments))
	for _, a := range c.ValidAttachments {
		live[a.ContainerID] = true
	}
	if err := c.leases().GC(live, time.Now().Add(-ipam.Settle)); err != nil {
		return err
	}
	return c.setPods()
}

func status(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	if _, err := bridgeLink(c.Bridge); err != nil {
		return types.NewError(types.ErrPluginNotAvailable, err.Error(), "")
	}
	if err := os.MkdirAll(c.LeaseDir, 0o755); err != nil {
		return types.NewError(types.ErrPluginNotAvailable, err.Error(), "")
	}
	return nil
}
