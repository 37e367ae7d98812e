package netplugins

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pleachdev/pleach/e2e/needs"
	"github.com/pleachdev/pleach/netplugins/cni"
	"github.com/pleachdev/pleach/netplugins/ipam"
)

// The test binary is also the plugin that it tests, under the plugin's name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == cni.Type {
		cni.Main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const insideEnv = "PLEACH_TEST_NETNS"

// inNamespace runs the test in a process with a network namespace of its own, and reports whether
// this is that process. It goes away with all that the test made in it.
func inNamespace(t *testing.T) bool {
	t.Helper()
	needs.Root(t)
	needs.Command(t, "nft")
	needs.Command(t, "ip")
	if os.Getenv(insideEnv) == t.Name() {
		run(t, "ip", "link", "set", "lo", "up")
		return true
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), insideEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// sandbox is a network namespace held open by a process that sleeps, as a pod's is by its pause.
type sandbox struct {
	id, netns string
	pid       int
}

func newSandbox(t *testing.T, id string) sandbox {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // Pdeathsig follows the thread
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // the test may have done it
		_ = cmd.Wait()
	})
	return sandbox{id: id, netns: fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid), pid: cmd.Process.Pid}
}

// plugin calls the CNI plugin as containerd does.
func plugin(d Desired, command string, s sandbox, ports ...map[string]any) (*current.Result, error) {
	conf, err := pluginConf(d, ports...)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{cni.Type}
	cmd.Stdin = strings.NewReader(conf)
	cmd.Env = []string{
		"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + s.id, "CNI_NETNS=" + s.netns,
		"CNI_IFNAME=eth0", "CNI_PATH=/nowhere",
		"GORACE=atexit_sleep_ms=0", // under the race detector each call would last a second longer
	}
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", command, err, out)
	}
	if command != "ADD" {
		return nil, nil
	}
	var r current.Result
	return &r, json.Unmarshal(out, &r)
}

func pluginConf(d Desired, ports ...map[string]any) (string, error) {
	b, err := os.ReadFile(filepath.Join(d.ConfDir, confFile))
	if err != nil {
		return "", err
	}
	var list struct {
		Plugins []map[string]any `json:"plugins"`
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return "", err
	}
	list.Plugins[0]["cniVersion"], list.Plugins[0]["name"] = cni.Version, networkName
	list.Plugins[0]["runtimeConfig"] = map[string]any{"portMappings": ports}
	one, err := json.Marshal(list.Plugins[0])
	return string(one), err
}

func add(t *testing.T, d Desired, s sandbox) netip.Addr {
	t.Helper()
	r, err := plugin(d, "ADD", s)
	if err != nil {
		t.Fatal(err)
	}
	addr, ok := netip.AddrFromSlice(r.IPs[0].Address.IP.To4())
	if !ok {
		t.Fatalf("no address in %v", r)
	}
	return addr
}

func apply(t *testing.T, d Desired) {
	t.Helper()
	if err := Apply(t.Context(), d); err != nil {
		t.Fatal(err)
	}
}

const wantRuleset = `table ip pleach0 {
	map hostports {
		type inet_proto . inet_service : ipv4_addr . inet_service
	}

	map hostip {
		type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
	}

	set hairpin {
		type ipv4_addr . ipv4_addr
	}

	chain filter {
		type filter hook prerouting priority raw; policy accept;
		iifname "pleach0" ip daddr 127.0.0.0/8 drop
		iifname != "pleach0" ip saddr 10.64.0.0/16 fib saddr . iif oif 0 drop
	}

	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map @hostip
		fib daddr type local dnat ip to meta l4proto . th dport map @hostports
	}

	chain output {
		type nat hook output priority -100; policy accept;
		fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map @hostip
		fib daddr type local dnat ip to meta l4proto . th dport map @hostports
	}

	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 10.64.1.0/24 ip daddr != 10.64.0.0/16 masquerade
		ip saddr . ip daddr @hairpin masquerade
		oifname "pleach0" ip saddr 127.0.0.0/8 masquerade
	}
}
table bridge pleach0 {
	set own {
		type ifname . ether_addr . ipv4_addr
	}

	set links {
		type ifname
	}

	chain filter {
		type filter hook prerouting priority dstnat; policy accept;
		iifname . ether saddr . ip saddr @own accept
		iifname . ether saddr . arp saddr ip @own accept
		iifname @links drop
	}
}
`

