package agent

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/gitsync/v1alpha1"
	"github.com/pleachdev/pleach/reconcile"
)

func TestNodeAddress(t *testing.T) {
	says := func(addresses ...corev1.NodeAddress) *reconcile.Document {
		return &reconcile.Document{Addresses: addresses}
	}
	name := corev1.NodeAddress{Type: corev1.NodeHostName, Address: "192.0.2.9"}
	v6 := corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "2001:db8::1"}
	v4 := corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}
	for _, tt := range []struct {
		name     string
		git      string
		document *reconcile.Document
		want     string
	}{
		{"nothing", "", nil, ""},
		{"Git alone", "192.0.2.7", nil, "192.0.2.7"},
		{"Git with a port", "192.0.2.7:7000", nil, "192.0.2.7"},
		{"Git has a name", "n1.example.org:7000", nil, ""},
		{"the node's own word first", "192.0.2.7", says(name, v6, v4), "192.0.2.1"},
		{"the node has nothing of use", "192.0.2.7", says(name, v6), "192.0.2.7"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			node := &corev1.Node{}
			node.Annotations = map[string]string{v1alpha1.AddressAnnotation: tt.git}
			var want netip.Addr
			if tt.want != "" {
				want = netip.MustParseAddr(tt.want)
			}
			if got := nodeAddress(node, tt.document); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

func TestOwnAddress(t *testing.T) {
	a, b, outside := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("203.0.113.1")
	for _, tt := range []struct {
		name    string
		told    netip.Addr
		machine []netip.Addr
		want    netip.Addr
	}{
		{"told and had", b, []netip.Addr{a, b}, b},
		{"behind a translation", outside, []netip.Addr{a, b}, a},
		{"not told", netip.Addr{}, []netip.Addr{netip.MustParseAddr("2001:db8::1"), a}, a},
		{"none", outside, nil, netip.Addr{}},
	} {
		if got := ownAddress(tt.told, tt.machine); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}
