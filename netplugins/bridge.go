package netplugins

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
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
	if err := callNetfilter(have.Index); err != nil {
		return fmt.Errorf("bridge %s: netfilter: %w", d.Bridge, err)
	}
	return nil
}

// callNetfilter makes traffic between two ports of this bridge pass through netfilter: what was
// translated on its way in, to a pod of the same node, must be translated on its way back. It is set
// on this bridge alone; a kernel without bridge netfilter ignores it. netlink rather than sysfs,
// which shows the interfaces of the network namespace that it was mounted in.
func callNetfilter(index int) error {
	const iflaBrNfCallIptables = 36 // linux/if_link.h
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, []byte("bridge"))
	info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(iflaBrNfCallIptables, []byte{1})
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
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

// removeLink removes the link with this name, if there is one.
func removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	if err := netlink.LinkDel(link); err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	return nil
}
