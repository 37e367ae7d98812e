// Package cgroups makes and removes the control groups of pods, on cgroup v1 (also hybrid) and v2.
//
// The runtime puts a pod's containers below a path that the agent names; it makes missing parents
// but never removes them, and knows no limits of a whole pod. Both are done here. A path is the
// same under every hierarchy: "<root>/pod<uid>" for Guaranteed pods, "<root>/burstable/pod<uid>"
// and "<root>/besteffort/pod<uid>" for the others, as the kubelet lays them out.
package cgroups

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Limits bound a whole pod. A zero field sets no limit.
type Limits struct {
	CPUShares int64 // relative weight on the v1 scale, 2 to 262144
	CPUQuota  int64 // microseconds per CPUPeriod
	CPUPeriod int64 // microseconds; 100000 when 0
	Memory    int64 // bytes
	PIDs      int64
}

// Hierarchy is one mounted tree of control groups.
type Hierarchy struct {
	Mount       string   // where it is mounted
	Controllers []string // v1 controllers; empty for the v2 tree
	V2          bool
}

// Groups makes the control groups below one root.
type Groups struct {
	root        string
	hierarchies []Hierarchy
}

// New returns the groups below root, an absolute path inside every hierarchy such as "/pleach".
// It reads the mount table of this process and makes nothing.
func New(root string) (*Groups, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cgroups: %w", err)
	}
	hierarchies, err := parseMounts(table)
	if err != nil {
		return nil, err
	}
	return On(root, hierarchies), nil
}

// On is New for hierarchies that the caller names.
func On(root string, hierarchies []Hierarchy) *Groups {
	return &Groups{root: filepath.Clean("/" + root), hierarchies: hierarchies}
}

// parseMounts finds the cgroup mounts in a /proc/self/mountinfo table. The first mount of a
// hierarchy counts; later ones show the same tree again.
func parseMounts(table []byte) ([]Hierarchy, error) {
	var found []Hierarchy
	seen := map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(table))
	for lines.Scan() {
		// 36 35 98:0 /root /mount/point rw,opts shared:1 - fstype source superopts
		left, right, ok := strings.Cut(lines.Text(), " - ")
		if !ok {
			continue
		}
		fields, super := strings.Fields(left), strings.Fields(right)
		if len(fields) < 5 || len(super) < 3 || seen[super[0]+super[2]] {
			continue
		}
		h := Hierarchy{Mount: unescape(fields[4])}
		switch super[0] {
		case "cgroup2":
			h.V2 = true
		case "cgroup":
			for option := range strings.SplitSeq(super[2], ",") {
				if option != "rw" && option != "ro" && option != "xattr" && option != "clone_children" {
					h.Controllers = append(h.Controllers, strings.TrimPrefix(option, "name="))
				}
			}
		default:
			continue
		}
		seen[super[0]+super[2]] = true
		found = append(found, h)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("cgroups: read the mount table: %w", err)
	}
	if len(found) == 0 {
		return nil, errors.New("cgroups: no cgroup file system is mounted; mount one at /sys/fs/cgroup")
	}
	return found, nil
}

// unescape undoes the octal escapes of the mount table.
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}

// Unified tells whether the memory controller is that of the v2 tree.
func (g *Groups) Unified() bool {
	return !slices.ContainsFunc(g.hierarchies, func(h Hierarchy) bool { return slices.Contains(h.Controllers, "memory") })
}

// Path is the control group of a pod, as CRI's cgroup_parent takes it.
func (g *Groups) Path(uid types.UID, class corev1.PodQOSClass) string {
	name := "pod" + string(uid)
	if class == corev1.PodQOSGuaranteed {
		return filepath.Join(g.root, name)
	}
	return filepath.Join(g.root, strings.ToLower(string(class)), name)
}

// Weigh sets how much CPU time the pods of a class have together, relative to each Guaranteed pod:
// shares on the v1 scale. A class would weigh 1024 otherwise, more than most pods.
func (g *Groups) Weigh(class corev1.PodQOSClass, shares int64) error {
	return g.Ensure(filepath.Dir(g.Path("any", class)), Limits{CPUShares: shares})
}

// SwapLimits reports whether a container's swap can be limited by memory.swap.max. The groups of the
// pods must exist.
func (g *Groups) SwapLimits() bool {
	return slices.ContainsFunc(g.hierarchies, func(h Hierarchy) bool {
		_, err := os.Stat(filepath.Join(h.Mount, g.root, "memory.swap.max"))
		return h.V2 && err == nil
	})
}

// Ensure makes a pod's control group with its limits, also where it exists already.
func (g *Groups) Ensure(path string, limits Limits) error {
	if err := g.inside(path); err != nil {
		return err
	}
	for _, h := range g.hierarchies {
		var err error
		if h.V2 {
			err = ensureV2(h, path, limits)
		} else {
			err = ensureV1(h, path, limits)
		}
		if err != nil {
			return fmt.Errorf("cgroups: make %s below %s: %w", path, h.Mount, err)
		}
	}
	return nil
}

func ensureV1(h Hierarchy, path string, limits Limits) error {
	dir := filepath.Join(h.Mount, path)
	if slices.Contains(h.Controllers, "cpuset") {
		if err := inheritCPUSet(h.Mount, path); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, controller := range h.Controllers {
		if err := write(dir, settingsV1(controller, limits)); err != nil {
			return err
		}
	}
	return nil
}

// inheritCPUSet copies cpus and mems down: a v1 cpuset starts empty, and no task may enter it then.
func inheritCPUSet(mount, path string) error {
	dir := mount
	for step := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		parent := dir
		dir = filepath.Join(dir, step)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			have, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				return err
			}
			if len(bytes.TrimSpace(have)) > 0 {
				continue
			}
			value, err := os.ReadFile(filepath.Join(parent, file))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, file), value, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

