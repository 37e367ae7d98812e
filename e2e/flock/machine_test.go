package flock

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/pleachdev/pleach/agent/api"
	"github.com/pleachdev/pleach/e2e/lab"
	"github.com/pleachdev/pleach/e2e/sim"
)

// machine is one node; its disk stays when it is switched off. What is done to it is recorded.
type machine struct {
	*lab.Node
	api   *api.Client
	under func() // ends the fault that it is off, or without an agent; nil when it is neither
}

// newMachine makes the next machine and switches it on. Nothing runs there yet.
func (f *flock) newMachine() *machine {
	f.t.Helper()
	m := f.bareMachine(fmt.Sprintf("node-%d", len(f.machines)+1))
	f.machines = append(f.machines, m)
	return m
}

// bareMachine makes a machine that is no node of the flock, and switches it on.
func (f *flock) bareMachine(name string) *machine {
	f.t.Helper()
	node, err := f.lab.NewNode(f.t.Context(), name)
	f.must(err)
	for _, do := range f.each {
		f.must(do(node))
	}
	m := &machine{Node: node, api: api.NewClient(filepath.Join(node.Dir, "pleach", api.SocketName))}
	f.must(f.registry.Mirror(filepath.Join(m.dir(), "registries")))
	f.must(m.Start(f.t.Context()))
	return m
}

// dir is the agent's directory as seen from outside.
func (m *machine) dir() string { return filepath.Join(m.Dir, "pleach") }

// startAgent starts the agent of a machine that is on.
func (f *flock) startAgent(m *machine) {
	f.t.Helper()
	var join []string
	for _, other := range f.machines {
		if other != m {
			join = append(join, "--join", other.Addr.String())
		}
	}
	f.startAgentWith(m, m.Name, append(join, "--journal", f.recorder.journal(m.Name))...)
}

// startAgentWith starts an agent on a machine for the node of this name, which knows no others than flags
// say. What it publishes is not recorded unless flags say so.
func (f *flock) startAgentWith(m *machine, node string, flags ...string) {
	f.t.Helper()
	_, err := m.StartAgent(append([]string{
		f.program, "agent", "--node", node, "--remote", f.git.NodeURL("flock"), "--introduction", f.introduction, "--listen", ":" + hintPort,
	}, flags...)...)
	f.must(err)
	m.mended()
}

// pleach runs the pleach command on the machine, as root there.
func (m *machine) pleach(f *flock, args ...string) string {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	out, err := m.Exec(ctx, append([]string{f.program}, args...)...)
	f.must(err)
	return strings.TrimSpace(string(out))
}

func (m *machine) mended() {
	if m.under != nil {
		m.under()
		m.under = nil
	}
}

// kill pulls the plug: all processes end, and what was in memory is lost.
func (f *flock) kill(m *machine) {
	f.t.Helper()
	m.under = f.recorder.begin(sim.PowerOff, m.Name)
	f.must(m.PowerOff())
}

// boot switches a machine on again, with its disk.
func (f *flock) boot(m *machine) {
	f.t.Helper()
	f.must(m.Start(f.t.Context()))
	f.startAgent(m)
}

// killAgent ends the agent alone, at once. The pods run on.
func (f *flock) killAgent(m *machine) {
	f.t.Helper()
	m.under = f.recorder.begin(sim.Restart, m.Name)
	f.must(m.KillAgent())
}

// endAgent asks the agent to end, as systemd does, and waits for it.
func (f *flock) endAgent(m *machine) {
	f.t.Helper()
	m.under = f.recorder.begin(sim.Restart, m.Name)
	agent := m.Agent()
	f.must(agent.Signal(syscall.SIGTERM))
	f.must(agent.Wait(f.t.Context()))
}

// split lets nobody outside of a group hear who is inside, and nobody inside who is outside. Git and the
// registry are heard by all.
func (f *flock) split(group ...*machine) (heal func()) {
	f.t.Helper()
	var names []string
	inside := map[*machine]bool{}
	for _, m := range group {
		names, inside[m] = append(names, m.Name), true
	}
	end := f.recorder.begin(sim.Partition, "", names...)
	for _, a := range f.machines {
		for _, b := range f.machines {
			if inside[a] != inside[b] {
				f.must(f.underlay.Cut(a.Node, b.Node))
			}
		}
	}
	return f.heal(end)
}

// heal mends all cables, and notes the ends of faults.
func (f *flock) heal(ends ...func()) func() {
	return func() {
		f.t.Helper()
		f.must(f.underlay.Heal())
		for _, end := range ends {
			end()
		}
	}
}

// isolate takes machines off the network, Git and registry included.
func (f *flock) isolate(group ...*machine) (heal func()) {
	f.t.Helper()
	var names []string
	for _, m := range group {
		names = append(names, m.Name)
	}
	end := f.recorder.begin(sim.Partition, "", names...)
	for _, m := range group {
		f.must(f.underlay.Isolate(m.Node))
	}
	return f.heal(end)
}

// withoutGit lets a machine reach its peers and not the servers.
func (f *flock) withoutGit(m *machine) (heal func()) {
	f.t.Helper()
	end := f.recorder.begin(sim.GitAway, m.Name)
	f.must(f.underlay.Cut(m.Node, nil))
	f.must(f.underlay.Cut(nil, m.Node))
	return f.heal(end)
}

// saysInLog reports whether the log of a machine's agent has a line with all of these.
func saysInLog(m *machine, texts ...string) error {
	body, err := os.ReadFile(m.Agent().Log)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(body)) {
		if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
			return nil
		}
	}
	return fmt.Errorf("no line of the log of %s has %q", m.Name, texts)
}
