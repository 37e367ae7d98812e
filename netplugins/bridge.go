package netplugins

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pleachdev/pleach/netplugins/cni"
	"github.com/pleachdev/pleach/netplugins/ipam"
)

// applyBridge makes the bridge, its address and its settings.
func applyBridge(d Desired) error {
	gateway := ipam.Gateway(d.PodCIDR)
	mac := cni.HardwareAddr(gateway)
	link, err := netlink.LinkByName(d.Bridge)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = d.Bridge, d.MTU, mac
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return fmt.Errorf("make bridge %s: %w", d.Bridge, err)
		}
		link, err = netlink.LinkByName(d.Bridge)
	}
	if err != nil {
		return fmt.Errorf("bridge %s: %w", d.Bridge, err)
	}
	if link.Type() != "bridge" {
		return fmt.Errorf("bridge %s: a %s has this name: choose another with --bridge", d.Bridge, link.Type())
	}
	have := link.Attrs()
	if have.MTU != d.MTU {
		if err := netlink.LinkSetMTU(link, d.MTU); err != nil {
			return fmt.Errorf("bridge %s: mtu %d: %w", d.Bridge, d.MTU, err)
		}
	}
	// A bridge without a fixed address takes the lowest of its ports, and changes it under the pods
	// whenever one comes or goes.
	if have.HardwareAddr.String() != mac.String() {
		if err := netlink.LinkSetHardwareAddr(link, mac); err != nil {
			return fmt.Errorf("bridge %s: address %s: %w", d.Bridge, mac, err)
		}
	}
	if err := applyBridgeAddr(link, netip.PrefixFrom(gateway, d.PodCIDR.Bits())); err != nil {
		return fmt.Errorf("bridge %s: %w", d.Bridge, err)
	}
	if have.Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("bridge %s up: %w", d.Bridge, err)
		}
	}
	// Traffic between two pods of this bridge that was translated on its way in must be translated
	// on its way back, so it passes through netfilter too. Set on this bridge alone. A kernel without
	// the bridge netfilter has no such file.
	err = sysctl("/sys/class/net/"+d.Bridge+"/bridge/nf_call_iptables", "1")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("bridge %s: %w", d.Bridge, err)
	}
	return nil
}

// applyBridgeAddr makes want the only IPv4 address of the bridge: an old podCIDR must not stay.
func applyBridgeAddr(link netlink.Link, want netip.Prefix) error {
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	found := false
	for _, a := range addrs {
		if a.IPNet.String() == want.String() {
			found = true
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil {
			return fmt.Errorf("remove address %s: %w", a.IPNet, err)
		}
	}
	if found {
		return nil
	}
	n := &net.IPNet{IP: want.Addr().AsSlice(), Mask: net.CIDRMask(want.Bits(), 32)}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: n}); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add address %s: %w", want, err)
	}
	return nil
}

func removeBridge(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("bridge %s: %w", name, err)
	}
	if err := netlink.LinkDel(link); err != nil {
		return fmt.Errorf("bridge %s: %w", name, err)
	}
	return nil
}
