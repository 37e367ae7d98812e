package netplugins

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pleachdev/pleach/netplugins/cni"
	"github.com/pleachdev/pleach/netplugins/ipam"
)

// ErrPeer is returned by [Apply] when the pods of some peers cannot be reached, all else being as wanted.
var ErrPeer = errors.New("pods of another node cannot be reached")

// Transport says how packets go from node to node.
type Transport string

// The transports.
const (
	Direct  Transport = "direct" // as they are, by a route to the peer, which is on a link of this machine
	Overlay Transport = "vxlan"  // in UDP, wherever the peer is
)

// VXLAN is the tunnel of [Overlay], the same on all nodes.
type VXLAN struct {
	Port uint16 // UDP; 4789 when 0
	VNI  uint32 // 1 to 2^24-1; 1 when 0
}

func (v VXLAN) filled() VXLAN {
	if v.Port == 0 {
		v.Port = 4789 // RFC 7348
	}
	if v.VNI == 0 {
		v.VNI = 1
	}
	return v
}

// Peer is another node.
type Peer struct {
	Node     string
	PodCIDRs []netip.Prefix // within the cluster's range
	Address  netip.Addr     // by which it is reached, IPv4
}

const (
	vxlanPrefix = "vx" // before the bridge's name
	vxlanAdds   = 50   // bytes: Ethernet 14, IP 20, UDP 8, VXLAN 8
	protocol    = 112  // of our routes
	lastMetric  = 1 << 24
)

// check says what is wrong with a peer.
func (p Peer) check(d Desired) error {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("node %s: %w: %s", p.Node, ErrPeer, fmt.Sprintf(format, args...))
	}
	if !p.Address.Is4() {
		return wrong("it has no IPv4 address: add the annotation pleach.dev/address to nodes/%s.yaml", p.Node)
	}
	if len(p.PodCIDRs) == 0 {
		return wrong("it has no podCIDR")
	}
	for _, c := range p.PodCIDRs {
		if !c.IsValid() || !c.Addr().Is4() || c.Bits() < d.ClusterCIDR.Bits() || !d.ClusterCIDR.Contains(c.Addr()) {
			return wrong("podCIDR %s is not within the cluster's %s", c, d.ClusterCIDR)
		}
		if c.Overlaps(d.PodCIDR) {
			return wrong("podCIDR %s overlaps this node's %s", c, d.PodCIDR)
		}
	}
	return nil
}

// underlayMTU is what a pod's packets may have.
func (d Desired) underlayMTU() int {
	mtu := 1500
	if link := linkOf(d.Underlay); link != nil {
		mtu = link.Attrs().MTU
	}
	if d.Transport == Overlay {
		mtu -= vxlanAdds
	}
	return min(mtu, 65535)
}

// linkOf returns the link that has an address; nil when none has.
func linkOf(a netip.Addr) netlink.Link {
	if !a.Is4() {
		return nil
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil
	}
	for _, have := range addrs {
		if have.IP.Equal(a.AsSlice()) {
			link, err := netlink.LinkByIndex(have.LinkIndex)
			if err != nil {
				return nil
			}
			return link
		}
	}
	return nil
}

// applyPeers makes the ways to the pods of the peers, and removes others of ours. A route is ours by
// its protocol and its source, the bridge's address, with which the kernel removes it too.
func applyPeers(d Desired) error {
	var errs []error
	var device netlink.Link
	if d.Transport == Overlay {
		var err error
		if device, err = applyVXLAN(d); err != nil {
			return fmt.Errorf("vxlan %s: %w", vxlanPrefix+d.Bridge, err)
		}
	} else if err := removeLink(vxlanPrefix + d.Bridge); err != nil {
		return err
	}
	gateway := ipam.Gateway(d.PodCIDR)
	// What is for nobody must not leave by the default route, nor come in by it.
	want := []netlink.Route{{Dst: prefixNet(d.ClusterCIDR), Type: unix.RTN_UNREACHABLE, Priority: lastMetric}}
	owner := map[string]Peer{}
	var tunnels []Peer
	for _, p := range d.Peers {
		if err := p.check(d); err != nil {
			errs = append(errs, err)
			continue
		}
		tunnels = append(tunnels, p)
		for _, c := range p.PodCIDRs {
			r := netlink.Route{Dst: prefixNet(c.Masked()), Type: unix.RTN_UNICAST, Gw: p.Address.AsSlice()}
			if device != nil {
				r.Gw, r.LinkIndex, r.Flags = ipam.Gateway(p.PodCIDRs[0]).AsSlice(), device.Attrs().Index, int(netlink.FLAG_ONLINK)
			}
			want, owner[r.Dst.String()] = append(want, r), p
		}
	}
	if device != nil {
		if err := applyTunnels(device, tunnels); err != nil {
			return fmt.Errorf("vxlan %s: %w", device.Attrs().Name, err)
		}
	}
	for i := range want {
		want[i].Src, want[i].Protocol, want[i].Table = gateway.AsSlice(), protocol, unix.RT_TABLE_MAIN
	}
	have, err := ourRoutes(gateway)
	if err != nil {
		return fmt.Errorf("routes: %w", err)
	}
	for i := range have {
		if !slices.ContainsFunc(want, func(w netlink.Route) bool { return sameRoute(have[i], w) }) {
			if err := netlink.RouteDel(&have[i]); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("remove the route to %s: %w", have[i].Dst, err)
			}
		}
	}
	for i := range want {
		w := want[i]
		if slices.ContainsFunc(have, func(h netlink.Route) bool { return sameRoute(h, w) }) {
			continue
		}
		err := netlink.RouteAppend(&w)
		switch p, ok := owner[w.Dst.String()]; {
		case err == nil:
		case !ok:
			return fmt.Errorf("unreachable route to %s: %w", w.Dst, err)
		case d.Transport == Direct && errors.Is(err, unix.ENETUNREACH):
			errs = append(errs, fmt.Errorf("node %s: %w: its address %s is not on a link of this machine; "+
				"spec.network.transport: vxlan in pleach.yaml needs no common link", p.Node, ErrPeer, p.Address))
		default:
			errs = append(errs, fmt.Errorf("node %s: %w: route to %s: %w", p.Node, ErrPeer, w.Dst, err))
		}
	}
	return errors.Join(errs...)
}

