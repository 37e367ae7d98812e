package shapes

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/reconcile"
)

// Epoch is when the documents were written.
var Epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// Commit makes up the commit of a name.
func Commit(name string, level int64) reconcile.Commit {
	sum := sha256.Sum256([]byte(name))
	return reconcile.Commit{ID: hex.EncodeToString(sum[:20]), Level: level, Time: Epoch.Add(time.Duration(level) * time.Minute)}
}

// Document is the document of a node with n pods: a DaemonSet's, and of workloads of which every
// fourth has two pods here, as on a node of a large flock.
func Document(node string, n int) reconcile.Document {
	head := Commit("head", 40)
	d := reconcile.Document{
		Node: node, Boot: 7, Seq: 123, Head: head, Versions: []int32{1},
		Accepted: map[string]reconcile.Commit{"pleach.dev": Commit("cluster", 31), "shop": head, "monitoring": Commit("mon", 12)},
		Capacity: corev1.ResourceList{
			"cpu": resource.MustParse("8"), "memory": resource.MustParse("32Gi"), "ephemeral-storage": resource.MustParse("200Gi"), "pods": resource.MustParse("110"),
		},
		Allocatable: corev1.ResourceList{
			"cpu": resource.MustParse("7800m"), "memory": resource.MustParse("31Gi"), "ephemeral-storage": resource.MustParse("180Gi"), "pods": resource.MustParse("110"),
		},
		Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.17"}, {Type: corev1.NodeHostName, Address: node}},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(Epoch), Reason: "AgentReady", Message: "the runtime and the pod network are ready"}},
		NodeInfo: corev1.NodeSystemInfo{
			MachineID: strings.Repeat("4f", 16), KernelVersion: "6.18.2", OSImage: "Debian GNU/Linux 13 (trixie)", ContainerRuntimeVersion: "containerd://2.4.2",
			KubeletVersion: "v1.37.2", OperatingSystem: "linux", Architecture: "amd64", Swap: &corev1.NodeSwapStatus{Capacity: new(int64(1 << 30))},
		},
		Instances: []reconcile.Instance{},
	}
	services := []string{"frontend", "checkout", "cart", "payments", "recommendations", "catalogue", "shipping-quotes", "emailer", "search-indexer", "ratings"}
	for i := range n {
		w := i - i/4 // every fourth shares the workload of the one before
		owner := fmt.Sprintf("%s-%c", services[w%len(services)], 'a'+w/len(services))
		sum := sha256.Sum256([]byte(owner))
		m := reconcile.Instance{
			Slot:     reconcile.Slot{Workload: types.UID(fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])), Ordinal: int32(i * 3)},
			Revision: "7f9c2ba4e8"[i%5:] + "01234"[:i%5], Epoch: int64(1 + i%3), Node: node, Boot: 7 - int64(i%2),
			Claimed: Epoch.Add(time.Duration(i) * 1234567 * time.Microsecond), Commit: head, Cause: head.ID, App: "shop",
			Kind: "Deployment", Namespace: "prod", Owner: owner, Phase: corev1.PodRunning, Ready: true, PodIP: fmt.Sprintf("10.4.17.%d", 2+i),
		}
		m.ReadySince = m.Claimed.Add(4 * time.Second).Truncate(time.Second)
		switch {
		case i == 0:
			m.Kind, m.Owner, m.App, m.Namespace = "DaemonSet", "node-exporter", "monitoring", "monitoring"
			m.Slot.Ordinal, m.Slot.Node, m.Commit, m.Cause = 0, node, d.Accepted["monitoring"], "n9/3"
		case i%20 == 19:
			m.Phase, m.Ready, m.ReadySince, m.PodIP, m.Restarts = corev1.PodPending, false, time.Time{}, "", 3
			m.Reason, m.Message = "ImagePullBackOff", "container app: pull registry.example/app:1.2: not found"
		case i%20 == 18:
			m.Terminating = true
		}
		m.Name, m.UID = m.PodID()
		d.Instances = append(d.Instances, m)
	}
	return d
}
