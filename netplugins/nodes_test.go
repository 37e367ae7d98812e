package netplugins

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// machine is a node in a network namespace of its own, on a link that all share.
type machine struct {
	sandbox
	Desired
}

// newMachines makes n nodes with one link, 192.0.2.1 and so on, on which this namespace is 192.0.2.254.
func newMachines(t *testing.T, n int) []*machine {
	t.Helper()
	run(t, "ip", "link", "add", "switch", "type", "bridge")
	run(t, "ip", "addr", "add", "192.0.2.254/24", "dev", "switch")
	run(t, "ip", "link", "set", "switch", "up")
	var out []*machine
	for i := range n {
		m := &machine{newSandbox(t, fmt.Sprintf("n%d", i+1)), desired(t.TempDir())}
		port := "port" + strconv.Itoa(i)
		run(t, "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(m.pid))
		run(t, "ip", "link", "set", port, "master", "switch", "up")
		m.Underlay = netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})
		m.PodCIDR = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 64, byte(i + 1), 0}), 24)
		for _, c := range []string{"addr add " + m.Underlay.String() + "/24 dev eth0", "link set eth0 up", "link set lo up", "route add default via 192.0.2.254"} {
			m.ip(t, strings.Fields(c)...)
		}
		out = append(out, m)
	}
	return out
}

func (m *machine) ip(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, "nsenter", append([]string{"-t", strconv.Itoa(m.pid), "-n", "ip"}, args...)...)
}

func (m *machine) apply(t *testing.T) error {
	t.Helper()
	return m.within(func() error { return Apply(t.Context(), m.Desired) })
}

// meet makes everybody the peer of everybody.
func meet(t *testing.T, transport Transport, machines []*machine) {
	t.Helper()
	for _, m := range machines {
		m.Transport, m.Peers = transport, nil
		for _, p := range machines {
			if p != m {
				m.Peers = append(m.Peers, Peer{p.id, []netip.Prefix{p.PodCIDR}, p.Underlay})
			}
		}
		if err := m.apply(t); err != nil {
			t.Fatal(err)
		}
	}
}

type pod struct {
	sandbox
	addr netip.Addr
}

