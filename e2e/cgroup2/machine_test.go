package cgroup2_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pleachdev/pleach/e2e/lab"
	"github.com/pleachdev/pleach/e2e/needs"
)

// An emulated processor is 10 to 30 times slower than the one under it, and that one may be busy.
const (
	bootTime = 10 * time.Minute
	patience = 10 * time.Minute
)

// hostAddr is this machine's 127.0.0.1 as QEMU's user network shows it to its guest.
const hostAddr = "10.0.2.2"

// memory is the machine's, in MiB.
const memory = 1536

// command and result are what e2e/cgroup2/guest takes and gives.
type command struct {
	Args   []string
	Cgroup string
	Log    string
}

type result struct {
	PID, Code      int
	Output, Errors string
}

// machine is the virtual machine.
type machine struct {
	t     *testing.T
	guest string // base URL of the guest's server
}

// in is the machine for a subtest, which then fails by itself.
func (m *machine) in(t *testing.T) *machine {
	sub := *m
	sub.t = t
	return &sub
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// needMachine asks for what a virtual machine is made of.
func needMachine(t *testing.T) {
	for _, program := range []string{"qemu-system-x86_64", "mke2fs", "apt-get", "dpkg-deb"} {
		needs.Command(t, program)
	}
	if arch, err := exec.CommandContext(t.Context(), "dpkg", "--print-architecture").Output(); err != nil || strings.TrimSpace(string(arch)) != "amd64" {
		needs.Lacking(t, "Debian on amd64")
	}
}

// boot starts a machine with these files on its disk and returns when it takes commands. The
// console goes to console.log of the lab.
func boot(t *testing.T, l *lab.Lab, root string) *machine {
	t.Helper()
	ctx := t.Context()
	kernel, initramfs := installSystem(t, l.Dir, root)
	disk := filepath.Join(l.Dir, "disk.img")
	output(t, "", "mke2fs", "-q", "-t", "ext4", "-E", "root_owner=0:0,lazy_itable_init=1", "-O", "^has_journal", "-d", root, disk, "2G")

	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	must(t, err)
	address := listener.Addr().String() // QEMU takes no listener; nobody else gets the port so soon
	must(t, listener.Close())

	console, err := os.Create(filepath.Join(l.Dir, "console.log"))
	must(t, err)
	l.Defer("close the console's log", console.Close)
	// At a low priority: the emulation would take a core from tests that measure.
	qemu := exec.Command("nice", "-n", "15", "qemu-system-x86_64", // the lab ends it
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-M", "pc,accel=tcg", "-smp", "1", "-m", fmt.Sprint(memory),
		"-kernel", kernel, "-initrd", initramfs, "-append", "console=ttyS0 loglevel=4 panic=-1 cgroup_no_v1=all",
		"-drive", "file="+disk+",format=raw,if=virtio,cache=unsafe",
		"-netdev", "user,id=n,restrict=off,hostfwd=tcp:"+address+"-10.0.2.15:80", "-device", "virtio-net-pci,netdev=n,romfile=")
	qemu.Stdout, qemu.Stderr = console, console
	qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, qemu.Start())
	ended := make(chan struct{})
	go func() {
		_ = qemu.Wait() // the console says why
		close(ended)
	}()
	l.Defer("end the virtual machine", func() error {
		if err := qemu.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		<-ended
		return nil
	})

	m := &machine{t: t, guest: "http://" + address}
	lab.Wait(t, bootTime, "the machine boots", func(ctx context.Context) error {
		select {
		case <-ended:
			t.Fatal("the virtual machine has ended")
		default:
		}
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		_, err := m.try(ctx, command{Args: []string{"/bin/true"}})
		return err
	})
	return m
}

