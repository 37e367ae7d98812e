// Package netplugins makes the node's side of the pod network: the bridge that pods are attached to,
// forwarding, the ways to the pods of other nodes, the nftables rules of package rules, and the CNI
// configuration by which the container runtime finds the plugin in package cni.
//
// [Apply] takes the whole wanted network and changes what differs, so that it also repairs what
// somebody deleted. Pods and their links are not its affair: they come and go by the plugin.
package netplugins

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pleachdev/pleach/netplugins/cni"
	"github.com/pleachdev/pleach/netplugins/ipam"
	"github.com/pleachdev/pleach/netplugins/rules"
)

// Desired is the whole network of a node.
type Desired struct {
	// Bridge is the name of the node's bridge, and of its nftables table. Nodes that share a network
	// namespace need different ones.
	Bridge string
	// PodCIDR is the node's own range of pod addresses, ClusterCIDR the range of all nodes. Both are
	// IPv4; PodCIDR lies within ClusterCIDR.
	PodCIDR, ClusterCIDR netip.Prefix
	// MTU is that of the bridge and of every new pod's link, in bytes. 0 means what the link with the
	// address Underlay carries, 1500 where there is none, less what the transport adds.
	MTU int
	// Underlay is the address by which the peers reach this node, one of the machine's own; it may be
	// the zero Addr without peers.
	Underlay netip.Addr
	// Transport says how packets reach the pods of peers; "" means [Direct].
	Transport Transport
	VXLAN     VXLAN
	// Peers are the other nodes whose pods are to be reached.
	Peers []Peer
	// ConfDir is where the container runtime looks for network configurations, LeaseDir holds the
	// addresses in use. Both are absolute.
	ConfDir, LeaseDir string
}

// confFile is the only network configuration: the runtime takes the first by name.
const confFile = "10-pleach.conflist"

const networkName = "pleach"

// validate returns d with its defaults, or everything that is wrong with it.
func (d Desired) validate() (Desired, error) {
	var errs []error
	refuse := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if d.Bridge == "" || len(d.Bridge) > 15-len(vxlanPrefix) {
		refuse("bridge: want a name of 1 to %d bytes, got %q", 15-len(vxlanPrefix), d.Bridge)
	}
	for _, c := range []struct {
		name string
		cidr netip.Prefix
	}{{"podCIDR", d.PodCIDR}, {"clusterCIDR", d.ClusterCIDR}} {
		switch {
		case !c.cidr.IsValid():
			refuse("%s: must not be empty", c.name)
		case !c.cidr.Addr().Is4():
			refuse("%s: %s: IPv6 is not supported yet", c.name, c.cidr)
		case c.cidr != c.cidr.Masked():
			refuse("%s: %s: want the first address of the range, %s", c.name, c.cidr, c.cidr.Masked())
		}
	}
	if len(errs) == 0 {
		if d.PodCIDR.Bits() > 29 {
			refuse("podCIDR: %s has no room for pods: want a prefix of at most 29 bits", d.PodCIDR)
		}
		if !d.ClusterCIDR.Contains(d.PodCIDR.Addr()) || d.PodCIDR.Bits() < d.ClusterCIDR.Bits() {
			refuse("podCIDR: %s is not within the cluster's %s", d.PodCIDR, d.ClusterCIDR)
		}
	}
	switch d.Transport {
	case "":
		d.Transport = Direct
	case Direct:
	case Overlay:
		if !d.Underlay.Is4() {
			refuse("underlay: %s needs an IPv4 address of this node, got %q", Overlay, d.Underlay)
		}
	default:
		refuse("transport: want %s or %s, got %q", Direct, Overlay, d.Transport)
	}
	d.VXLAN = d.VXLAN.filled()
	if d.MTU == 0 {
		d.MTU = d.underlayMTU()
	}
	if d.MTU < 576 || d.MTU > 65535 {
		refuse("mtu: want 576 to 65535 bytes, got %d", d.MTU)
	}
	if !filepath.IsAbs(d.ConfDir) || !filepath.IsAbs(d.LeaseDir) {
		refuse("confDir, leaseDir: want absolute paths, got %q, %q", d.ConfDir, d.LeaseDir)
	}
	return d, errors.Join(errs...)
}

