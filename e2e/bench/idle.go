package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/pleachdev/pleach/agent/containerd"
	"github.com/pleachdev/pleach/e2e/lab"
)

const idlePods = 10

// idle measures what a node with pods costs when nothing happens.
func (f *flock) idle() error {
	d := deployment{"idle", idlePods, "1"}
	if err := f.deploy(d); err != nil {
		return err
	}
	// After a start there is more to clear away than in daily life, and a benchmark has pushed more
	// than people do: this is a node that was restarted some time ago.
	if err := f.restartAgent(); err != nil {
		return err
	}
	if err := f.pause(time.Duration(f.count(60, 5)) * time.Second); err != nil {
		return err
	}
	before, err := f.usage()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := f.pause(time.Duration(f.count(60, 5)) * time.Second); err != nil {
		return err
	}
	after, err := f.usage()
	if err != nil {
		return err
	}
	elapsed := time.Since(began)
	share := func(part string) float64 { return float64(after[part].cpu-before[part].cpu) / float64(elapsed) * 100 }

	agent := after["agent"]
	f.table.judge("idle", "agent with 10 pods, PSS", fmt.Sprintf("%s (private %s)", megabytes(agent.pss), megabytes(agent.private)), "≤ 60 MB", agent.pss <= 60e6)
	f.table.judge("idle", "agent, CPU of one core over a minute", fmt.Sprintf("%.2f %%", share("agent")), "≤ 1 %", share("agent") <= 1)
	for _, part := range []string{"containerd", "shims"} {
		u := after[part]
		f.table.add("idle", fmt.Sprintf("%s, PSS and CPU", part), fmt.Sprintf("%s (private %s), %.2f %%", megabytes(u.pss), megabytes(u.private), share(part)))
	}
	return f.remove(d)
}

// part is what a part of the node takes.
type part struct {
	pss, private int64
	cpu          time.Duration
}

// usage sums up the node's processes by part.
func (f *flock) usage() (map[string]part, error) {
	processes, err := f.node.Processes()
	if err != nil {
		return nil, err
	}
	agent := f.node.Agent().PID()
	parts := map[string]part{}
	for _, u := range processes {
		name := partOf(u, agent)
		p := parts[name]
		p.pss, p.private, p.cpu = p.pss+u.PSS, p.private+u.Private, p.cpu+u.CPU
		parts[name] = p
	}
	return parts, nil
}

func partOf(u lab.Usage, agent int) string {
	switch {
	case u.PID == agent:
		return "agent"
	case u.Name() == containerd.ProcessName:
		return "containerd"
	case strings.HasPrefix(u.Name(), "containerd-shim"):
		return "shims"
	}
	return "pods"
}
