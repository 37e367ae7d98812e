package containerd

import (
	"context"
	"flag"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pleachdev/pleach/e2e/needs"
	"github.com/pleachdev/pleach/netplugins"
)

const helloImage = "pleach.local/hello:1"

// hello builds the test's program. It is static, so that it is the whole content of its image.
func hello(t testing.TB) []byte {
	t.Helper()
	needs.Command(t, "go")
	out := filepath.Join(t.TempDir(), "hello")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-o", out, "./testdata/hello")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build hello: %v\n%s", err, msg)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// pod is a pod of one hello container, driven by CRI calls.
type pod struct {
	t          testing.TB
	cri        runtimeapi.RuntimeServiceClient
	cgroup     string
	logDir     string
	sandboxID  string
	config     *runtimeapi.PodSandboxConfig
	containers []string
}

func newPod(t testing.TB, cri runtimeapi.RuntimeServiceClient, name, cgroup string) *pod {
	t.Helper()
	p := &pod{t: t, cri: cri, cgroup: cgroup, logDir: t.TempDir()}
	p.config = &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name + "-uid"},
		Hostname:     name,
		LogDirectory: p.logDir,
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: cgroup,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
				Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
			},
		},
	}
	return p
}

// start runs the pod and says what RunPodSandbox, CreateContainer and StartContainer took.
func (p *pod) start() (took [3]time.Duration) {
	p.t.Helper()
	ctx := p.t.Context()
	began := time.Now()
	lap := func(i int) { took[i], began = time.Since(began), time.Now() }
	sandbox, err := p.cri.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: p.config})
	if err != nil {
		p.t.Fatalf("run pod sandbox: %v", err)
	}
	p.sandboxID = sandbox.GetPodSandboxId()
	lap(0)
	container, err := p.cri.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: p.sandboxID, SandboxConfig: p.config,
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "hello"},
			Image:    &runtimeapi.ImageSpec{Image: helloImage},
			LogPath:  "hello.log",
			Linux:    &runtimeapi.LinuxContainerConfig{Resources: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}},
		},
	})
	if err != nil {
		p.t.Fatalf("create container: %v", err)
	}
	id := container.GetContainerId()
	lap(1)
	p.containers = append(p.containers, id)
	if _, err := p.cri.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		p.t.Fatalf("start container: %v", err)
	}
	lap(2)
	return took
}

func (p *pod) status() *runtimeapi.ContainerStatus {
	p.t.Helper()
	resp, err := p.cri.ContainerStatus(p.t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: p.containers[0], Verbose: true})
	if err != nil {
		p.t.Fatalf("container status: %v", err)
	}
	return resp.GetStatus()
}

func (p *pod) remove() {
	p.t.Helper()
	ctx := p.t.Context()
	if _, err := p.cri.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.sandboxID}); err != nil {
		p.t.Fatalf("stop pod sandbox: %v", err)
	}
	if _, err := p.cri.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.sandboxID}); err != nil {
		p.t.Fatalf("remove pod sandbox: %v", err)
	}
}

const insideEnv = "PLEACH_TEST_NETNS"

// inNamespace runs the test in a process with a network namespace of its own, which the daemon that
// it starts then shares, and reports whether this is that process.
func inNamespace(t testing.TB) bool {
	t.Helper()
	needs.Root(t)
	if os.Getenv(insideEnv) == t.Name() {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo) // the CRI's streaming server listens there
		}
		if err != nil {
			t.Fatal(err)
		}
		return true
	}
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v", "-test.timeout=3m"}
	if _, ok := t.(*testing.B); ok {
		args = []string{"-test.run=^$", "-test.bench=^" + t.Name() + "$", "-test.benchtime=" + flag.Lookup("test.benchtime").Value.String()}
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), insideEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, ok := t.(*testing.B); ok {
		fmt.Printf("%s", out)
		t.SkipNow() // the figures are the other process's
	}
	t.Logf("%s", out)
	return false
}

// bringUp starts a runtime and a network in an empty directory.
func bringUp(t testing.TB) (*Supervisor, netplugins.Desired, runtimeapi.RuntimeServiceClient, func()) {
	t.Helper()
	program := hello(t)
	s := newSupervisor(t)
	network := netplugins.Desired{
		Bridge: "pleach0", PodCIDR: netip.MustParsePrefix("10.64.1.0/24"), ClusterCIDR: netip.MustParsePrefix("10.64.0.0/16"),
		ConfDir: CNIConfDir(s.Dir), LeaseDir: filepath.Join(s.Dir, "cni", "leases"),
	}
	if err := netplugins.Apply(t.Context(), network); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	stop := run(t, s)
	t.Logf("from nothing to a ready runtime: %v", time.Since(began))
	if err := importProgram(t.Context(), s.Socket(), helloImage, "hello", program); err != nil {
		t.Fatal(err)
	}
	conn, err := dial(s.Socket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	cri := runtimeapi.NewRuntimeServiceClient(conn)
	awaitNetwork(t, cri)
	return s, network, cri, stop
}

// The contract with the runtime, from an empty directory to a running pod and back to nothing.
func TestPodEndToEnd(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	cgroup := fmt.Sprintf("/pleach-test-%d", os.Getpid())
	t.Cleanup(func() { removeCgroups(t, cgroup) }) // registered first: it runs after Stop
	s, network, cri, stop := bringUp(t)

	p := newPod(t, cri, "one", cgroup)
	p.start()

	sandbox, err := cri.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.sandboxID})
	if err != nil {
		t.Fatal(err)
	}
	if ip := sandbox.GetStatus().GetNetwork().GetIp(); ip != "10.64.1.2" {
		t.Errorf("pod address: got %q, want the first of the podCIDR", ip)
	}
	if got := p.status().GetState(); got != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Fatalf("container is %s", got)
	}
	said, err := cri.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: p.containers[0], Cmd: []string{"/hello", "from", "inside"}, Timeout: 20})
	if err != nil || string(said.GetStdout()) != "from inside\n" || said.GetExitCode() != 0 {
		t.Errorf("exec: %v, %v", said, err)
	}

	// The daemon dies: the container does not notice, and a new daemon knows it.
	before := containerPID(t, cri, p.containers[0])
	old := daemon(t, s)
	if err := unix.Kill(old, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitDaemon(t, s, old)
	if after := containerPID(t, cri, p.containers[0]); after != before {
		t.Errorf("container: process %d became %d when the daemon died", before, after)
	}

	if _, err := cri.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: p.containers[0], Timeout: 10}); err != nil {
		t.Fatal(err)
	}
	if code := p.status().GetExitCode(); code != 7 {
		t.Errorf("exit code: got %d, want the 7 of a polite end", code)
	}
	if log, err := os.ReadFile(filepath.Join(p.logDir, "hello.log")); err != nil || !strings.Contains(string(log), " stdout F hello\n") {
		t.Errorf("log: %q, %v", log, err)
	}
	p.remove()

	// A second pod is left to Stop.
	newPod(t, cri, "two", cgroup).start()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stop()
	if err := s.Stop(ctx); err != nil {
		t.Error(err)
	}
	wantStopped(t, s)
	if entries, err := os.ReadDir(network.LeaseDir); err != nil || slices.ContainsFunc(entries, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), "10.") }) {
		t.Errorf("leases left: %v, %v", entries, err)
	}
}