func TestApplyMakesAndRepairs(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	d := desired(t.TempDir())
	check := func(t *testing.T) {
		t.Helper()
		got := run(t, "nft", "list", "table", "ip", d.Bridge) + run(t, "nft", "list", "table", "bridge", d.Bridge)
		if got != wantRuleset {
			t.Errorf("got the ruleset\n%swant\n%s", got, wantRuleset)
		}
		link := run(t, "ip", "-o", "-d", "link", "show", d.Bridge)
		for _, want := range []string{"mtu 1500", "0a:58:0a:40:01:01", "bridge ", ",UP", "nf_call_iptables 1"} {
			if !strings.Contains(link, want) {
				t.Errorf("bridge: want %q in %s", want, link)
			}
		}
		if got := run(t, "ip", "-4", "-o", "addr", "show", d.Bridge); strings.Count(got, "inet ") != 1 || !strings.Contains(got, "inet 10.64.1.1/24") {
			t.Errorf("bridge: want only the address 10.64.1.1/24, got %s", got)
		}
		if got := run(t, "ip", "route", "show", "type", "unreachable"); !strings.Contains(got, "10.64.0.0/16") {
			t.Errorf("want the cluster's range unreachable, got %s", got)
		}
		if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); err != nil || string(b) != "1\n" {
			t.Errorf("ip_forward: %q, %v", b, err)
		}
		if _, err := pluginConf(d); err != nil {
			t.Error(err)
		}
	}
	apply(t, d)
	check(t)
	handle := run(t, "nft", "-a", "list", "ruleset")
	apply(t, d)
	if again := run(t, "nft", "-a", "list", "ruleset"); again != handle {
		t.Errorf("nothing differed, yet the table was written again:\n%s\n%s", handle, again)
	}
	for _, damage := range [][]string{
		{"nft", "flush", "ruleset"},
		{"nft", "flush", "chain", "ip", "pleach0", "postrouting"},
		{"nft", "add", "rule", "ip", "pleach0", "postrouting", "drop"},
		{"nft", "add", "chain", "ip", "pleach0", "mine"},
		{"nft", "delete", "table", "bridge", "pleach0"},
		{"nft", "add", "element", "ip", "pleach0", "hairpin", "{ 10.64.1.9 . 10.64.1.9 }"},
		{"ip", "route", "del", "unreachable", "10.64.0.0/16"},
		{"ip", "link", "del", "pleach0"},
		{"ip", "link", "set", "pleach0", "down"},
		{"ip", "link", "set", "pleach0", "mtu", "1300"},
		{"ip", "link", "set", "pleach0", "type", "bridge", "nf_call_iptables", "0"},
		{"ip", "addr", "flush", "dev", "pleach0"},
		{"ip", "addr", "add", "10.9.9.9/24", "dev", "pleach0"},
		{"sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_forward"},
		{"rm", filepath.Join(d.ConfDir, confFile)},
	} {
		t.Run(strings.Join(damage[:len(damage)-1], " "), func(t *testing.T) {
			run(t, damage[0], damage[1:]...)
			apply(t, d)
			check(t)
		})
	}
	t.Run("cleanup", func(t *testing.T) {
		for range 2 {
			if err := Cleanup(t.Context(), d); err != nil {
				t.Fatal(err)
			}
		}
		if got := run(t, "nft", "list", "ruleset"); got != "" {
			t.Errorf("left the ruleset\n%s", got)
		}
		if _, err := netlink.LinkByName(d.Bridge); !errors.As(err, &netlink.LinkNotFoundError{}) {
			t.Errorf("left the bridge: %v", err)
		}
	})
}