// installSystem puts kernel modules, the guest program and busybox under root, and makes the
// initramfs beside it.
func installSystem(t *testing.T, dir, root string) (kernel, initramfs string) {
	t.Helper()
	ctx := t.Context()
	deb := kernelPackage(t)
	output(t, "", "dpkg-deb", "--extract", deb, root)
	kernels, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		t.Fatalf("%s: want one kernel, got %v, %v", deb, kernels, err)
	}
	kernel = filepath.Join(dir, "vmlinuz")
	must(t, os.Rename(kernels[0], kernel))
	release := strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")

	busybox, err := lab.Busybox(ctx)
	must(t, err)
	guest, err := lab.Program(ctx, "e2e/cgroup2/guest")
	must(t, err)
	install(t, busybox, filepath.Join(root, "bin", "busybox"))
	install(t, guest, filepath.Join(root, "sbin", "guest"))
	for _, name := range []string{"bin/sh", "bin/true", "bin/cat", "bin/kill", "bin/find", "sbin/modprobe"} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
		must(t, os.Symlink("/bin/busybox", filepath.Join(root, name)))
	}
	for _, name := range []string{"root", "tmp", "etc", "var/log", "proc", "sys", "dev", "run"} {
		must(t, os.MkdirAll(filepath.Join(root, name), 0o755))
	}
	// Containerd copies both into sandboxes.
	must(t, os.WriteFile(filepath.Join(root, "etc", "hosts"), []byte("127.0.0.1 localhost\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(root, "etc", "resolv.conf"), nil, 0o644))
	// The package has no modules.dep: its scripts make it, and they do not run here.
	output(t, "", busybox, "depmod", "-b", root, release)

	tree := filepath.Join(dir, "initramfs")
	install(t, guest, filepath.Join(tree, "init"))
	for _, name := range []string{"dev", "disk"} {
		must(t, os.MkdirAll(filepath.Join(tree, name), 0o755))
	}
	modules := filepath.Join(root, "lib", "modules", release)
	seen := map[string]bool{}
	for _, module := range []string{"virtio_pci.ko", "virtio_blk.ko"} {
		for _, file := range dependencies(t, modules, module) {
			if !seen[file] {
				install(t, filepath.Join(modules, file), filepath.Join(tree, "modules", fmt.Sprintf("%02d-%s", len(seen), filepath.Base(file))))
			}
			seen[file] = true
		}
	}
	initramfs = filepath.Join(dir, "initramfs.cpio")
	output(t, tree, "sh", "-c", busybox+" find . | "+busybox+" cpio -o -H newc >"+initramfs)
	return kernel, initramfs
}

// dependencies lists a module and those that it needs, in the order in which they are to be loaded.
func dependencies(t *testing.T, modules, name string) []string {
	t.Helper()
	table, err := os.ReadFile(filepath.Join(modules, "modules.dep"))
	must(t, err)
	for line := range strings.Lines(string(table)) {
		file, needed, _ := strings.Cut(line, ":")
		if filepath.Base(file) != name {
			continue
		}
		// modules.dep has the deepest last.
		list := []string{file}
		for dep := range strings.FieldsSeq(needed) {
			list = append([]string{dep}, list...)
		}
		return list
	}
	t.Fatalf("the kernel has no module %s", name)
	return nil
}

// kernelPackage is Debian's package of its kernel for virtual machines, downloaded once.
func kernelPackage(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	dir := filepath.Join(cache, "pleach-lab", "kernel")
	must(t, os.MkdirAll(dir, 0o755))
	script := `ls linux-image-*.deb 2>/dev/null && exit
name() { apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: //p'; }
[ -n "$(name)" ] || apt-get update -q >&2
apt-get download -q "$(name)" >&2 || { apt-get update -q >&2; apt-get download -q "$(name)" >&2; }
ls linux-image-*.deb`
	return filepath.Join(dir, strings.TrimSpace(output(t, dir, "sh", "-e", "-c", script)))
}

// output runs a program on this machine.
func output(t *testing.T, dir, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = dir
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", program, err, complaint.Bytes())
	}
	return string(out)
}

// install copies a program or module.
func install(t *testing.T, from, to string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(to), 0o755))
	body, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, body, 0o755))
}

// try runs a command in the machine. The error is the machine's, not the command's.
func (m *machine) try(ctx context.Context, c command) (*result, error) {
	body, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, m.guest+"/run", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("run %v: %s", c.Args, bytes.TrimSpace(answer))
	}
	r := &result{}
	return r, json.Unmarshal(answer, r)
}

// ask is try for a command whose failure is an error as well.
func (m *machine) ask(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := m.try(ctx, command{Args: args})
	if err != nil {
		return "", err
	}
	if r.Code != 0 {
		return r.Output, fmt.Errorf("%s: exit status %d: %s", strings.Join(args, " "), r.Code, strings.TrimSpace(r.Errors))
	}
	return r.Output, nil
}

// run is ask for what must not fail.
func (m *machine) run(args ...string) string {
	m.t.Helper()
	out, err := m.ask(m.t.Context(), args...)
	must(m.t, err)
	return out
}

// wait waits for a condition with patience.
func (m *machine) wait(what string, condition lab.Condition) {
	m.t.Helper()
	lab.Wait(m.t, patience, what, condition)
}

// read reads a file of the cgroup file system, without white space around; path is below its root.
func (m *machine) read(path string) string {
	m.t.Helper()
	return strings.TrimSpace(m.run("cat", filepath.Join("/sys/fs/cgroup", path)))
}

// write writes such a file, with the kernel's error.
func (m *machine) write(path, value string) error {
	_, err := m.ask(m.t.Context(), "sh", "-c", `echo "$1" >"/sys/fs/cgroup/$2"`, "sh", value, path)
	return err
}

// exists reports whether there is such a group or file.
func (m *machine) exists(path string) bool {
	m.t.Helper()
	r, err := m.try(m.t.Context(), command{Args: []string{"sh", "-c", `test -e "/sys/fs/cgroup/$1"`, "sh", path}})
	must(m.t, err)
	return r.Code == 0
}
