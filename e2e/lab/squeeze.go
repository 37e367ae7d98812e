package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Freeze stops all processes of the node where they are, or lets them go on. Nothing ends, nobody is
// answered, and the clock goes on: as a virtual machine that is paused. A node that is frozen can be
// switched off.
func (n *Node) Freeze(frozen bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.first == nil {
		return fmt.Errorf("freeze node %s: it is off", n.Name)
	}
	return n.freezeLocked(frozen)
}

func (n *Node) freezeLocked(frozen bool) error {
	// Version 1 has the freezer as a hierarchy of its own, version 2 in every group.
	file, values := "freezer.state", [2]string{"THAWED", "FROZEN"}
	dir, err := n.groupWith(file)
	if err != nil {
		file, values = "cgroup.freeze", [2]string{"0", "1"}
		if dir, err = n.groupWith(file); err != nil {
			return err
		}
	}
	want := values[0]
	if frozen {
		want = values[1]
	}
	path := filepath.Join(dir, file)
	if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
		return err
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		state, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(state)) == want {
			n.frozen = frozen
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("freeze node %s: %s is %q after 10 s, want %s", n.Name, file, state, want)
		}
	}
}

// Starve gives the node no more than this share of one processor, in percent; 0 ends that.
func (n *Node) Starve(percent int) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.first == nil {
		return fmt.Errorf("starve node %s: it is off", n.Name)
	}
	const period = 100_000 // microseconds
	if dir, err := n.groupWith("cpu.cfs_quota_us"); err == nil {
		quota := -1
		if percent > 0 {
			quota = period * percent / 100
		}
		return os.WriteFile(filepath.Join(dir, "cpu.cfs_quota_us"), []byte(strconv.Itoa(quota)), 0o644)
	}
	dir, err := n.groupWith("cpu.max")
	if err != nil {
		return err
	}
	quota := "max"
	if percent > 0 {
		quota = strconv.Itoa(period * percent / 100)
	}
	return os.WriteFile(filepath.Join(dir, "cpu.max"), fmt.Appendf(nil, "%s %d", quota, period), 0o644)
}

// groupWith finds the node's cgroup that has this file.
func (n *Node) groupWith(file string) (string, error) {
	for _, dir := range n.cgroups {
		if _, err := os.Stat(filepath.Join(dir, file)); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("node %s: no cgroup of it has %s: %w", n.Name, file, errors.ErrUnsupported)
}
