package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/netip"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/pleachdev/pleach/e2e/lab"
)

// hintPort is where each node takes hints.
const hintPort = "7433"

// flock is the nodes of a demo of several: machines of the laboratory, with a network of their own that
// this machine is plugged into as well. The serving process holds them.
type flock struct {
	underlay *lab.Underlay
	git      *lab.GitServer

	mu       sync.Mutex
	machines []*machine
	orders   startOrders // nothing runs before they have come
}

// machine is one node and the goroutine that keeps its agent running, as systemd would.
type machine struct {
	*lab.Node
	stop context.CancelFunc // nil while no agent is to run
	done chan struct{}
}

// startOrders say what agents to run.
type startOrders struct {
	Program      string                  `json:"program"`
	Introduction string                  `json:"introduction"`
	PodCIDRs     map[string]netip.Prefix `json:"podCIDRs"` // by node, for this machine's ways to them
}

// restartAfter is the wait before an agent that ended is started again.
const restartAfter = 2 * time.Second

// newFlock makes the machines and switches them on. Nothing runs on them yet.
func newFlock(ctx context.Context, l *lab.Lab, count int) (*flock, error) {
	f := &flock{}
	var err error
	if f.underlay, err = l.NewUnderlay(); err != nil {
		return nil, err
	}
	if err := l.Uplink(); err != nil {
		return nil, err
	}
	for i := range count {
		node, err := l.NewNode(ctx, nodeName(i))
		if err != nil {
			return nil, err
		}
		if err := node.Start(ctx); err != nil {
			return nil, err
		}
		f.machines = append(f.machines, &machine{Node: node})
	}
	return f, nil
}

// dir is where the agent of a machine keeps everything, as seen from outside.
func (m *machine) dir() string { return filepath.Join(m.Dir, "pleach") }

func (f *flock) find(name string) (*machine, error) {
	for _, m := range f.machines {
		if m.Name == name {
			return m, nil
		}
	}
	return nil, fmt.Errorf("no node %q: the demo's are %s to %s", name, nodeName(0), nodeName(len(f.machines)-1))
}

// start runs the agents on the machines that are on, anew where they run already: the containers go on.
func (f *flock) start(ctx context.Context, orders startOrders) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.orders = orders
	for _, m := range f.machines {
		if cidr, ok := orders.PodCIDRs[m.Name]; ok {
			if err := f.underlay.Route(cidr, m.Node); err != nil {
				return err
			}
		}
		if m.PID() == 0 {
			continue
		}
		if err := m.endAgent(ctx); err != nil {
			return err
		}
		f.keepAgent(m)
	}
	return nil
}

// keepAgent runs the agent of a machine, again and again, until it is told to stop.
func (f *flock) keepAgent(m *machine) {
	ctx, stop := context.WithCancel(context.Background())
	m.stop, m.done = stop, make(chan struct{})
	args := []string{
		f.orders.Program, "agent", "--node", m.Name, "--remote", f.git.NodeURL("flock"), "--branch", "main",
		"--introduction", f.orders.Introduction, "--listen", ":" + hintPort,
	}
	go func() {
		defer close(m.done)
		for ctx.Err() == nil {
			agent, err := m.StartAgent(args...)
			if err != nil {
				log.Printf("%s: %v", m.Name, err)
			} else {
				select {
				case <-ctx.Done():
					return // whoever stops ends the agent too
				case <-agent.Done():
					log.Printf("%s: the agent ended; %s says why", m.Name, agent.Log)
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(restartAfter):
			}
		}
	}()
}

// quit ends the keeping of an agent, not the agent.
func (m *machine) quit() {
	if m.stop != nil {
		m.stop()
		<-m.done
		m.stop = nil
	}
}

// endAgent asks the agent to end, and waits for it.
func (m *machine) endAgent(ctx context.Context) error {
	m.quit()
	agent := m.Agent()
	if agent == nil {
		return nil
	}
	if err := agent.Signal(syscall.SIGTERM); err != nil {
		return nil // it has ended
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	select {
	case <-agent.Done():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the agent of %s does not end", m.Name)
	}
}

// The faults that the demo offers, by the word on its command line.
var faults = map[string]func(*flock, context.Context, *machine) error{
	"off":   (*flock).off,
	"on":    (*flock).on,
	"crash": (*flock).crash,
	"cut":   (*flock).cut,
}

// off pulls the plug of a machine.
func (f *flock) off(_ context.Context, m *machine) error {
	m.quit()
	return m.PowerOff()
}

// on switches it on again.
func (f *flock) on(ctx context.Context, m *machine) error {
	if err := m.Start(ctx); err != nil {
		return err
	}
	if f.orders.Program == "" {
		return errors.New("the demo is not up yet")
	}
	f.keepAgent(m)
	return nil
}

// crash kills the agent alone; it is started again soon.
func (f *flock) crash(_ context.Context, m *machine) error {
	if m.stop == nil {
		return fmt.Errorf("%s is off", m.Name)
	}
	return m.KillAgent()
}

// cut takes a machine off the network; its pods run on.
func (f *flock) cut(_ context.Context, m *machine) error { return f.underlay.Isolate(m.Node) }
