package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pleachdev/pleach/e2e/lab"
)

// peers measures Docker Swarm on five machines of the laboratory, by commands and without Git: how soon
// replicas run, and how soon the replica of a lost node runs elsewhere. Running is less than Ready: no
// probe has passed yet. Its containers share their node's network, so that each node takes one.
func (b *bench) peers() (err error) {
	for _, program := range []string{"dockerd", "docker", "containerd", "runc"} {
		if _, err := exec.LookPath(program); err != nil {
			fmt.Fprintf(os.Stderr, "    skipped: there is no %s; apt-get install docker.io brings it\n", program)
			b.table.add("peers", "Docker Swarm", "not measured: no "+program)
			return nil
		}
	}
	l, err := lab.Open("")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	s := &swarm{bench: b, lab: l}
	if err := s.setUp(5); err != nil {
		return err
	}
	var create []time.Duration
	for i := range b.count(20, 3) + 1 {
		name := fmt.Sprint("push-", i)
		began := time.Now()
		if err := s.create(name, 3); err != nil {
			return err
		}
		if i > 0 { // the first one pulls the image
			create = append(create, time.Since(began))
		}
		if _, err := s.docker(s.nodes[0], "service", "rm", name); err != nil {
			return err
		}
		if err := s.pause(5 * time.Second); err != nil {
			return err
		}
	}
	b.table.add("peers", fmt.Sprintf("Docker Swarm: service create → 3 tasks Running, p50, p95 of %d", len(create)), seconds(quantile(create, .5))+", "+seconds(quantile(create, .95)))

	var lost []time.Duration
	if err := s.create("web", 3); err != nil {
		return err
	}
	for range b.count(3, 1) {
		victim, err := s.worker("web")
		if err != nil {
			return err
		}
		began := time.Now()
		if err := victim.PowerOff(); err != nil {
			return err
		}
		if err := s.running("web", 3, victim.Name); err != nil {
			return err
		}
		lost = append(lost, time.Since(began))
		if err := s.boot(victim); err != nil {
			return err
		}
		if err := s.pause(20 * time.Second); err != nil {
			return err
		}
	}
	b.table.add("peers", fmt.Sprintf("Docker Swarm: a worker of 5 nodes killed → its task Running elsewhere, p50, worst of %d", len(lost)), seconds(quantile(lost, .5))+", "+seconds(quantile(lost, 1)))
	return nil
}

// swarm is machines with Docker; the first is the manager.
type swarm struct {
	*bench
	lab      *lab.Lab
	nodes    []*lab.Node
	registry *lab.Registry
}

func (s *swarm) setUp(count int) error {
	if _, err := s.lab.NewUnderlay(); err != nil {
		return err
	}
	var err error
	if s.registry, err = s.lab.Registry(); err != nil {
		return err
	}
	image, err := lab.Podinfo(s.ctx, "1.0")
	if err != nil {
		return err
	}
	if _, err := s.registry.Push(s.ctx, "podinfo:1.0", image); err != nil {
		return err
	}
	token := ""
	for i := range count {
		n, err := s.lab.NewNode(s.ctx, fmt.Sprint("peer-", i+1))
		if err != nil {
			return err
		}
		s.nodes = append(s.nodes, n)
		if err := s.boot(n); err != nil {
			return err
		}
		if i > 0 {
			if _, err := s.docker(n, "swarm", "join", "--advertise-addr", n.Addr.String(), "--token", token, s.nodes[0].Addr.String()+":2377"); err != nil {
				return err
			}
			continue
		}
		if _, err := s.docker(n, "swarm", "init", "--advertise-addr", n.Addr.String()); err != nil {
			return err
		}
		out, err := s.docker(n, "swarm", "join-token", "-q", "worker")
		if err != nil {
			return err
		}
		token = strings.TrimSpace(string(out))
	}
	return nil
}

func socketOf(n *lab.Node) string { return "unix://" + filepath.Join(n.Dir, "docker.sock") }

// boot switches a machine on and waits for its daemon.
func (s *swarm) boot(n *lab.Node) error {
	if err := n.Start(s.ctx); err != nil {
		return err
	}
	// Its packet filter is left alone: containers use the node's network.
	if _, err := n.Run("dockerd", "dockerd", "-H", socketOf(n), "--data-root", filepath.Join(n.Dir, "docker"), "--exec-root", "/run/docker",
		"--pidfile", "/run/docker.pid", "--insecure-registry", s.registry.NodeAddress(), "--bridge", "none", "--iptables=false"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	return lab.Poll(ctx, func(context.Context) error {
		_, err := s.docker(n, "version")
		return err
	})
}

func (s *swarm) docker(n *lab.Node, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	return n.Exec(ctx, append([]string{"docker", "-H", socketOf(n)}, args...)...)
}

// create makes a service and returns when all of its tasks run.
func (s *swarm) create(name string, replicas int) error {
	if _, err := s.docker(s.nodes[0], "service", "create", "--detach", "--name", name, "--replicas", fmt.Sprint(replicas), "--replicas-max-per-node", "1",
		"--network", "host", s.registry.NodeAddress()+"/podinfo:1.0", "./podinfo", "--port=9898", "--level=info"); err != nil {
		return err
	}
	return s.running(name, replicas, "")
}

// running waits until so many tasks of a service run on nodes but one.
func (s *swarm) running(name string, replicas int, without string) error {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	return lab.Poll(ctx, func(context.Context) error {
		tasks, err := s.tasks(name)
		n := 0
		for _, node := range tasks {
			if node != without {
				n++
			}
		}
		if err == nil && n < replicas {
			err = fmt.Errorf("%s: %d of %d tasks run", name, n, replicas)
		}
		return err
	})
}

// tasks returns the nodes on which tasks of a service run.
func (s *swarm) tasks(name string) ([]string, error) {
	out, err := s.docker(s.nodes[0], "service", "ps", name, "--filter", "desired-state=running", "--format", "{{.Node}} {{.CurrentState}}")
	if err != nil {
		return nil, err
	}
	var nodes []string
	for line := range strings.Lines(string(out)) {
		if node, state, _ := strings.Cut(strings.TrimSpace(line), " "); strings.HasPrefix(state, "Running") {
			nodes = append(nodes, node)
		}
	}
	return nodes, nil
}

// worker is a machine that is no manager and runs a task of the service.
func (s *swarm) worker(name string) (*lab.Node, error) {
	tasks, err := s.tasks(name)
	if err != nil {
		return nil, err
	}
	for _, n := range s.nodes[1:] {
		if slices.Contains(tasks, n.Name) {
			return n, nil
		}
	}
	return nil, fmt.Errorf("%s runs on the manager alone", name)
}
