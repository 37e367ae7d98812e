package lab

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/google/nftables"
)

// Leftovers lists what is still on the machine of the lab of this name, one line each: processes,
// mounts, cgroups, named network namespaces, interfaces and nftables tables. The list is empty when
// nothing is; it does not look at files.
func Leftovers(name string) ([]string, error) {
	var left []string
	var errs []error
	for _, look := range []func(string) ([]string, error){leftProcesses, leftMounts, leftCgroups, leftNamespaces, leftLinks, leftTables} {
		found, err := look(name)
		left = append(left, found...)
		errs = append(errs, err)
	}
	return left, errors.Join(errs...)
}

// leftProcesses finds processes by their cgroups and by their command lines.
func leftProcesses(name string) ([]string, error) {
	var left []string
	pids, err := processIDs()
	for _, pid := range pids {
		if pid == os.Getpid() {
			continue
		}
		groups, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if bytes.Contains(groups, []byte("/"+name+"/")) || bytes.Contains(line, []byte("/"+name+"/")) {
			left = append(left, fmt.Sprintf("process %d: %s", pid, bytes.ReplaceAll(bytes.Trim(line, "\x00"), []byte{0}, []byte(" "))))
		}
	}
	return left, err
}

func leftMounts(name string) ([]string, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	var left []string
	for lines := bufio.NewScanner(bytes.NewReader(table)); lines.Scan(); {
		if strings.Contains(lines.Text(), name) {
			left = append(left, "mount "+lines.Text())
		}
	}
	return left, err
}

func leftCgroups(name string) ([]string, error) {
	dirs, err := cgroupDirs(func(base string) bool { return base == name })
	for i := range dirs {
		dirs[i] = "cgroup " + dirs[i]
	}
	return dirs, err
}

func leftNamespaces(name string) ([]string, error) {
	paths, err := filepath.Glob("/run/netns/" + name + "*")
	for i := range paths {
		paths[i] = "network namespace " + paths[i]
	}
	return paths, err
}

func leftLinks(name string) ([]string, error) {
	links, err := net.Interfaces()
	var left []string
	for _, link := range links {
		if strings.HasPrefix(link.Name, name) {
			left = append(left, "interface "+link.Name)
		}
	}
	return left, err
}

func leftTables(name string) ([]string, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	tables, err := conn.ListTables()
	var left []string
	for _, table := range tables {
		if strings.HasPrefix(table.Name, name) {
			left = append(left, "nftables table "+table.Name)
		}
	}
	return left, err
}

// Sweep removes what labs left in cgroups and in the directory for temporary files whose process
// is gone: it was killed before it could close them.
func Sweep() error {
	if os.Geteuid() == 0 {
		groups, err := cgroupDirs(orphaned)
		if err != nil {
			return err
		}
		for _, dir := range groups {
			if err := removeCgroup(dir); err != nil {
				return err
			}
		}
	}
	return sweepDir(os.TempDir())
}

func sweepDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() && orphaned(entry.Name()) {
			if os.Geteuid() == 0 {
				if err := unmountBelow(filepath.Join(dir, entry.Name())); err != nil {
					return err
				}
			}
			// Another user's directory is for that user to sweep.
			if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil && !errors.Is(err, fs.ErrPermission) {
				return err
			}
		}
	}
	return nil
}

// orphaned says whether this is the name of a lab whose process is gone.
func orphaned(base string) bool {
	pid, ok := owner(base)
	return ok && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// cgroupDirs finds the topmost cgroups that match, in every hierarchy, sorted.
func cgroupDirs(match func(base string) bool) ([]string, error) {
	mounts, err := cgroupMounts()
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, m := range mounts {
		err := filepath.WalkDir(m.Path, func(path string, entry fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV):
				return nil // removed while we looked
			case err != nil:
				return err
			case entry.IsDir() && match(entry.Name()):
				dirs = append(dirs, path)
				return fs.SkipDir
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs), nil
}

// processIDs lists the processes of the machine, in ascending order.
func processIDs() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	var pids []int
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids, err
}
