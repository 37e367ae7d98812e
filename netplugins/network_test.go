package netplugins

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func desired(dir string) Desired {
	return Desired{
		Bridge:      "pleach0",
		PodCIDR:     netip.MustParsePrefix("10.64.1.0/24"),
		ClusterCIDR: netip.MustParsePrefix("10.64.0.0/16"),
		ConfDir:     filepath.Join(dir, "net.d"),
		LeaseDir:    filepath.Join(dir, "leases"),
	}
}

func TestApplyNamesEverythingThatIsWrong(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Desired)
		want   string
	}{
		{"no bridge", func(d *Desired) { d.Bridge = "" }, "bridge: want a name"},
		{"long bridge", func(d *Desired) { d.Bridge = "pleach0123456789" }, "bridge: want a name"},
		{"no podCIDR", func(d *Desired) { d.PodCIDR = netip.Prefix{} }, "podCIDR: must not be empty"},
		{"IPv6", func(d *Desired) { d.PodCIDR = netip.MustParsePrefix("fd00::/64") }, "podCIDR: fd00::/64: IPv6 is not supported yet"},
		{"host bits", func(d *Desired) { d.PodCIDR = netip.MustParsePrefix("10.64.1.7/24") }, "want the first address of the range, 10.64.1.0/24"},
		{"outside", func(d *Desired) { d.PodCIDR = netip.MustParsePrefix("10.65.1.0/24") }, "10.65.1.0/24 is not within the cluster's 10.64.0.0/16"},
		{"no room", func(d *Desired) { d.PodCIDR = netip.MustParsePrefix("10.64.1.0/30") }, "no room for pods"},
		{"mtu", func(d *Desired) { d.MTU = 100 }, "mtu: want 576 to 65535 bytes, got 100"},
		{"relative", func(d *Desired) { d.ConfDir = "net.d" }, "want absolute paths"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := desired(t.TempDir())
			tt.change(&d)
			err := Apply(t.Context(), d)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestApplyStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	if err := Apply(ctx, desired(dir)); err == nil {
		t.Error("want the context's error")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("wrote %v, %v", entries, err)
	}
}
