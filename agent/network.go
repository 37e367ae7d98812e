package agent

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis"

	"github.com/pleachdev/pleach/agent/containerd"
	"github.com/pleachdev/pleach/netplugins"
)

// repairInterval is how often the node's network is compared with what it should be, in case
// somebody else changed it.
const repairInterval = 30 * time.Second

// network keeps the node's side of the pod network.
type network struct {
	*node
	desired netplugins.Desired
}

// apply makes the network for this node as the accepted commit enrols it.
func (n *network) apply(ctx context.Context, self *corev1.Node) error {
	cluster := n.store.Snapshot().Accepted().Cluster.Spec
	podCIDR, err := netip.ParsePrefix(self.Spec.PodCIDR)
	if err != nil {
		return fmt.Errorf("nodes/%s.yaml: spec.podCIDR: %w", self.Name, err)
	}
	clusterCIDR, err := netip.ParsePrefix(cluster.PodCIDR)
	if err != nil {
		return fmt.Errorf("pleach.yaml: spec.podCIDR: %w", err)
	}
	n.desired = netplugins.Desired{
		Bridge: n.Bridge, PodCIDR: podCIDR, ClusterCIDR: clusterCIDR,
		ConfDir: containerd.CNIConfDir(n.Dir), LeaseDir: leaseDir(n.Dir),
	}
	return netplugins.Apply(ctx, n.desired)
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

// run repairs the network until ctx ends. Pods keep their network after that.
func (n *network) run(ctx context.Context) error {
	ticker := time.NewTicker(repairInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if err := netplugins.Apply(ctx, n.desired); err != nil && ctx.Err() == nil {
			n.Log.Warn("the pod network cannot be repaired", "err", err, "retryIn", repairInterval)
		}
	}
}