// within runs f in the network namespace of s.
func (s sandbox) within(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := os.Open(s.netns)
		if err == nil {
			defer ns.Close()
			if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
				err = f()
			}
		}
		done <- err
	}()
	return <-done
}

// serve listens in s and tells each caller its address.
func (s sandbox) serve(t *testing.T, addr string) {
	t.Helper()
	var l net.Listener
	err := s.within(func() (err error) { l, err = net.Listen("tcp4", addr); return err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, c.RemoteAddr().(*net.TCPAddr).IP)
			c.Close()
		}
	}()
}

// ask connects from s and returns the address that the other side saw.
func (s sandbox) ask(addr string) (seen string, err error) {
	err = s.within(func() error {
		c, err := net.DialTimeout("tcp4", addr, 5*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		b, err := io.ReadAll(c)
		seen = string(b)
		return err
	})
	return seen, err
}

func TestPodsReachEachOtherAndTheWorld(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	d := desired(t.TempDir())
	apply(t, d)
	one, two, world := newSandbox(t, "one"), newSandbox(t, "two"), newSandbox(t, "world")
	oneAddr, twoAddr := add(t, d, one), add(t, d, two)
	for _, s := range []sandbox{one, two} {
		if _, err := plugin(d, "CHECK", s); err != nil {
			t.Error(err)
		}
	}
	// The world is a machine beside the node that knows no way to the pods.
	run(t, "ip", "link", "add", "out", "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(world.pid))
	run(t, "ip", "addr", "add", "192.0.2.1/24", "dev", "out")
	run(t, "ip", "link", "set", "out", "up")
	run(t, "nsenter", "-t", fmt.Sprint(world.pid), "-n", "ip", "addr", "add", "192.0.2.9/24", "dev", "eth0")
	run(t, "nsenter", "-t", fmt.Sprint(world.pid), "-n", "ip", "link", "set", "eth0", "up")
	run(t, "nsenter", "-t", fmt.Sprint(one.pid), "-n", "ip", "link", "set", "lo", "up")

	one.serve(t, oneAddr.String()+":80")
	two.serve(t, twoAddr.String()+":80")
	world.serve(t, "192.0.2.9:80")
	for _, tt := range []struct {
		name string
		from sandbox
		to   string
		want string
	}{
		{"pod to pod", one, twoAddr.String(), oneAddr.String()},
		{"pod to pod, back", two, oneAddr.String(), twoAddr.String()},
		{"pod to itself", one, oneAddr.String(), oneAddr.String()},
		{"pod to the world, as the node", one, "192.0.2.9", "192.0.2.1"},
	} {
		got, err := tt.from.ask(tt.to + ":80")
		if err != nil || got != tt.want {
			t.Errorf("%s: seen as %q, %v, want %q", tt.name, got, err, tt.want)
		}
	}
}

func TestManyAddsAtOnce(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	d := desired(t.TempDir())
	apply(t, d)
	const n = 100
	sandboxes := make([]sandbox, n)
	for i := range sandboxes {
		sandboxes[i] = newSandbox(t, fmt.Sprintf("pod-%d", i))
	}
	addrs := make([]string, n)
	var wg sync.WaitGroup
	for i, s := range sandboxes {
		wg.Go(func() {
			r, err := plugin(d, "ADD", s)
			if err != nil {
				t.Error(err)
				return
			}
			addrs[i] = r.IPs[0].Address.IP.String()
		})
	}
	wg.Wait()
	slices.Sort(addrs)
	if distinct := len(slices.Compact(slices.Clone(addrs))); distinct != n {
		t.Errorf("%d pods got %d addresses: %v", n, distinct, addrs)
	}
	for _, s := range sandboxes {
		wg.Go(func() {
			if _, err := plugin(d, "DEL", s); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	wantNothingLeft(t, d)
}

func wantNothingLeft(t *testing.T, d Desired) {
	t.Helper()
	leases, err := ipam.Store{Dir: d.LeaseDir, Range: d.PodCIDR}.Leases()
	if err != nil || len(leases) != 0 {
		t.Errorf("leases left: %v, %v", leases, err)
	}
	if links := run(t, "ip", "-o", "link", "show", "master", d.Bridge); links != "" {
		t.Errorf("links left:\n%s", links)
	}
}

// The plugin is killed at moments spread over its whole run: the next ADD completes, DEL undoes, and
// a sandbox that vanished leaves its address to GC.
func TestKilledAnywhere(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	d := desired(t.TempDir())
	apply(t, d)
	whole := time.Now()
	add(t, d, newSandbox(t, "measure"))
	took := time.Since(whole)
	if _, err := plugin(d, "DEL", sandbox{id: "measure"}); err != nil {
		t.Fatal(err)
	}
	const n = 45
	killed := 0
	for i := range n {
		s := newSandbox(t, fmt.Sprintf("pod-%d", i))
		if killedAt(t, d, s, took*time.Duration(i)/n) {
			killed++
		}
		switch i % 3 {
		case 0: // again, and away
			addr := add(t, d, s)
			if again := add(t, d, s); again != addr {
				t.Errorf("ADD of the same sandbox gave %s, then %s", addr, again)
			}
			fallthrough
		case 1: // away
			if _, err := plugin(d, "DEL", s); err != nil {
				t.Error(err)
			}
		case 2: // the machine's namespace goes without a word
			if err := unix.Kill(s.pid, unix.SIGKILL); err != nil {
				t.Error(err)
			}
		}
	}
	t.Logf("killed %d of %d before their end", killed, n)
	if killed == 0 {
		t.Error("no kill hit a running plugin")
	}
	age(t, d)
	if err := GC(t.Context(), d, nil); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second) // the kernel removes namespaces in its own time
	for time.Now().Before(deadline) && run(t, "ip", "-o", "link", "show", "master", d.Bridge) != "" {
		time.Sleep(50 * time.Millisecond)
	}
	wantNothingLeft(t, d)
}

// age makes every lease an old one.
func age(t *testing.T, d Desired) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(d.LeaseDir, "10.*"))
	if err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-2 * ipam.Settle)
	for _, f := range files {
		if err := os.Chtimes(f, long, long); err != nil {
			t.Fatal(err)
		}
	}
}

func killedAt(t *testing.T, d Desired, s sandbox, after time.Duration) bool {
	t.Helper()
	conf, err := pluginConf(d)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Args = []string{cni.Type}
	cmd.Stdin = strings.NewReader(conf)
	cmd.Env = []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=" + s.id, "CNI_NETNS=" + s.netns, "CNI_IFNAME=eth0", "CNI_PATH=/nowhere"}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(after)
	_ = cmd.Process.Kill() // it may have ended by itself
	return cmd.Wait() != nil
}

func TestDelOfNothing(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	d := desired(t.TempDir())
	apply(t, d)
	for _, s := range []sandbox{{id: "never"}, {id: "never", netns: "/proc/nowhere/ns/net"}} {
		if _, err := plugin(d, "DEL", s); err != nil {
			t.Errorf("DEL of %v: %v", s, err)
		}
	}
	if _, err := plugin(d, "STATUS", sandbox{}); err != nil {
		t.Error(err)
	}
	run(t, "ip", "link", "del", d.Bridge)
	if _, err := plugin(d, "STATUS", sandbox{}); err == nil {
		t.Error("STATUS without a bridge: want an error")
	}
	if _, err := plugin(d, "ADD", newSandbox(t, "pod")); err == nil || !strings.Contains(err.Error(), "the agent makes and repairs it") {
		t.Errorf("ADD without a bridge: got %v", err)
	}
}
