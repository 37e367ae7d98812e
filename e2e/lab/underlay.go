package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The network that nodes are plugged into.
var (
	// ServersAddr is where nodes and pods reach the lab's servers. It is also the nodes' default
	// gateway and so, for pods, the outside world.
	ServersAddr = netip.MustParseAddr("10.99.0.254")

	machineAddr    = netip.MustParseAddr("10.99.0.253")
	underlayPrefix = netip.MustParsePrefix("10.99.0.0/24")
)

const bridgeName = "br0"

// Underlay is the bridge between the nodes, in a network namespace without a name. It belongs to
// this process: when that ends, so do the bridge and all cables. Tests reach nodes and pods through
// [Underlay.DialContext] and [Underlay.Client].
type Underlay struct {
	ns     *namespace
	handle *netlink.Handle
	bridge netlink.Link

	mu     sync.Mutex
	faults faults
	wires  map[string]*wire // by node
	uplink netlink.Link     // on this machine; nil when there is none
}

// NewUnderlay makes the lab's underlay. It needs root. A lab has one.
func (l *Lab) NewUnderlay() (*Underlay, error) {
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	u := &Underlay{ns: ns, wires: map[string]*wire{}}
	l.Defer("close the underlay", u.close)
	if u.handle, err = netlink.NewHandleAt(netns.NsHandle(ns.fd())); err != nil {
		return nil, err
	}
	if err := u.build(); err != nil {
		return nil, fmt.Errorf("build the underlay: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.underlay != nil {
		return nil, errors.New("the lab has an underlay already")
	}
	l.underlay = u
	return u, nil
}

// Underlay is the lab's underlay, nil when it has none.
func (l *Lab) Underlay() *Underlay {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.underlay
}

func (u *Underlay) build() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName
	// Without an address of its own a bridge takes that of its lowest port, and changes it as nodes come and go.
	attrs.HardwareAddr = net.HardwareAddr{0x02, 0x99, 0, 0, 0, 0xfe}
	if err := u.handle.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return err
	}
	var err error
	if u.bridge, err = u.handle.LinkByName(bridgeName); err != nil {
		return err
	}
	if err := u.handle.AddrAdd(u.bridge, addrOf(ServersAddr)); err != nil {
		return err
	}
	loopback, err := u.handle.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := errors.Join(u.handle.LinkSetUp(u.bridge), u.handle.LinkSetUp(loopback)); err != nil {
		return err
	}
	return u.ns.do(func() error {
		// Frames on a cable are no business of the IP tables. The file is there only when the
		// kernel would do such a thing.
		err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("0"), 0o644)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}

func (u *Underlay) close() error {
	if u.handle != nil {
		u.handle.Close()
	}
	return u.ns.file.Close()
}

// plug connects a node's network namespace to the bridge as eth0, and gives it its address. The
// hardware address is fixed, so that a node that was switched off and on is found again at once.
func (u *Underlay) plug(n *Node, ns *namespace) error {
	if err := u.unplug(n); err != nil {
		return err
	}
	octets := n.Addr.As4()
	address := net.HardwareAddr{0x02, 0x99, 0, 0, 0, octets[3]}
	inside, err := netlink.NewHandleAt(netns.NsHandle(ns.fd()))
	if err != nil {
		return err
	}
	defer inside.Close()
	lay := u.layVeth
	if n.long {
		lay = u.layWire
	}
	if err := lay(n, ns, inside, address); err != nil {
		return fmt.Errorf("plug %s in: %w", n.Name, err)
	}
	for _, name := range []string{"lo", "eth0"} {
		link, err := inside.LinkByName(name)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", n.Name, name, err)
		}
		if name == "eth0" {
			if err := inside.AddrAdd(link, addrOf(n.Addr)); err != nil {
				return fmt.Errorf("%s: %s: %w", n.Name, name, err)
			}
		}
		if err := inside.LinkSetUp(link); err != nil {
			return fmt.Errorf("%s: %s: %w", n.Name, name, err)
		}
	}
	return inside.RouteAdd(&netlink.Route{Gw: net.IP(ServersAddr.AsSlice())})
}

// layVeth connects the node by a pair of the kernel's.
func (u *Underlay) layVeth(n *Node, ns *namespace, _ *netlink.Handle, address net.HardwareAddr) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = n.cable()
	attrs.MasterIndex = u.bridge.Attrs().Index
	cable := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.fd()), PeerHardwareAddr: address}
	if err := u.handle.LinkAdd(cable); err != nil {
		return err
	}
	return u.handle.LinkSetUp(cable)
}