type setting struct{ file, value string }

func settingsV1(controller string, l Limits) []setting {
	switch controller {
	case "cpu":
		var s []setting
		if l.CPUShares > 0 {
			s = append(s, setting{"cpu.shares", strconv.FormatInt(l.CPUShares, 10)})
		}
		if l.CPUQuota > 0 {
			s = append(s,
				setting{"cpu.cfs_period_us", strconv.FormatInt(l.period(), 10)},
				setting{"cpu.cfs_quota_us", strconv.FormatInt(l.CPUQuota, 10)})
		}
		return s
	case "memory":
		if l.Memory > 0 {
			return []setting{{"memory.limit_in_bytes", strconv.FormatInt(l.Memory, 10)}}
		}
	case "pids":
		if l.PIDs > 0 {
			return []setting{{"pids.max", strconv.FormatInt(l.PIDs, 10)}}
		}
	}
	return nil
}

// ErrOccupied says that a group above the pods' holds processes. But for its root, a v2 tree has
// processes in leaves only.
var ErrOccupied = errors.New("processes run in a control group above the pods: start the agent in a group beside the pods', or put the pods elsewhere with --cgroup-root")

// handedDown is what a pod's group is to have of the available controllers, in the order in which
// they are enabled. Those that cannot count threads come first: where processes are in the way, memory
// is refused and nothing has changed, while cpu is taken and makes the group a root of threads, below
// which no process can be put.
func handedDown(available string) []string {
	have := strings.Fields(available)
	return slices.DeleteFunc([]string{"memory", "io", "hugetlb", "cpu", "pids", "cpuset"}, func(c string) bool {
		return !slices.Contains(have, c)
	})
}

func ensureV2(h Hierarchy, path string, limits Limits) error {
	available, err := os.ReadFile(filepath.Join(h.Mount, "cgroup.controllers"))
	if err != nil {
		return err
	}
	enabled := handedDown(string(available))
	dir := h.Mount
	for step := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		for _, c := range enabled {
			// One at a time: a controller that the parent cannot hand down must not hide the others.
			err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0o644)
			switch {
			case err == nil || c == "hugetlb" || c == "io" || c == "cpuset":
			case errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EOPNOTSUPP):
				return fmt.Errorf("%w (%s)", ErrOccupied, dir)
			default:
				return err
			}
		}
		dir = filepath.Join(dir, step)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	var s []setting
	if limits.CPUShares > 0 && slices.Contains(enabled, "cpu") {
		s = append(s, setting{"cpu.weight", strconv.FormatInt(weight(limits.CPUShares), 10)})
	}
	if limits.CPUQuota > 0 && slices.Contains(enabled, "cpu") {
		s = append(s, setting{"cpu.max", fmt.Sprintf("%d %d", limits.CPUQuota, limits.period())})
	}
	if limits.Memory > 0 && slices.Contains(enabled, "memory") {
		s = append(s, setting{"memory.max", strconv.FormatInt(limits.Memory, 10)})
	}
	if limits.PIDs > 0 && slices.Contains(enabled, "pids") {
		s = append(s, setting{"pids.max", strconv.FormatInt(limits.PIDs, 10)})
	}
	return write(dir, s)
}

func (l Limits) period() int64 {
	if l.CPUPeriod == 0 {
		return 100_000
	}
	return l.CPUPeriod
}

// weight turns v1 shares (2 to 262144) into a v2 weight (1 to 10000) by the formula of
// Kubernetes KEP-2254.
func weight(shares int64) int64 {
	shares = min(max(shares, 2), 262144)
	return 1 + (shares-2)*9999/262142
}

func write(dir string, settings []setting) error {
	for _, s := range settings {
		if err := os.WriteFile(filepath.Join(dir, s.file), []byte(s.value), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Remove removes a pod's control group with everything below it, once the runtime has removed all of the pod. The
// kernel lets go of an emptied group a little later, so Remove tries for up to 2 seconds.
func (g *Groups) Remove(path string) error {
	if err := g.inside(path); err != nil {
		return err
	}
	g.kill(path)
	return g.remove(path)
}

// kill ends what still runs in a group: the runtime has no container there any more, but when it was killed in the
// midst of making one, a process is left that nobody else knows.
func (g *Groups) kill(path string) {
	for _, h := range g.hierarchies {
		var members []byte // of the group and of all below it
		_ = filepath.WalkDir(filepath.Join(h.Mount, path), func(file string, _ fs.DirEntry, _ error) error {
			if filepath.Base(file) == "cgroup.procs" {
				list, _ := os.ReadFile(file) // empty when the group has just gone
				members = append(members, list...)
			}
			return nil
		})
		for line := range strings.FieldsSeq(string(members)) {
			if pid, err := strconv.Atoi(line); err == nil && pid > 1 { // 0 is one of another namespace
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
}

// RemoveRoot removes the root and everything below it, when the node is taken off the machine.
func (g *Groups) RemoveRoot() error { return g.remove(g.root) }

func (g *Groups) remove(path string) error {
	var errs []error
	for _, h := range g.hierarchies {
		dir := filepath.Join(h.Mount, path)
		err := removeTree(dir)
		for wait := 10 * time.Millisecond; err != nil && wait < time.Second; wait *= 2 {
			time.Sleep(wait)
			err = removeTree(dir)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("cgroups: remove %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}

// removeTree removes directories only: the files of a control group go with it.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// inside guards against a path that would name the root, or a group that is not ours.
func (g *Groups) inside(path string) error {
	if clean := filepath.Clean(path); clean != path || !strings.HasPrefix(path, g.root+"/") || g.root == "/" {
		return fmt.Errorf("cgroups: %q is not below %q", path, g.root)
	}
	return nil
}