func (m *machine) pod(t *testing.T, id string, ports ...map[string]any) pod {
	t.Helper()
	p := pod{sandbox: newSandbox(t, id)}
	run(t, "nsenter", "-t", strconv.Itoa(p.pid), "-n", "ip", "link", "set", "lo", "up")
	err := m.within(func() error {
		r, err := plugin(m.Desired, "ADD", p.sandbox, ports...)
		if err == nil {
			p.addr, _ = netip.AddrFromSlice(r.IPs[0].Address.IP.To4())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	p.serve(t, p.addr.String()+":80")
	return p
}

// wantAll asks from every pod to every other; each must be seen with its own address.
func wantAll(t *testing.T, pods []pod) {
	t.Helper()
	for _, from := range pods {
		for _, to := range pods {
			if got, err := from.ask(to.addr.String() + ":80"); err != nil || got != from.addr.String() {
				t.Errorf("%s to %s: seen as %q, %v, want %s", from.id, to.id, got, err, from.addr)
			}
		}
	}
}

func TestPodsReachEachOtherOverNodes(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	machines := newMachines(t, 3)
	var pods []pod
	for _, m := range machines {
		if err := m.apply(t); err != nil {
			t.Fatal(err)
		}
		pods = append(pods, m.pod(t, "pod-of-"+m.id))
	}
	first, third := machines[0], machines[2]
	for _, transport := range []Transport{Direct, Overlay, Direct} {
		t.Run(string(transport), func(t *testing.T) {
			meet(t, transport, machines)
			wantAll(t, pods)
			if err := first.within(func() error { // a node itself is seen as its bridge
				s := sandbox{netns: first.netns}
				got, err := s.ask(pods[1].addr.String() + ":80")
				if err == nil && got != "10.64.1.1" {
					err = errors.New("seen as " + got)
				}
				return err
			}); err != nil {
				t.Error(err)
			}
			device := exec.CommandContext(t.Context(), "nsenter", "-t", strconv.Itoa(first.pid), "-n", "ip", "link", "show", "vxpleach0").Run()
			if (device == nil) != (transport == Overlay) {
				t.Errorf("the tunnel: %v", device)
			}
			before := first.ip(t, "route")
			if n := strings.Count(before, "proto 112"); n != 3 {
				t.Errorf("%d routes of ours, want 3:\n%s", n, before)
			}
			first.ip(t, "route", "del", "10.64.2.0/24")
			first.ip(t, "route", "del", "unreachable", "10.64.0.0/16")
			if transport == Overlay {
				first.ip(t, "neigh", "flush", "dev", "vxpleach0", "nud", "permanent")
			}
			if err := first.apply(t); err != nil {
				t.Error(err)
			}
			wantAll(t, pods)
			if mtu := first.ip(t, "-o", "link", "show", "pleach0"); !strings.Contains(mtu, map[Transport]string{Direct: "mtu 1500", Overlay: "mtu 1450"}[transport]) {
				t.Errorf("got %s", mtu)
			}
		})
	}
	t.Run("a range moves", func(t *testing.T) {
		first.Peers[1].PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.64.9.0/24")}
		if err := first.apply(t); err != nil {
			t.Fatal(err)
		}
		if got := first.ip(t, "route"); strings.Contains(got, "10.64.3.0/24") || !strings.Contains(got, "10.64.9.0/24 via 192.0.2.3") {
			t.Errorf("got\n%s", got)
		}
	})
	for _, transport := range []Transport{Overlay, Direct} {
		t.Run("a node is removed with "+string(transport), func(t *testing.T) {
			meet(t, transport, machines)
			first.Peers = slices.DeleteFunc(first.Peers, func(p Peer) bool { return p.Node == third.id })
			if err := first.apply(t); err != nil {
				t.Fatal(err)
			}
			left := first.ip(t, "route") + first.ip(t, "neigh", "show", "nud", "permanent") +
				run(t, "nsenter", "-t", strconv.Itoa(first.pid), "-n", "nft", "list", "table", "ip", "pleach0")
			for _, of := range []string{"10.64.3.", "192.0.2.3"} {
				if strings.Contains(left, of) {
					t.Errorf("%s is left:\n%s", of, left)
				}
			}
			wantAll(t, pods[:2])
			if _, err := pods[0].ask(pods[2].addr.String() + ":80"); err == nil {
				t.Error("its pods are still reached")
			}
		})
	}
	t.Run("not on the link", func(t *testing.T) {
		meet(t, Direct, machines)
		first.Peers[1].Address = netip.MustParseAddr("198.51.100.3")
		if err := first.apply(t); !errors.Is(err, ErrPeer) || !strings.Contains(err.Error(), "node n3") || !strings.Contains(err.Error(), "vxlan") {
			t.Errorf("got %v", err)
		}
		wantAll(t, pods[:2])
	})
	t.Run("cleanup", func(t *testing.T) {
		meet(t, Overlay, machines)
		if err := first.within(func() error {
			return Cleanup(t.Context(), Desired{Bridge: first.Bridge, ConfDir: first.ConfDir, LeaseDir: first.LeaseDir})
		}); err != nil {
			t.Fatal(err)
		}
		if left := first.ip(t, "route", "show", "proto", "112") + first.ip(t, "link"); strings.Contains(left, "10.64") || strings.Contains(left, "pleach0") {
			t.Errorf("left:\n%s", left)
		}
	})
}

// TestNobodySendsAsAnother: what is forged does not arrive, what is sent after it does.
func TestNobodySendsAsAnother(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	machines := newMachines(t, 3)
	meet(t, Overlay, machines)
	one, third := machines[0], machines[2]
	victim, near, far := one.pod(t, "victim"), one.pod(t, "near"), third.pod(t, "far")
	var socket net.PacketConn
	if err := victim.within(func() (err error) {
		socket, err = (&net.ListenConfig{}).ListenPacket(t.Context(), "udp4", victim.addr.String()+":53")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	enter := func(s sandbox, args ...string) {
		t.Helper()
		run(t, "nsenter", append([]string{"-t", strconv.Itoa(s.pid), "-n"}, args...)...)
	}
	for _, tt := range []struct {
		name    string
		from    sandbox
		link    string
		forged  string
		genuine netip.Addr
	}{
		{"a pod of the same node", near.sandbox, "eth0", "10.64.1.200", near.addr},
		{"a pod of another node", far.sandbox, "eth0", "10.64.2.200", far.addr},
		{"a node as a pod of another", third.sandbox, "lo", "10.64.2.201", netip.MustParseAddr("10.64.3.1")},
		{"a node as a pod of this one", third.sandbox, "lo", "10.64.1.201", netip.MustParseAddr("10.64.3.1")},
		{"a node as nobody's pod", third.sandbox, "lo", "10.64.77.1", netip.MustParseAddr("10.64.3.1")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			enter(tt.from, "ip", "addr", "add", tt.forged+"/32", "dev", tt.link)
			for _, source := range []string{tt.forged, tt.genuine.String()} {
				if err := tt.from.within(func() error {
					c, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(source)}}).DialContext(t.Context(), "udp4", victim.addr.String()+":53")
					if err != nil {
						return err
					}
					defer c.Close()
					_, err = c.Write([]byte("x"))
					return err
				}); err != nil {
					t.Fatal(err)
				}
			}
			if err := socket.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			_, from, err := socket.ReadFrom(make([]byte, 10))
			if err != nil || from.(*net.UDPAddr).IP.String() != tt.genuine.String() {
				t.Errorf("heard %v, %v, want %s alone", from, err, tt.genuine)
			}
		})
	}
}

func TestHostPorts(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	machines := newMachines(t, 2)
	meet(t, Direct, machines)
	one := machines[0]
	port := func(host int, ip, protocol string) map[string]any {
		return map[string]any{"hostPort": host, "containerPort": 80, "protocol": protocol, "hostIP": ip}
	}
	server := one.pod(t, "server", port(8080, "", "TCP"), port(8081, "192.0.2.1", "tcp"), port(8082, "192.0.2.99", "tcp"), port(8080, "", "UDP"), port(8080, "", "SCTP"))
	near, far := one.pod(t, "near"), machines[1].pod(t, "far")
	world := sandbox{netns: "/proc/thread-self/ns/net"}
	check := func(t *testing.T) {
		t.Helper()
		for _, tt := range []struct {
			name string
			from sandbox
			to   string
			want string // as whom it is seen; "" for not at all
		}{
			{"from outside", world, "192.0.2.1:8080", "192.0.2.254"},
			{"from outside, one address", world, "192.0.2.1:8081", "192.0.2.254"},
			{"an address that is not the node's", world, "192.0.2.1:8082", ""},
			{"the node", one.sandbox, "192.0.2.1:8080", "192.0.2.1"},
			{"the node by its loopback", one.sandbox, "127.0.0.1:8080", "10.64.1.1"},
			{"a pod of the node", near.sandbox, "192.0.2.1:8080", near.addr.String()},
			{"a pod of another node", far.sandbox, "192.0.2.1:8080", "192.0.2.2"},
			{"the pod itself", server.sandbox, "192.0.2.1:8080", "10.64.1.1"},
		} {
			got, err := tt.from.ask(tt.to)
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("%s: seen as %q, %v, want %q", tt.name, got, err, tt.want)
			}
		}
	}
	check(t)
	ruleset := func() string {
		return run(t, "nsenter", "-t", strconv.Itoa(one.pid), "-n", "nft", "list", "table", "ip", one.Bridge)
	}
	for _, want := range []string{"udp . 8080", "sctp . 8080", "192.0.2.99 . tcp . 8082"} {
		if got := ruleset(); !strings.Contains(got, want) {
			t.Errorf("want %q in\n%s", want, got)
		}
	}
	t.Run("repaired", func(t *testing.T) {
		run(t, "nsenter", "-t", strconv.Itoa(one.pid), "-n", "nft", "flush", "ruleset")
		if err := one.apply(t); err != nil {
			t.Fatal(err)
		}
		check(t)
	})
	t.Run("DEL", func(t *testing.T) {
		for range 2 {
			if err := one.within(func() error { _, err := plugin(one.Desired, "DEL", server.sandbox); return err }); err != nil {
				t.Fatal(err)
			}
		}
		if got := ruleset(); strings.Contains(got, "8080") || strings.Contains(got, server.addr.String()) {
			t.Errorf("left\n%s", got)
		}
		if _, err := world.ask("192.0.2.1:8080"); err == nil {
			t.Error("somebody answers")
		}
	})
	t.Run("GC", func(t *testing.T) {
		one.pod(t, "lost", port(8090, "", "TCP"))
		age(t, one.Desired)
		if err := one.within(func() error { return GC(t.Context(), one.Desired, []string{near.id}) }); err != nil {
			t.Fatal(err)
		}
		if got := ruleset(); strings.Contains(got, "8090") {
			t.Errorf("left\n%s", got)
		}
	})
	t.Run("refused", func(t *testing.T) {
		for _, bad := range []map[string]any{port(1, "", "icmp"), port(1, "::1", "tcp")} {
			if _, err := plugin(one.Desired, "ADD", newSandbox(t, "bad"), bad); err == nil {
				t.Errorf("%v was accepted", bad)
			}
		}
	})
}