// layWire connects the node by a wire that can delay.
func (u *Underlay) layWire(n *Node, ns *namespace, inside *netlink.Handle, address net.HardwareAddr) (err error) {
	if n.wire, err = layWire(ns, "eth0", u.ns, n.cable()); err != nil {
		return err
	}
	u.mu.Lock()
	n.wire.delay.Store(int64(u.faults.delay[n.Name]))
	u.wires[n.Name] = n.wire
	u.mu.Unlock()
	eth0, err := inside.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := inside.LinkSetHardwareAddr(eth0, address); err != nil {
		return err
	}
	cable, err := u.handle.LinkByName(n.cable())
	if err != nil {
		return err
	}
	return errors.Join(u.handle.LinkSetMaster(cable, u.bridge), u.handle.LinkSetUp(cable))
}

// unplug removes the node's cable. The kernel clears a dead node's network away in its own time,
// and a new cable of that name cannot come before.
func (u *Underlay) unplug(n *Node) error {
	if w := n.wire; w != nil {
		n.wire = nil
		u.mu.Lock()
		delete(u.wires, n.Name)
		u.mu.Unlock()
		return w.cut()
	}
	link, err := u.handle.LinkByName(n.cable())
	if _, absent := errors.AsType[netlink.LinkNotFoundError](err); absent {
		return nil
	}
	if err != nil {
		return err
	}
	// The kernel may be faster after all.
	if err := u.handle.LinkDel(link); !errors.Is(err, unix.ENODEV) {
		return err
	}
	return nil
}

// Route sends what goes to these addresses, such as a node's podCIDR, to the node; from this machine
// too when it has an uplink. The lab has no other way to the pods of a node: between themselves,
// nodes find their ways.
func (u *Underlay) Route(to netip.Prefix, n *Node) error {
	_, dst, err := net.ParseCIDR(to.String())
	if err != nil {
		return err
	}
	route := &netlink.Route{Dst: dst, Gw: net.IP(n.Addr.AsSlice())}
	if err := u.handle.RouteReplace(route); err != nil {
		return fmt.Errorf("route %s to %s: %w", to, n.Name, err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.uplink == nil {
		return nil
	}
	route.LinkIndex = u.uplink.Attrs().Index
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("route %s to %s on this machine: %w", to, n.Name, err)
	}
	return nil
}

// Uplink plugs this machine itself into the underlay, as 10.99.0.253, so that a person can call nodes
// and pods from a shell. It is the one thing that two labs cannot have at a time. Call it before
// Route. The interface is named like the lab, and goes with it.
func (l *Lab) Uplink() error {
	u := l.Underlay()
	if u == nil {
		return errors.New("make the underlay before its uplink")
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return err
	}
	for _, address := range addresses {
		if own, err := netip.ParsePrefix(address.String()); err == nil && own.Overlaps(underlayPrefix) {
			return fmt.Errorf("uplink: this machine has the address %s already: of another lab, or another network", own)
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = l.Name
	cable := &netlink.Veth{LinkAttrs: attrs, PeerName: "uplink", PeerNamespace: netlink.NsFd(u.ns.fd())}
	if err := netlink.LinkAdd(cable); err != nil {
		return fmt.Errorf("uplink: %w", err)
	}
	l.Defer("unplug this machine", func() error { return netlink.LinkDel(cable) })
	inside, err := u.handle.LinkByName("uplink")
	if err != nil {
		return fmt.Errorf("uplink: %w", err)
	}
	if err := errors.Join(
		u.handle.LinkSetMaster(inside, u.bridge), u.handle.LinkSetUp(inside),
		netlink.AddrAdd(cable, addrOf(machineAddr)), netlink.LinkSetUp(cable),
	); err != nil {
		return fmt.Errorf("uplink: %w", err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.uplink = cable
	return nil
}

// Listen listens on a port of [ServersAddr].
func (u *Underlay) Listen(port int) (net.Listener, error) {
	return u.ns.listen(net.JoinHostPort(ServersAddr.String(), strconv.Itoa(port)))
}

// DialContext connects from where the servers are. The address needs a number for its host.
func (u *Underlay) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return u.ns.dial(ctx, network, address)
}

// Client makes HTTP requests from where the servers are, each over a new connection.
func (u *Underlay) Client() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: u.DialContext, DisableKeepAlives: true}}
}

func (n *namespace) listen(address string) (listener net.Listener, err error) {
	err = n.do(func() error {
		var err error
		listener, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
		return err
	})
	return listener, err
}

func (n *namespace) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = n.do(func() error {
		var err error
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

func addrOf(a netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: net.IP(a.AsSlice()), Mask: net.CIDRMask(underlayPrefix.Bits(), 32)}}
}