// ourRoutes lists the routes that applyPeers made.
func ourRoutes(gateway netip.Addr) ([]netlink.Route, error) {
	all, err := netlink.RouteListFiltered(netlink.FAMILY_V4,
		&netlink.Route{Protocol: protocol, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	return slices.DeleteFunc(all, func(r netlink.Route) bool { return !r.Src.Equal(gateway.AsSlice()) || r.Dst == nil }), err
}

// sameRoute compares what applyPeers chooses. Where it left the link open, the kernel found it.
func sameRoute(have, want netlink.Route) bool {
	return have.Dst.String() == want.Dst.String() && have.Type == want.Type && have.Gw.Equal(want.Gw) &&
		have.Priority == want.Priority && (want.LinkIndex == 0 || have.LinkIndex == want.LinkIndex) &&
		have.Flags&int(netlink.FLAG_ONLINK) == want.Flags&int(netlink.FLAG_ONLINK)
}

// applyVXLAN makes the tunnel's device. It learns nothing: where a packet goes is written down.
func applyVXLAN(d Desired) (netlink.Link, error) {
	name, mac := vxlanPrefix+d.Bridge, tunnelAddr(ipam.Gateway(d.PodCIDR))
	link, err := netlink.LinkByName(name)
	if err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, err
	}
	if err == nil {
		v, ok := link.(*netlink.Vxlan)
		if !ok || v.VxlanId != int(d.VXLAN.VNI) || v.Port != int(d.VXLAN.Port) || !v.SrcAddr.Equal(d.Underlay.AsSlice()) || v.Learning {
			if err := netlink.LinkDel(link); err != nil {
				return nil, err
			}
			link = nil
		}
	}
	if link == nil || err != nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = name, d.MTU, mac
		v := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: int(d.VXLAN.VNI), Port: int(d.VXLAN.Port), SrcAddr: d.Underlay.AsSlice()}
		if err := netlink.LinkAdd(v); err != nil {
			return nil, fmt.Errorf("make it: %w", err)
		}
		if link, err = netlink.LinkByName(name); err != nil {
			return nil, err
		}
	}
	if link.Attrs().MTU != d.MTU {
		if err := netlink.LinkSetMTU(link, d.MTU); err != nil {
			return nil, fmt.Errorf("mtu %d: %w", d.MTU, err)
		}
	}
	if link.Attrs().HardwareAddr.String() != mac.String() {
		if err := netlink.LinkSetHardwareAddr(link, mac); err != nil {
			return nil, fmt.Errorf("address %s: %w", mac, err)
		}
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(link); err != nil {
			return nil, fmt.Errorf("up: %w", err)
		}
	}
	return link, nil
}

// tunnelAddr is the MAC address of a node's end of the tunnel, by the address of its bridge.
func tunnelAddr(gateway netip.Addr) net.HardwareAddr {
	mac := cni.HardwareAddr(gateway)
	mac[1]++ // the bridge has the other
	return mac
}

// applyTunnels makes the device's tables of neighbours and of where they are be those of the peers.
func applyTunnels(device netlink.Link, peers []Peer) error {
	index := device.Attrs().Index
	want := map[string]netlink.Neigh{}
	key := func(n netlink.Neigh) string { return fmt.Sprint(n.Family, n.IP, n.HardwareAddr) }
	for _, p := range peers {
		gateway := ipam.Gateway(p.PodCIDRs[0])
		for _, n := range []netlink.Neigh{
			{LinkIndex: index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT, IP: gateway.AsSlice(), HardwareAddr: tunnelAddr(gateway)},
			{
				LinkIndex: index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF,
				IP: p.Address.AsSlice(), HardwareAddr: tunnelAddr(gateway),
			},
		} {
			want[key(n)] = n
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_BRIDGE} {
		have, err := netlink.NeighList(index, family)
		if err != nil {
			return fmt.Errorf("neighbours: %w", err)
		}
		for i := range have {
			n := have[i]
			n.Family = family
			if n.State&netlink.NUD_PERMANENT == 0 || n.IP.IsMulticast() {
				continue
			}
			if _, ok := want[key(n)]; ok {
				delete(want, key(n))
				continue
			}
			if err := netlink.NeighDel(&n); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("remove neighbour %s: %w", n.IP, err)
			}
		}
	}
	for _, n := range want {
		if err := netlink.NeighSet(&n); err != nil {
			return fmt.Errorf("neighbour %s: %w", n.IP, err)
		}
	}
	return nil
}

func prefixNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}
