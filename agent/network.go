package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis"

	"github.com/pleachdev/pleach/agent/containerd"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
	"github.com/pleachdev/pleach/netplugins"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/state"
)

// repairInterval is how often the node's network is compared with what it should be, in case
// somebody else changed it.
const repairInterval = 30 * time.Second

// network keeps the node's side of the pod network.
type network struct {
	*node
	desired netplugins.Desired
}

// apply makes the network for this node as the accepted commit and the other nodes' documents have it.
func (n *network) apply(ctx context.Context, self *corev1.Node) error {
	desired, err := n.wanted(n.store.Snapshot(), self)
	if err != nil {
		return err
	}
	return n.become(ctx, desired)
}

// become makes the network be desired. Pods of peers that cannot be reached are a warning.
func (n *network) become(ctx context.Context, desired netplugins.Desired) error {
	n.desired = desired
	err := netplugins.Apply(ctx, desired)
	if errors.Is(err, netplugins.ErrPeer) {
		n.Log.Warn("this node's pods do not reach those of every node", "err", err, "retryIn", repairInterval)
		return nil
	}
	return err
}

// wanted is the network of this node by what is known now.
func (n *network) wanted(known state.Snapshot, self *corev1.Node) (netplugins.Desired, error) {
	accepted := known.Accepted()
	cluster := accepted.Cluster.Spec
	d := netplugins.Desired{
		Bridge: n.Bridge, ConfDir: containerd.CNIConfDir(n.Dir), LeaseDir: leaseDir(n.Dir),
		MTU: int(cluster.Network.MTU), Transport: netplugins.Transport(cluster.Network.Transport),
		VXLAN:    netplugins.VXLAN{Port: uint16(cluster.Network.VXLAN.Port), VNI: uint32(cluster.Network.VXLAN.VNI)},
		Underlay: ownAddress(n.advertise.Addr(), n.machine.Addresses),
	}
	var err error
	if d.PodCIDR, err = netip.ParsePrefix(self.Spec.PodCIDR); err != nil {
		return d, fmt.Errorf("nodes/%s.yaml: spec.podCIDR: %w", self.Name, err)
	}
	if d.ClusterCIDR, err = netip.ParsePrefix(cluster.PodCIDR); err != nil {
		return d, fmt.Errorf("pleach.yaml: spec.podCIDR: %w", err)
	}
	for _, node := range accepted.Nodes {
		if node.Name == self.Name {
			continue
		}
		p := netplugins.Peer{Node: node.Name, Address: nodeAddress(node, known.Document(node.Name))}
		for _, text := range node.Spec.PodCIDRs {
			if c, err := netip.ParsePrefix(text); err == nil { // what is accepted can be parsed
				p.PodCIDRs = append(p.PodCIDRs, c)
			}
		}
		if p.Address.IsValid() { // of the others nothing was heard yet
			d.Peers = append(d.Peers, p)
		}
	}
	return d, nil
}

// ownAddress is where the peers' packets come to: what is told to them if the machine has it, which it
// has not behind a translation of addresses, and else the machine's first.
func ownAddress(told netip.Addr, machine []netip.Addr) netip.Addr {
	for _, a := range machine {
		if a == told || !slices.Contains(machine, told) && a.Is4() {
			return a
		}
	}
	return netip.Addr{}
}

// nodeAddress is where another node's pods are reached: what the node itself says, else what Git says
// where it is an IPv4 address. It is the zero Addr when neither does. document is nil before it came.
func nodeAddress(node *corev1.Node, document *reconcile.Document) netip.Addr {
	for _, at := range internalIPs(document) {
		if at.Is4() {
			return at
		}
	}
	at := node.Annotations[v1alpha1.AddressAnnotation]
	if host, _, err := net.SplitHostPort(at); err == nil {
		at = host
	}
	if addr, err := netip.ParseAddr(at); err == nil && addr.Is4() {
		return addr
	}
	return netip.Addr{}
}

// internalIPs are the addresses at which a node says that it is reached. document may be nil.
func internalIPs(document *reconcile.Document) (all []netip.Addr) {
	if document == nil {
		return nil
	}
	for _, a := range document.Addresses {
		if at, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			all = append(all, at)
		}
	}
	return all
}

// release gives back the addresses of sandboxes that are no more. It runs before any pod is started.
func (n *network) release(ctx context.Context, runtime cri.RuntimeService) error {
	sandboxes, err := runtime.ListPodSandbox(ctx, nil)
	if err != nil {
		return fmt.Errorf("list sandboxes: %w", err)
	}
	live := make([]string, 0, len(sandboxes))
	for _, s := range sandboxes {
		live = append(live, s.Id)
	}
	return netplugins.GC(ctx, n.desired, live)
}

// run follows what is accepted and what the nodes say, and repairs the network, until ctx ends. Pods
// keep their network after that.
func (n *network) run(ctx context.Context) error {
	repair := time.NewTicker(repairInterval)
	defer repair.Stop()
	for ctx.Err() == nil {
		known := n.store.Snapshot()
		if self := enrolledNode(known.Accepted(), n.Node); self != nil { // else it is being removed
			desired, err := n.wanted(known, self)
			if err == nil && !reflect.DeepEqual(desired, n.desired) {
				err = n.become(ctx, desired)
			}
			n.complain(ctx, err)
		}
		n.await(ctx, known, repair.C)
	}
	return nil
}

// await returns when something else may be wanted, or when it was time for a repair, which it has done.
func (n *network) await(ctx context.Context, known state.Snapshot, repair <-chan time.Time) {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	select {
	case <-known.Changed(waiting, state.Accepted, state.Documents):
	case <-repair:
		n.complain(ctx, netplugins.Apply(ctx, n.desired))
	}
}

func (n *network) complain(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		n.Log.Warn("the pod network is not as it should be", "err", err, "retryIn", repairInterval)
	}
}
