package cni

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
)

var node = Config{
	Bridge: "pleach0", PodCIDR: netip.MustParsePrefix("10.64.1.0/24"), MTU: 1450, LeaseDir: "/var/lib/pleach/cni/leases",
}

func TestList(t *testing.T) {
	b, err := List("pleach", node)
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		CNIVersion, Name string
		Plugins          []json.RawMessage
	}
	if err := json.Unmarshal(b, &list); err != nil {
		t.Fatal(err)
	}
	if list.CNIVersion != Version || list.Name != "pleach" || len(list.Plugins) != 1 {
		t.Fatalf("got %s", b)
	}
	got, err := parse(list.Plugins[0])
	if err != nil {
		t.Fatal(err)
	}
	if got.Type != Type || got.Bridge != node.Bridge || got.PodCIDR != node.PodCIDR || got.MTU != node.MTU || got.LeaseDir != node.LeaseDir {
		t.Errorf("got %+v, want %+v", got, node)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"no JSON", `{`, "network configuration: unexpected end"},
		{"no bridge", `{"podCIDR":"10.0.0.0/24","leaseDir":"/l"}`, "bridge: must not be empty"},
		{"no podCIDR", `{"bridge":"b","leaseDir":"/l"}`, "podCIDR: must not be empty"},
		{"IPv6", `{"bridge":"b","podCIDR":"fd00::/64","leaseDir":"/l"}`, "podCIDR: IPv6 is not supported yet, got fd00::/64"},
		{"no leases", `{"bridge":"b","podCIDR":"10.0.0.0/24"}`, "leaseDir: must not be empty"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := parse([]byte(tt.in)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"bridge":"b","podCIDR":"10.0.0.0/24","leaseDir":"/l","cni.dev/valid-attachments":[{"containerID":"a"}]}`))
	f.Add([]byte(`{"podCIDR":"10.0.0.0/33"}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		if c, err := parse(in); err == nil && (!c.PodCIDR.Addr().Is4() || c.Bridge == "" || c.LeaseDir == "") {
			t.Errorf("accepted %q as %+v", in, c)
		}
	})
}
