// Command nodeinit is the first process of a lab's node, and the door into one.
//
// "nodeinit up" is started by the lab in new namespaces. It makes them look like a machine: its own
// cgroups, /proc, /sys, /run, and its own copies of /etc and /var. Then it reaps orphans until it is
// killed, which is the node's power-off, or until the lab is gone.
//
// "nodeinit enter PID CGROUPS COMMAND…" runs a command inside the node whose first process is PID, in
// the given cgroups, separated by colons, and ends as the command did. "nodeinit run" does the same and
// tells the command's process id, as seen from outside, on file descriptor 3.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pleachdev/pleach/e2e/lab/internal/power"
)

func main() {
	// Namespaces belong to threads: all that follows happens on this one.
	runtime.LockOSThread()
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == "up":
		err = up()
	case len(os.Args) == 2 && os.Args[1] == "reap":
		reap()
	case len(os.Args) >= 5 && os.Args[1] == "enter":
		err = enter(os.Args[2], strings.Split(os.Args[3], ":"), os.Args[4:], nil)
	case len(os.Args) >= 5 && os.Args[1] == "run":
		tell := os.NewFile(3, "pid")
		unix.CloseOnExec(3)
		err = enter(os.Args[2], strings.Split(os.Args[3], ":"), os.Args[4:], tell)
	default:
		err = errors.New("usage: nodeinit up | nodeinit enter|run PID CGROUPS COMMAND…")
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "nodeinit: %v\n", err)
		os.Exit(125)
	}
}

// up makes the node and becomes its first process for good.
func up() error {
	lab, answer := os.NewFile(3, "lab"), os.NewFile(4, "answer")
	err := build(lab)
	if err == nil {
		_, err = io.WriteString(answer, power.Ready)
	} else {
		_, _ = io.WriteString(answer, err.Error())
	}
	_ = answer.Close()
	if err != nil {
		return err
	}
	// The namespaces of a process are those of its first thread. exec makes this thread the first.
	err = syscall.Exec("/proc/self/exe", []string{"nodeinit", "reap"}, os.Environ())
	runtime.KeepAlive(lab) // collected earlier it would be closed, and the node would switch itself off
	return err
}

func build(lab io.Reader) error {
	var config power.Config
	if err := json.NewDecoder(lab).Decode(&config); err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	for _, dir := range config.Join {
		if err := join(dir); err != nil {
			return err
		}
	}
	// After joining, so that the node's own cgroup is the root that it sees.
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("make a cgroup namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts private: %w", err)
	}
	if err := private(config.Dir); err != nil {
		return err
	}
	if err := kernel(config); err != nil {
		return err
	}
	// As systemd does; containers that ask for mount propagation need it.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	return identity(config.Hostname)
}

// join moves this process into a cgroup.
func join(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0o644); err != nil {
		return fmt.Errorf("join a cgroup: %w", err)
	}
	return nil
}

// settle leaves the roots of version 2 hierarchies for their leaves, and hands all controllers down.
func settle(root string) error {
	if err := join(filepath.Join(root, power.Leaf)); err != nil {
		return err
	}
	controllers, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for controller := range strings.FieldsSeq(string(controllers)) {
		if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+"+controller), 0o644); err != nil {
			return fmt.Errorf("hand %s down: %w", controller, err)
		}
	}
	return nil
}

// private gives the node its own /etc and /var over the machine's, a disk for /var/lib/pleach, and
// an empty /run.
func private(dir string) error {
	for _, name := range []string{"etc", "var"} {
		upper, work := filepath.Join(dir, name), filepath.Join(dir, "."+name+".work")
		for _, d := range []string{upper, work} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				return err
			}
		}
		options := fmt.Sprintf("lowerdir=/%s,upperdir=%s,workdir=%s", name, upper, work)
		if err := unix.Mount("overlay", "/"+name, "overlay", 0, options); err != nil {
			return fmt.Errorf("mount the node's /%s: %w", name, err)
		}
	}
	// Not in the overlay: containerd's own overlays cannot stand on one.
	disk := filepath.Join(dir, "pleach")
	const target = "/var/lib/pleach"
	for _, d := range []string{disk, target} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount(disk, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	return nil
}

// kernel mounts the file systems that show the node's own namespaces.
func kernel(config power.Config) error {
	mounts := []struct {
		source, target, fs string
		flags              uintptr
		options            string
	}{
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	}
	for _, m := range mounts {
		if err := unix.Mount(m.source, m.target, m.fs, m.flags, m.options); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	const root = "/sys/fs/cgroup"
	if len(config.Cgroups) > 1 || config.Cgroups[0].Path != root {
		if err := unix.Mount("tmpfs", root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755"); err != nil {
			return fmt.Errorf("mount %s: %w", root, err)
		}
	}
	for _, h := range config.Cgroups {
		if err := os.MkdirAll(h.Path, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(h.Type, h.Path, h.Type, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, h.Options); err != nil {
			return fmt.Errorf("mount %s: %w", h.Path, err)
		}
		if h.Type == "cgroup2" {
			if err := settle(h.Path); err != nil {
				return err
			}
		}
	}
	// Not every kernel has it, and only programs that pin eBPF objects miss it.
	if err := unix.Mount("bpf", "/sys/fs/bpf", "bpf", 0, ""); err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("mount /sys/fs/bpf: %w", err)
	}
	return nil
}

// identity names the machine.
func identity(hostname string) error {
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	files := map[string]string{
		"/etc/hostname":    hostname + "\n",
		"/etc/hosts":       "127.0.0.1 localhost\n127.0.1.1 " + hostname + "\n",
		"/etc/resolv.conf": "",
	}
	for path, content := range files {
		// The machine's may be a link, or mounted from elsewhere and so not in the overlay.
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// reap waits for orphans, as the first process must, and for the end of the lab.
func reap() {
	go func() {
		_, _ = io.Copy(io.Discard, os.NewFile(3, "lab"))
		os.Exit(0) // and with the first process, the kernel ends all others
	}()
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	for range ended {
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if pid <= 0 || err != nil && !errors.Is(err, syscall.EINTR) {
				break
			}
		}
	}
}

// enter runs a command inside a node, and writes its process id to tell, if there is one.
func enter(pid string, cgroups, command []string, tell io.WriteCloser) error {
	for _, dir := range cgroups {
		if err := join(dir); err != nil {
			return err
		}
	}
	// Sharing the working directory with the other threads forbids entering a mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("leave the other threads: %w", err)
	}
	namespaces := []string{"cgroup", "ipc", "uts", "net", "pid", "mnt"}
	var doors []*os.File
	for _, name := range namespaces {
		door, err := os.Open(filepath.Join("/proc", pid, "ns", name))
		if err != nil {
			return fmt.Errorf("the node is off: %w", err)
		}
		doors = append(doors, door)
	}
	for i, door := range doors {
		if err := unix.Setns(int(door.Fd()), 0); err != nil {
			return fmt.Errorf("enter the node's %s namespace: %w", namespaces[i], err)
		}
		_ = door.Close()
	}
	cmd := exec.CommandContext(context.Background(), command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	if err := cmd.Start(); err != nil {
		return err
	}
	if tell != nil {
		_, _ = fmt.Fprintln(tell, cmd.Process.Pid)
		_ = tell.Close()
	}
	go func() {
		for sig := range signals {
			_ = cmd.Process.Signal(sig)
		}
	}()
	err := cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		status := exit.Sys().(syscall.WaitStatus)
		if status.Signaled() {
			os.Exit(128 + int(status.Signal()))
		}
		os.Exit(status.ExitStatus())
	}
	return err
}
