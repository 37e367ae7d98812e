package lab_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pleachdev/pleach/e2e/lab"
	"github.com/pleachdev/pleach/e2e/needs"
)

// nodes starts a lab with this many nodes, switched on.
func nodes(t *testing.T, count int) (*lab.Lab, []*lab.Node) {
	t.Helper()
	needs.Root(t)
	needs.Command(t, "go")
	l := lab.New(t)
	if _, err := l.NewUnderlay(); err != nil {
		t.Fatal(err)
	}
	var list []*lab.Node
	for i := range count {
		n, err := l.NewNode(t.Context(), fmt.Sprintf("n%d", i+1))
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		list = append(list, n)
	}
	return l, list
}

func execIn(t *testing.T, n *lab.Node, args ...string) string {
	t.Helper()
	out, err := n.Exec(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func TestNodeIsAMachine(t *testing.T) {
	_, list := nodes(t, 1)
	n := list[0]
	if got := execIn(t, n, "hostname"); got != "n1" {
		t.Errorf("the host name is %q", got)
	}
	if got := execIn(t, n, "cat", "/proc/1/cmdline"); !strings.HasPrefix(got, "nodeinit") {
		t.Errorf("the first process is %q", got)
	}
	for line := range strings.Lines(execIn(t, n, "cat", "/proc/self/cgroup")) {
		if path := line[strings.LastIndex(line, ":")+1:]; strings.TrimSpace(path) != "/" && strings.TrimSpace(path) != "/init" {
			t.Errorf("the command's cgroup is %q, want the root of the node", strings.TrimSpace(line))
		}
	}
	// What an agent does: cgroups of its own below the root that it sees, in every hierarchy.
	execIn(t, n, "sh", "-ec", `for d in $(grep -E ' - cgroup2? ' /proc/self/mountinfo | cut -d' ' -f5); do mkdir -p $d/kubepods/pod1; done`)
	execIn(t, n, "sh", "-ec", "touch /run/volatile /etc/kept /var/lib/kept /var/lib/pleach/kept")
	for _, path := range []string{"/run/volatile", "/etc/kept", "/var/lib/kept", "/var/lib/pleach/kept"} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s of the node is on the machine", path)
		}
	}
	if _, err := n.Exec(t.Context(), "sh", "-c", "exit 7"); err == nil || !strings.Contains(err.Error(), "exit status 7") {
		t.Errorf("a command that ends with 7 gave %v", err)
	}

	if err := n.PowerOff(); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Exec(t.Context(), "true"); err == nil {
		t.Error("a node that is off ran a command")
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	execIn(t, n, "sh", "-ec", "test ! -e /run/volatile; test -e /etc/kept; test -e /var/lib/kept; test -e /var/lib/pleach/kept")
}

func TestPowerOffEndsAllProcesses(t *testing.T) {
	_, list := nodes(t, 1)
	n := list[0]
	agent, err := n.StartAgent("sh", "-c", "setsid sleep 1000 & wait")
	if err != nil {
		t.Fatal(err)
	}
	var daemon lab.Usage
	lab.Wait(t, 10*time.Second, "the agent's child runs", func(context.Context) error {
		processes, err := n.Processes()
		for _, p := range processes {
			if strings.Join(p.Args, " ") == "sleep 1000" {
				daemon = p
				return nil
			}
		}
		return errors.Join(fmt.Errorf("%d processes", len(processes)), err)
	})
	if daemon.PSS == 0 || daemon.RSS < daemon.Private {
		t.Errorf("usage of a process: %+v", daemon)
	}
	if tree, err := lab.UsageOfTree(agent.PID()); err != nil || len(tree) < 2 {
		t.Errorf("the agent's tree has %d processes (%v), want 2", len(tree), err)
	}
	if err := n.KillAgent(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(daemon.PID, 0); err != nil {
		t.Errorf("the agent's child, after the agent was killed: %v", err)
	}
	if err := n.PowerOff(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(daemon.PID, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the agent's child, after power-off: %v", err)
	}
}

func TestNodesReachServersAndEachOther(t *testing.T) {
	l, list := nodes(t, 2)
	git, err := l.GitServer()
	if err != nil {
		t.Fatal(err)
	}
	if err := git.Create(t.Context(), "config"); err != nil {
		t.Fatal(err)
	}
	if _, err := list[0].Exec(t.Context(), "git", "ls-remote", git.NodeURL("config")); err != nil {
		t.Error(err)
	}
	if n := git.Reads(list[0].Addr.String()); n != 1 {
		t.Errorf("the server counts %d reads of the node, want 1", n)
	}
	_, port, _ := net.SplitHostPort(git.Address())
	servers := net.JoinHostPort(lab.ServersAddr.String(), port)
	peer, err := list[1].Listen(list[1].Addr.String() + ":7000")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = peer.Close() }()
	// What should fail is given up soon; what should work may take its time on a busy machine.
	reach := func(address string, want bool) error {
		patience := 300 * time.Millisecond
		if want {
			patience = 10 * time.Second
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		conn, err := list[0].DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	u := l.Underlay()
	steps := []struct {
		what          string
		do            func() error
		servers, peer bool
	}{
		{"all is well", u.Heal, true, true},
		{"n1 to n2 cut", func() error { return u.Cut(list[0], list[1]) }, true, false},
		{"healed", u.Heal, true, true},
		{"servers to n1 cut", func() error { return u.Cut(nil, list[0]) }, false, true},
		{"and n1 isolated", func() error { return u.Isolate(list[0]) }, false, false},
		{"healed again", u.Heal, true, true},
		{"n1 loses all", func() error { return u.Lose(list[0], 100) }, false, false},
		{"n1 loses nothing", func() error { return u.Lose(list[0], 0) }, true, true},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if err := reach(servers, step.servers); (err == nil) != step.servers {
			t.Errorf("%s: the servers: %v", step.what, err)
		}
		if err := reach(peer.Addr().String(), step.peer); (err == nil) != step.peer {
			t.Errorf("%s: n2: %v", step.what, err)
		}
	}
	// A node that comes back is found at its old address at once.
	if err := list[1].PowerOff(); err != nil {
		t.Fatal(err)
	}
	if err := list[1].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	again, err := list[1].Listen(peer.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.Close() }()
	if err := reach(again.Addr().String(), true); err != nil {
		t.Errorf("after power-off and on: %v", err)
	}
}

func TestUplink(t *testing.T) {
	l, list := nodes(t, 1)
	if err := l.Uplink(); err != nil {
		t.Fatal(err)
	}
	// An address behind the node, as a pod has one.
	execIn(t, list[0], "ip", "address", "add", "10.42.7.9/32", "dev", "lo")
	if err := l.Underlay().Route(netip.MustParsePrefix("10.42.7.0/24"), list[0]); err != nil {
		t.Fatal(err)
	}
	pod, err := list[0].Listen("10.42.7.9:80")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pod.Close() }()
	for name, dial := range map[string]func(context.Context, string, string) (net.Conn, error){
		"this machine": (&net.Dialer{}).DialContext, "the underlay": l.Underlay().DialContext,
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		conn, err := dial(ctx, "tcp", pod.Addr().String())
		cancel()
		if err != nil {
			t.Errorf("from %s: %v", name, err)
			continue
		}
		_ = conn.Close()
	}
	other := lab.New(t)
	if _, err := other.NewUnderlay(); err != nil {
		t.Fatal(err)
	}
	if err := other.Uplink(); err == nil || !strings.Contains(err.Error(), "10.99.0.253") {
		t.Errorf("a second uplink gave %v", err)
	}
}

func TestHintsReachNodes(t *testing.T) {
	l, list := nodes(t, 1)
	listener, err := list[0].Listen(list[0].Addr.String() + ":8080")
	if err != nil {
		t.Fatal(err)
	}
	hinted := make(chan struct{}, 1)
	agent := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hinted <- struct{}{} })}
	defer func() { _ = agent.Close() }()
	go func() { _ = agent.Serve(listener) }()

	git, err := l.GitServer()
	if err != nil {
		t.Fatal(err)
	}
	if err := git.Create(t.Context(), "config"); err != nil {
		t.Fatal(err)
	}
	git.Hint("refs/heads/main", "http://"+listener.Addr().String()+"/hint", "")
	key, err := lab.NewKey(t.Context(), l.Dir, "alice@example.org")
	if err != nil {
		t.Fatal(err)
	}
	repo := l.NewRepo(t, key, git.URL("config"))
	repo.Commit("first")
	repo.Push()
	select {
	case <-hinted:
	case <-time.After(10 * time.Second):
		t.Fatal("no hint reached the node")
	}
}
