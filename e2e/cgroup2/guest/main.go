//go:build linux

// Command guest is the first program of the virtual machine of package cgroup2. As the kernel's
// /init it finds the disk, as the disk's process 1 it makes a machine with one cgroup v2 hierarchy
// and nothing of v1, and then it runs the commands that the test sends it over HTTP.
package main

import (
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("guest: ")
	var err error
	switch {
	case len(os.Args) > 1 && os.Args[1] == "serve":
		err = serve()
	case len(os.Args) > 1 && os.Args[1] == "system":
		err = system()
	default:
		err = enterDisk()
	}
	log.Print(err) // the kernel panics when process 1 ends, and the machine stops
	os.Exit(1)
}

// enterDisk makes the disk the root, as every initramfs does. The modules that it takes lie beside,
// named in the order in which they are to be loaded.
func enterDisk() error {
	modules, err := filepath.Glob("/modules/*.ko")
	if err != nil {
		return err
	}
	for _, name := range modules {
		if err := loadModule(name); err != nil {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	if err := mount("devtmpfs", "/dev", "devtmpfs"); err != nil {
		return err
	}
	for range 100 {
		if err = mount("/dev/vda", "/disk", "ext4"); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	if err := os.Chdir("/disk"); err != nil {
		return err
	}
	// A chroot alone would do for everything but pivot_root, which runc needs.
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the disk to /: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Exec("/sbin/guest", []string{"guest", "system"}, os.Environ())
}

func loadModule(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

// system is process 1 of the disk. It does what no other process may: it reaps the orphans, among
// them the shims, while a child of it serves.
func system() error {
	for _, m := range []struct{ source, target, kind string }{
		{"proc", "/proc", "proc"},
		{"sysfs", "/sys", "sysfs"},
		{"devtmpfs", "/dev", "devtmpfs"},
		{"devpts", "/dev/pts", "devpts"},
		{"tmpfs", "/dev/shm", "tmpfs"},
		{"mqueue", "/dev/mqueue", "mqueue"},
		{"tmpfs", "/run", "tmpfs"},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2"},
	} {
		if err := mount(m.source, m.target, m.kind); err != nil {
			return err
		}
	}
	if err := unix.Sethostname([]byte("machine")); err != nil {
		return err
	}
	// The rest of what a machine has the kernel loads itself, when it is asked for, by modprobe.
	if out, err := exec.Command("/sbin/modprobe", "-a", "virtio_pci", "virtio_net").CombinedOutput(); err != nil { //nolint:noctx // the machine's whole life
		return fmt.Errorf("modprobe: %w: %s", err, out)
	}
	child, err := os.StartProcess("/sbin/guest", []string{"guest", "serve"}, &os.ProcAttr{
		Env: []string{"PATH=/bin:/sbin", "HOME=/root"}, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		return err
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return err
		}
		if pid == child.Pid {
			return fmt.Errorf("the server has ended with status %#x", int(status))
		}
	}
}

func mount(source, target, kind string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, kind, 0, ""); err != nil {
		return fmt.Errorf("mount %s at %s: %w", source, target, err)
	}
	return nil
}
