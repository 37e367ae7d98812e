package lab

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Usage is what one process takes.
type Usage struct {
	PID    int
	Parent int
	Args   []string // its command line; nil for a process that just ended

	PSS     int64         // bytes; pages shared by n processes count for 1/n in each
	Private int64         // bytes
	RSS     int64         // bytes
	CPU     time.Duration // user and system time since its start; children that ended are not in it
}

// Name is the last element of the first argument.
func (u Usage) Name() string {
	if len(u.Args) == 0 {
		return ""
	}
	return filepath.Base(u.Args[0])
}

// clockTick is the unit of CPU times in /proc, 1/100 s on every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// UsageOf reads what a process takes. Memory needs root for a process of somebody else.
func UsageOf(pid int) (Usage, error) {
	u := Usage{PID: pid}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	// The second field is the name in parentheses and may contain anything. After it, state is
	// field 0, the parent 1, user time 11 and system time 12.
	end := bytes.LastIndexByte(stat, ')')
	fields := strings.Fields(string(stat[end+1:]))
	if end < 0 || len(fields) < 13 {
		return u, fmt.Errorf("/proc/%d/stat: %q is not understood", pid, stat)
	}
	u.Parent, _ = strconv.Atoi(fields[1])
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	u.CPU = time.Duration(user+system) * clockTick

	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return u, err
	}
	if len(line) > 0 {
		u.Args = strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
	}
	memory, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(memory)) {
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[2] != "kB" {
			continue
		}
		kb, _ := strconv.ParseInt(fields[1], 10, 64)
		switch fields[0] {
		case "Rss:":
			u.RSS = kb * 1024
		case "Pss:":
			u.PSS = kb * 1024
		case "Private_Clean:", "Private_Dirty:":
			u.Private += kb * 1024
		}
	}
	return u, nil
}

// UsageOfTree reads a process and all its descendants, sorted by process id. Processes that end
// meanwhile are left out; an error means that the root is gone.
func UsageOfTree(root int) ([]Usage, error) {
	pids, err := processIDs()
	if err != nil {
		return nil, err
	}
	all := make(map[int]Usage, len(pids))
	for _, pid := range pids {
		if u, err := UsageOf(pid); err == nil {
			all[pid] = u
		}
	}
	if _, ok := all[root]; !ok {
		return nil, fmt.Errorf("process %d: %w", root, os.ErrProcessDone)
	}
	var tree []Usage
	for _, pid := range pids {
		for up, ok := all[pid]; ok; up, ok = all[up.Parent] {
			if up.PID == root {
				tree = append(tree, all[pid])
				break
			}
		}
	}
	return tree, nil
}

// CPU is what all processes of the node have used of the processors since it was switched on, also those
// that have ended.
func (n *Node) CPU() (time.Duration, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, dir := range n.cgroups {
		// Version 1 has nanoseconds in a file of their own, version 2 microseconds among others.
		if text, err := os.ReadFile(filepath.Join(dir, "cpuacct.usage")); err == nil {
			used, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
			return time.Duration(used), err
		}
		text, err := os.ReadFile(filepath.Join(dir, "cpu.stat"))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(line, "usage_usec "); ok {
				used, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
				return time.Duration(used) * time.Microsecond, err
			}
		}
	}
	return 0, fmt.Errorf("node %s: no cgroup counts processor time", n.Name)
}