// Apply makes the network of the calling thread's network namespace be d. It can be repeated at any
// time; when nothing differs, nothing is written. A peer that cannot be reached stops nothing else: the
// error is [ErrPeer] then, and the rest is as wanted.
func Apply(ctx context.Context, d Desired) error {
	d, err := d.validate()
	if err != nil {
		return fmt.Errorf("node network: %w", err)
	}
	var unreachable error
	for _, step := range []func(Desired) error{
		applyBridge, applyForwarding, applyRules, applyPeers,
		applyConf, // last: with it the runtime says that the network is ready
	} {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := step(d)
		if errors.Is(err, ErrPeer) {
			unreachable = err
			continue
		}
		if err != nil {
			return fmt.Errorf("node network: %w", err)
		}
	}
	return unreachable
}

// applyRules writes the nftables tables.
func applyRules(d Desired) error {
	n := rules.Node{Bridge: d.Bridge, PodCIDR: d.PodCIDR, ClusterCIDR: d.ClusterCIDR}
	if d.Transport == Overlay {
		n.VXLANPort = d.VXLAN.Port
		for _, p := range d.Peers {
			if p.check(d) == nil {
				n.Senders = append(n.Senders, rules.Sender{Address: p.Address, PodCIDRs: p.PodCIDRs})
			}
		}
	}
	return (ipam.Store{Dir: d.LeaseDir, Range: d.PodCIDR}).View(func(leases map[netip.Addr]ipam.Lease) error {
		n.Pods = cni.Pods(leases)
		return rules.Apply(n)
	})
}

// Cleanup removes what Apply made, and the leases. Forwarding stays on, since others may rely on it.
// Pods lose their network.
func Cleanup(ctx context.Context, d Desired) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	remove := func(path string) error {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		return nil
	}
	err := errors.Join(
		remove(filepath.Join(d.ConfDir, confFile)),
		rules.Remove(d.Bridge),
		removeLink(vxlanPrefix+d.Bridge),
		removeLink(d.Bridge), // and the routes with it, whose source is its address
		remove(d.LeaseDir),
	)
	if err != nil {
		return fmt.Errorf("remove node network: %w", err)
	}
	return nil
}

// GC gives back the addresses of sandboxes that are not in live, by their CRI ids. An address younger
// than [ipam.Settle] stays: its sandbox may be on its way into the runtime's list. So pods may be
// started meanwhile. Their rules go too.
func GC(ctx context.Context, d Desired, live []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	alive := make(map[string]bool, len(live))
	for _, id := range live {
		alive[id] = true
	}
	if err := (ipam.Store{Dir: d.LeaseDir, Range: d.PodCIDR}).GC(alive, time.Now().Add(-ipam.Settle)); err != nil {
		return fmt.Errorf("node network: %w", err)
	}
	d, err := d.validate()
	if err == nil {
		err = applyRules(d)
	}
	if err != nil {
		return fmt.Errorf("node network: %w", err)
	}
	return nil
}

// applyConf writes the network configuration by rename, as a runtime may read it at any time.
func applyConf(d Desired) error {
	want, err := cni.List(networkName, cni.Config{
		Bridge: d.Bridge, PodCIDR: d.PodCIDR, MTU: d.MTU, LeaseDir: d.LeaseDir,
	})
	if err != nil {
		return err
	}
	path := filepath.Join(d.ConfDir, confFile)
	if have, err := os.ReadFile(path); err == nil && string(have) == string(want) {
		return nil
	}
	if err := os.MkdirAll(d.ConfDir, 0o755); err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, want, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// applyForwarding lets the node route between its pods and the world,
// and lets the node itself reach its ports by 127.0.0.1.
func applyForwarding(d Desired) error {
	return errors.Join(
		sysctl("/proc/sys/net/ipv4/ip_forward", "1"),
		sysctl("/proc/sys/net/ipv4/conf/"+d.Bridge+"/route_localnet", "1"),
	)
}

// sysctl writes value to path unless it is there already.
func sysctl(path, value string) error {
	have, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(have)) == value {
		return nil
	}
	return os.WriteFile(path, []byte(value), 0o644)
}
