package agent

import (
	"errors"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/reconcile"
)

// readiness says whether the node can run pods, and since when it is so.
type readiness struct {
	mu    sync.Mutex
	lacks string // "" when ready
	since time.Time
}

func (r *readiness) set(lacks string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.since.IsZero() || r.lacks != lacks {
		r.lacks, r.since = lacks, time.Now()
	}
}

func (r *readiness) get() (lacks string, since time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lacks, r.since
}

func (r *readiness) err() error {
	if lacks, _ := r.get(); lacks != "" {
		return errors.New(lacks)
	}
	return nil
}

// document is what this node says of itself apart from what it accepted and runs.
func (n *node) document() reconcile.Document {
	lacks, since := n.ready.get()
	reason := ""
	if lacks != "" {
		reason = "NodeNotReady"
	}
	addresses := make([]corev1.NodeAddress, 0, len(n.machine.Addresses)+1)
	for _, a := range n.machine.Addresses {
		addresses = append(addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	info := n.machine.Info
	info.KubeletVersion = n.Version // kubectl's VERSION column
	info.ContainerRuntimeVersion = "containerd"
	return reconcile.Document{
		Capacity: n.machine.Capacity, Allocatable: n.machine.Allocatable, NodeInfo: info,
		Addresses:  append(addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: n.Node}),
		Conditions: []corev1.NodeCondition{nodeReady(reason, lacks, since)},
	}
}
