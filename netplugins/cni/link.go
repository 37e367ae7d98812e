package cni

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/pleachdev/pleach/netplugins/ipam"
)

// HostLink is the name of the node's end of an owner's link. It follows from the owner, so that DEL
// finds the link when the sandbox's namespace is gone.
func HostLink(o ipam.Owner) string {
	h := sha256.Sum256([]byte(o.String()))
	return "veth" + hex.EncodeToString(h[:])[:11] // 15 bytes, the kernel's limit
}

// HardwareAddr is the MAC address that goes with a pod's or a bridge's IPv4 address. It follows from
// the address, so that a neighbour who remembers the last holder of a reused address is right.
func HardwareAddr(a netip.Addr) net.HardwareAddr {
	v4 := a.As4()
	return net.HardwareAddr{0x0a, 0x58, v4[0], v4[1], v4[2], v4[3]}
}

func bridgeLink(name string) (netlink.Link, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("bridge %s: %w: the agent makes and repairs it", name, err)
	}
	if l.Type() != "bridge" {
		return nil, fmt.Errorf("bridge %s: want a bridge, found a %s", name, l.Type())
	}
	return l, nil
}

// connect makes the link of o between bridge and the namespace at nsPath, and configures the pod's
// end. An old link of the same owner, whole or half made, is replaced. It returns the node's end.
func connect(bridge netlink.Link, o ipam.Owner, nsPath string, addr netip.Prefix, mtu int) (netlink.Link, error) {
	ns, err := netns.GetFromPath(nsPath)
	if err != nil {
		return nil, fmt.Errorf("network namespace %s: %w", nsPath, err)
	}
	defer ns.Close()
	if err := disconnect(o); err != nil {
		return nil, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = HostLink(o)
	attrs.MTU = mtu
	attrs.MasterIndex = bridge.Attrs().Index
	veth := netlink.NewVeth(attrs)
	veth.PeerName = o.Ifname
	veth.PeerHardwareAddr = HardwareAddr(addr.Addr())
	veth.PeerNamespace = netlink.NsFd(int(ns))
	if err := netlink.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("veth %s: %w", attrs.Name, err)
	}
	host, err := netlink.LinkByName(attrs.Name)
	if err != nil {
		return nil, fmt.Errorf("veth %s: %w", attrs.Name, err)
	}
	// Hairpin: a pod that calls its own service comes back through its own port.
	if err := netlink.LinkSetHairpin(host, true); err != nil {
		return nil, fmt.Errorf("hairpin of %s: %w", attrs.Name, err)
	}
	if err := netlink.LinkSetUp(host); err != nil {
		return nil, fmt.Errorf("%s up: %w", attrs.Name, err)
	}
	if err := configure(ns, o.Ifname, addr); err != nil {
		return nil, fmt.Errorf("%s in %s: %w", o.Ifname, nsPath, err)
	}
	return host, nil
}

// configure gives the pod's end its address and default route.
func configure(ns netns.NsHandle, ifname string, addr netip.Prefix) error {
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	pod, err := h.LinkByName(ifname)
	if err != nil {
		return err
	}
	n := ipNet(addr)
	if err := h.AddrAdd(pod, &netlink.Addr{IPNet: &n}); err != nil {
		return fmt.Errorf("address %s: %w", addr, err)
	}
	if err := h.LinkSetUp(pod); err != nil {
		return fmt.Errorf("up: %w", err)
	}
	dst := anywhere()
	route := &netlink.Route{LinkIndex: pod.Attrs().Index, Dst: &dst, Gw: ipam.Gateway(addr).AsSlice()}
	if err := h.RouteAdd(route); err != nil {
		return fmt.Errorf("default route via %s: %w", route.Gw, err)
	}
	return nil
}

// disconnect removes the link of o, if there is one; the pod's end goes with the node's.
func disconnect(o ipam.Owner) error {
	l, err := netlink.LinkByName(HostLink(o))
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return err
	}
	// ENODEV: the kernel was removing the namespace, and the link with it, at the same time
	if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
		return err
	}
	return nil
}

func checkConnected(bridge netlink.Link, o ipam.Owner, nsPath string, addr netip.Prefix) error {
	host, err := netlink.LinkByName(HostLink(o))
	if err != nil {
		return fmt.Errorf("node's end of the link: %w", err)
	}
	if host.Attrs().MasterIndex != bridge.Attrs().Index {
		return fmt.Errorf("%s is not attached to %s", host.Attrs().Name, bridge.Attrs().Name)
	}
	ns, err := netns.GetFromPath(nsPath)
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", nsPath, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	pod, err := h.LinkByName(o.Ifname)
	if err != nil {
		return fmt.Errorf("%s in %s: %w", o.Ifname, nsPath, err)
	}
	addrs, err := h.AddrList(pod, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	want := ipNet(addr)
	if !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IPNet.String() == want.String() }) {
		return fmt.Errorf("%s in %s does not have the address %s", o.Ifname, nsPath, addr)
	}
	return nil
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func anywhere() net.IPNet { return ipNet(netip.PrefixFrom(netip.IPv4Unspecified(), 0)) }