func wantStopped(t *testing.T, s *Supervisor) {
	t.Helper()
	if pids := startedFrom(newPaths(s.Dir).bin); len(pids) != 0 {
		t.Errorf("processes left: %v", pids)
	}
	if b, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(b), s.Dir) {
		t.Errorf("mounts left: %v\n%s", err, b)
	}
}

// Without a daemon nobody can be asked to remove the pods: Stop ends them all the same.
func TestStopWithoutDaemon(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	cgroup := fmt.Sprintf("/pleach-test-%d", os.Getpid())
	t.Cleanup(func() { removeCgroups(t, cgroup) })
	s, _, cri, stop := bringUp(t)
	p := newPod(t, cri, "one", cgroup)
	p.start()
	container := containerPID(t, cri, p.containers[0])
	stop()
	if err := unix.Kill(daemon(t, s), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the daemon is gone", func() bool {
		proc, err := find(newPaths(s.Dir))
		if proc != nil {
			proc.close()
		}
		return err == nil && proc == nil
	})
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	wantStopped(t, s)
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", container)); err == nil && filepath.Base(exe) == "hello" {
		t.Errorf("container process %d runs on", container)
	}
	// The groups of the containers are left: the runtime that made them is gone.
	eventually(t, "the containers' groups can be removed", func() bool {
		paths, err := filepath.Glob("/sys/fs/cgroup/*" + cgroup + "/*")
		groups := slices.DeleteFunc(paths, func(path string) bool {
			fi, err := os.Stat(path)
			return err != nil || !fi.IsDir()
		})
		for _, g := range groups {
			_ = unix.Rmdir(g) // busy until its last process is reaped
		}
		return err == nil && len(groups) == 0
	})
}

func awaitNetwork(t testing.TB, cri runtimeapi.RuntimeServiceClient) {
	t.Helper()
	eventually(t, "the network is ready", func() bool {
		resp, err := cri.Status(t.Context(), &runtimeapi.StatusRequest{})
		return err == nil && slices.ContainsFunc(resp.GetStatus().GetConditions(), func(c *runtimeapi.RuntimeCondition) bool {
			return c.GetType() == runtimeapi.NetworkReady && c.GetStatus()
		})
	})
}

func awaitDaemon(t *testing.T, s *Supervisor, old int) {
	t.Helper()
	eventually(t, "another daemon is ready", func() bool {
		proc, err := find(newPaths(s.Dir))
		if err != nil || proc == nil {
			return false
		}
		defer proc.close()
		return proc.pid != old && s.Ready(t.Context()) == nil
	})
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute until %s", what)
		}
	}
}

// containerPID asks the runtime for the process of a container.
func containerPID(t *testing.T, cri runtimeapi.RuntimeServiceClient, id string) int {
	t.Helper()
	var info string
	eventually(t, "the container's status is known", func() bool {
		resp, err := cri.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
		if err != nil {
			return false
		}
		info = resp.GetInfo()["info"]
		return resp.GetStatus().GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING
	})
	_, rest, ok := strings.Cut(info, `"pid":`)
	var pid int
	if _, err := fmt.Sscanf(rest, "%d", &pid); !ok || err != nil {
		t.Fatalf("no pid in %s", info)
	}
	return pid
}

// removeCgroups removes the pods' cgroup in every hierarchy. What is below it was not removed by the
// runtime, and is reported.
func removeCgroups(t testing.TB, name string) {
	t.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup/*" + name, "/sys/fs/cgroup" + name} {
		roots, err := filepath.Glob(pattern)
		if err != nil {
			t.Error(err)
		}
		for _, root := range roots {
			var dirs []string
			err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
				if err == nil && e.IsDir() {
					dirs = append(dirs, path)
				}
				return err
			})
			if err != nil || len(dirs) > 1 {
				t.Errorf("cgroups left: %v, %v", dirs, err)
			}
			for _, dir := range slices.Backward(dirs) {
				if err := unix.Rmdir(dir); err != nil {
					t.Errorf("cgroup left: %s: %v", dir, err)
				}
			}
		}
	}
}
