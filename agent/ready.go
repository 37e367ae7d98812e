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
	runtime func() error // what is wrong with the runtime

	mu    sync.Mutex
	waits string // what the start waits for; "" when it is done
	twin  string // another machine has this node's key; "" when not
	lacks string // as last told; "" when ready
	since time.Time
}

// await says what the agent's start waits for; "" ends the start.
func (r *readiness) await(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waits = what
}

// contest says that another machine has this node's key: the node is ready no more.
func (r *readiness) contest(why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.twin = why
}

// get returns what the node lacks to run pods, "" for nothing.
func (r *readiness) get() (lacks string, since time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if lacks = r.waits; lacks == "" {
		lacks = r.twin
	}
	if err := r.runtime(); lacks == "" && err != nil {
		lacks = err.Error()
	}
	if r.since.IsZero() || lacks != r.lacks {
		r.lacks, r.since = lacks, time.Now()
	}
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
	for _, a := range n.addresses() {
		addresses = append(addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	info := n.machine.Info
	info.KubeletVersion = n.Version // kubectl's VERSION column
	info.ContainerRuntimeVersion = "containerd"
	return reconcile.Document{
		Capacity: n.machine.Capacity, Allocatable: n.machine.Allocatable, NodeInfo: info,
		Addresses:  append(addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: n.Node}),
		Conditions: append([]corev1.NodeCondition{nodeReady(reason, lacks, since)}, n.following.Conditions()...),
	}
}
