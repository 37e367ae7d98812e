package gossip

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pleachdev/pleach/reconcile"
)

func requests(cpu string) *corev1.PodSpec {
	return &corev1.PodSpec{Containers: []corev1.Container{{
		Name: "app", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse(cpu)}},
	}}}
}

func TestStrike(t *testing.T) {
	honest := nodeDocument("n1", 6)
	pod := honest.Instances[2]
	for _, tc := range []struct {
		name   string
		change func(d *reconcile.Document, n *corev1.Node, spec *corev1.PodSpec)
		want   string // of the reason that pod is struck; "" when it is not
	}{
		{"honest", func(*reconcile.Document, *corev1.Node, *corev1.PodSpec) {}, ""},
		{"an address of another node's pods", func(d *reconcile.Document, _ *corev1.Node, _ *corev1.PodSpec) { d.Instances[2].PodIP = "10.4.18.4" }, "podCIDRs"},
		{"the node's address without its network", func(d *reconcile.Document, _ *corev1.Node, _ *corev1.PodSpec) { d.Instances[2].PodIP = "192.0.2.17" }, "podCIDRs"},
		{"the node's address", func(d *reconcile.Document, _ *corev1.Node, s *corev1.PodSpec) {
			d.Instances[2].PodIP, s.HostNetwork = "192.0.2.17", true
		}, ""},
		{"a foreign address in the host's network", func(d *reconcile.Document, _ *corev1.Node, s *corev1.PodSpec) {
			d.Instances[2].PodIP, s.HostNetwork = "192.0.2.99", true
		}, "no address of node"},
		{"the slot of another node", func(d *reconcile.Document, _ *corev1.Node, _ *corev1.PodSpec) { d.Instances[2].Slot.Node = "n2" }, "n2's to tell"},
		{"a pod for another node", func(_ *reconcile.Document, _ *corev1.Node, s *corev1.PodSpec) { s.NodeName = "n2" }, "spec.nodeName"},
		{"a label that the node lacks", func(_ *reconcile.Document, _ *corev1.Node, s *corev1.PodSpec) {
			s.NodeSelector = map[string]string{"disk": "ssd"}
		}, "selector"},
		{"a label that was taken from the node later", func(d *reconcile.Document, _ *corev1.Node, s *corev1.PodSpec) {
			s.NodeSelector, d.Instances[2].Commit.Level = map[string]string{"disk": "ssd"}, 9
		}, ""},
		{"more than the node may give", func(d *reconcile.Document, n *corev1.Node, _ *corev1.PodSpec) {
			n.Status.Allocatable = corev1.ResourceList{"cpu": resource.MustParse("550m")}
			d.Instances[2].Claimed = epoch.Add(time.Hour) // the latest
		}, "more cpu"},
		{"as much as the node may give", func(_ *reconcile.Document, n *corev1.Node, _ *corev1.PodSpec) {
			n.Status.Allocatable = corev1.ResourceList{"cpu": resource.MustParse("600m"), "pods": resource.MustParse("6")}
		}, ""},
		{"more pods than the node may take", func(d *reconcile.Document, n *corev1.Node, _ *corev1.PodSpec) {
			n.Status.Allocatable = corev1.ResourceList{"pods": resource.MustParse("5")}
			d.Instances[2].Claimed = epoch.Add(time.Hour)
		}, "more pods"},
		{"a node that may give less since", func(d *reconcile.Document, n *corev1.Node, _ *corev1.PodSpec) {
			n.Status.Allocatable = corev1.ResourceList{"pods": resource.MustParse("1")}
			for i := range d.Instances {
				d.Instances[i].Commit.Level = 9
			}
		}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, err := sealed(t, honest).Document() // a copy
			if err != nil {
				t.Fatal(err)
			}
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.4.17.0/24", "fd00:4::/64"}}}
			spec := requests("100m")
			tc.change(&d, node, spec)
			before := asJSON(t, d)
			truth := Truth{
				Node: node, Level: 10, Hosts: []netip.Addr{netip.MustParseAddr("192.0.2.17")}, Now: epoch,
				Spec: func(m reconcile.Instance) *corev1.PodSpec {
					if m.UID == pod.UID {
						return spec
					}
					return requests("100m")
				},
			}
			got, struck := truth.Strike(d)
			if tc.want == "" {
				if len(struck) > 0 || len(got.Instances) != 6 {
					t.Errorf("struck %q; want none", struck)
				}
			} else if len(struck) != 1 || !strings.Contains(struck[0], tc.want) || !strings.Contains(struck[0], pod.Name) || len(got.Instances) != 5 {
				t.Errorf("struck %q; want %s for %q", struck, pod.Name, tc.want)
			}
			if asJSON(t, d) != before {
				t.Error("the document was changed")
			}
		})
	}
}

func TestStrikeWhatIsOver(t *testing.T) {
	d := nodeDocument("n1", 1)
	slot := reconcile.Slot{Workload: "6ba7b810-9dad-11d1-80b4-00c04fd430c8"}
	foreign := slot
	foreign.Node = "n2"
	d.Releases = []reconcile.Release{{Slot: slot, At: epoch}, {Slot: slot, At: epoch.Add(time.Second)}, {Slot: foreign, At: epoch.Add(time.Second)}}
	d.Declines = []reconcile.Decline{{Slot: slot, At: epoch}, {Slot: slot, At: epoch.Add(time.Second)}, {Slot: foreign, At: epoch.Add(time.Second)}}
	truth := Truth{
		Node: &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{PodCIDR: "10.4.17.0/24"},
			Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{"cpu": resource.MustParse("4")}},
		},
		Spec: func(reconcile.Instance) *corev1.PodSpec { return nil }, Now: epoch.Add(KeepFor),
	}
	got, struck := truth.Strike(d)
	if len(struck) > 0 || len(got.Releases) != 1 || len(got.Declines) != 1 {
		t.Errorf("%d releases, %d declines, struck %q; want one of each", len(got.Releases), len(got.Declines), struck)
	}
	if cpu, memory := got.Allocatable["cpu"], got.Allocatable["memory"]; cpu.String() != "4" || memory.String() != "31Gi" {
		t.Errorf("allocatable %v; want the 4 cpus that Git allows and the memory that it does not speak of", got.Allocatable)
	}
	if cpu := d.Allocatable["cpu"]; cpu.String() != "7800m" || len(d.Releases) != 3 {
		t.Error("the document was changed")
	}
}
