package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The demo of one node runs it on this machine itself, beside a real one if there is one: nothing they
// have is shared.
const (
	cgroupRoot = "/pleach-demo"
	bridge     = "pleachdemo0"
)

func (d *demo) hostDir() string { return filepath.Join(d.dir, "node") }
func (d *demo) logs() string    { return filepath.Join(d.dir, "pod-logs") }
func (d *demo) pidFile() string { return filepath.Join(d.dir, "agent.pid") }

// startHost starts the agent of the one node in the background.
func (d *demo) startHost(s services, introduction string) error {
	if err := d.stopHost(); err != nil {
		return err
	}
	listen := strings.TrimSuffix(strings.TrimPrefix(s.Hint, "http://"), "/hint")
	pid, err := d.detach("agent", d.pleach, "agent", "--dir", d.hostDir(), "--node", s.Nodes[0].Name,
		"--remote", s.Remote, "--branch", "main", "--introduction", introduction, "--listen", listen,
		"--pod-log-dir", d.logs(), "--cgroup-root", cgroupRoot, "--bridge", bridge)
	if err != nil {
		return err
	}
	return os.WriteFile(d.pidFile(), []byte(strconv.Itoa(pid)), 0o644)
}

// stopHost ends that agent, if it runs; the pods go on.
func (d *demo) stopHost() error {
	pid, err := d.hostAgent()
	if err != nil || pid == 0 {
		return err
	}
	if err := d.end(pid); err != nil {
		return err
	}
	return os.Remove(d.pidFile())
}

// hostAgent is the process id of that agent; 0 when none was started.
func (d *demo) hostAgent() (int, error) {
	data, err := os.ReadFile(d.pidFile())
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}

// resetHost takes the one node off this machine.
func (d *demo) resetHost(ctx context.Context) error {
	if err := d.stopHost(); err != nil {
		return err
	}
	if _, err := os.Stat(d.hostDir()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	_, err := run(ctx, "", d.pleach, "reset", "--yes", "--dir", d.hostDir(),
		"--pod-log-dir", d.logs(), "--cgroup-root", cgroupRoot, "--bridge", bridge)
	return err
}
