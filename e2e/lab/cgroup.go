package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pleachdev/pleach/e2e/lab/internal/power"
)

// cgroupMounts lists the cgroup hierarchies of this machine.
func cgroupMounts() ([]power.Hierarchy, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var mounts []power.Hierarchy
	for line := range strings.Lines(string(table)) {
		place, kind, ok := strings.Cut(line, " - ")
		left, right := strings.Fields(place), strings.Fields(kind)
		if !ok || len(left) < 5 || len(right) < 3 || right[0] != "cgroup" && right[0] != "cgroup2" {
			continue
		}
		m := power.Hierarchy{Path: left[4], Type: right[0]}
		if m.Type == "cgroup" {
			// Only what names the hierarchy; flags such as rw and xattr would make another one.
			m.Options = strings.Join(slices.DeleteFunc(strings.Split(right[2], ","), func(option string) bool {
				return slices.Contains([]string{"rw", "ro", "xattr", "clone_children", "seclabel"}, option) || strings.HasPrefix(option, "release_agent=")
			}), ",")
		}
		if !slices.ContainsFunc(mounts, func(other power.Hierarchy) bool { return other.Type == m.Type && other.Options == m.Options }) {
			mounts = append(mounts, m)
		}
	}
	if len(mounts) == 0 {
		return nil, errors.New("no cgroup hierarchy is mounted")
	}
	return mounts, nil
}

// pure says whether the machine has cgroups of version 2 alone.
func pure(mounts []power.Hierarchy) bool { return len(mounts) == 1 && mounts[0].Type == "cgroup2" }

// makeCgroups makes the cgroups of a node, <lab>/<node> in each hierarchy, and returns them in the
// order of mounts. They lie below the cgroup of this process, so that what bounds the lab bounds its
// nodes; where version 2 stands alone they lie at the root, because a cgroup that holds processes
// cannot hand its controllers down.
func makeCgroups(mounts []power.Hierarchy, labName, node string) ([]string, error) {
	own, err := ownCgroups()
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, m := range mounts {
		parent := filepath.Join(m.Path, own[m.Options])
		if pure(mounts) {
			parent = m.Path
		}
		dir := parent
		for _, base := range []string{labName, node} {
			if err := handDown(m, dir, pure(mounts)); err != nil {
				return nil, err
			}
			dir = filepath.Join(dir, base)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return nil, err
			}
			if m.Options == "cpuset" || strings.HasPrefix(m.Options, "cpuset,") {
				if err := copyCpuset(filepath.Dir(dir), dir); err != nil {
					return nil, err
				}
			}
		}
		if m.Type == "cgroup2" {
			if err := os.Mkdir(filepath.Join(dir, power.Leaf), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return nil, err
			}
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

// handDown lets the children of a version 2 cgroup have all its controllers.
func handDown(m power.Hierarchy, dir string, must bool) error {
	if m.Type != "cgroup2" {
		return nil
	}
	available, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for controller := range strings.FieldsSeq(string(available)) {
		err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0o644)
		// Beside version 1 hierarchies nothing depends on the few controllers that are here.
		if err != nil && must {
			return fmt.Errorf("hand %s down: %w", controller, err)
		}
	}
	return nil
}

// copyCpuset gives a version 1 cpuset its parent's processors and memory: it is born with none, and
// takes no process then.
func copyCpuset(parent, child string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(parent, file))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(child, file), value, 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(child, "cgroup.clone_children"), []byte("1"), 0o644)
}

// ownCgroups maps the controllers of each hierarchy ("" for version 2) to this process' cgroup.
func ownCgroups() (map[string]string, error) {
	table, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	own := make(map[string]string)
	for line := range strings.Lines(string(table)) {
		if fields := strings.SplitN(strings.TrimSpace(line), ":", 3); len(fields) == 3 {
			own[fields[1]] = fields[2]
		}
	}
	return own, nil
}

// removeCgroup removes a cgroup and all below it. Processes that were killed leave their cgroup a
// moment after they are gone otherwise, so it tries for 10 s.
func removeCgroup(dir string) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		err := removeTree(dir)
		if err == nil || !errors.Is(err, syscall.EBUSY) || time.Now().After(deadline) {
			return err
		}
	}
}

func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENODEV) {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	// Files of a cgroup go with it: this is rmdir, never os.RemoveAll.
	if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, syscall.ENOENT) {
		return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}
