package cricontract_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	cri "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	criclient "k8s.io/cri-client/pkg"

	"github.com/pleachdev/pleach/agent/containerd"
	"github.com/pleachdev/pleach/agent/embedded"
	"github.com/pleachdev/pleach/agent/pods"
	"github.com/pleachdev/pleach/e2e/needs"
	"github.com/pleachdev/pleach/netplugins"
)

// The supervisor starts its own binary again: here, that of the test.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == containerd.ProcessName {
		containerd.Main()
	}
	os.Exit(m.Run())
}

const insideEnv = "PLEACH_TEST_NETNS"

// inside runs the test in a process with a network namespace of its own, which the daemon that it
// starts then shares, and reports whether this is that process.
func inside(t *testing.T) bool {
	t.Helper()
	needs.Root(t)
	if os.Getenv(insideEnv) == t.Name() {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			t.Fatal(err)
		}
		return true
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m", "-idle="+idleFor.String())
	cmd.Env = append(os.Environ(), insideEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	// Ended with SIGTERM rather than at once, a test's process can still clean up after itself.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	return false
}

// A node is a real runtime with a network, a registry with an image, and a manager on top.
type node struct {
	t       *testing.T
	dir     string
	cgroup  string
	image   string // can be pulled
	uid     string // the same image with user 1000
	noImage string
	runtime cri.RuntimeService
	images  cri.ImageManagerService
	objects *objects
	m       *pods.Manager
	end     func()

	mu     sync.Mutex
	events []string
}

func newNode(t *testing.T) *node {
	t.Helper()
	program := build(t)
	dir, err := os.MkdirTemp("", "pleach-pods-") //nolint:usetesting // taken away only after containerd has ended, and short enough for sockets
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, dir: dir, cgroup: fmt.Sprintf("/pleach-pods-test-%d", os.Getpid()), objects: &objects{}}
	if _, err := embedded.Extract(filepath.Join(dir, "bin")); errors.Is(err, embedded.ErrMissing) {
		os.RemoveAll(dir)
		needs.Lacking(t, "the node binaries (make node-binaries)")
	}
	supervisor := &containerd.Supervisor{Dir: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	t.Cleanup(func() { // after everything else
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run containerd: %v", err)
		}
		stopCtx, cancelStop := context.WithTimeout(context.Background(), time.Minute)
		defer cancelStop()
		if err := supervisor.Stop(stopCtx); err != nil {
			t.Errorf("stop containerd: %v", err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
		n.removeCgroups()
	})
	network := netplugins.Desired{
		Bridge: "pleach0", PodCIDR: netip.MustParsePrefix("10.64.1.0/24"), ClusterCIDR: netip.MustParsePrefix("10.64.0.0/16"),
		ConfDir: containerd.CNIConfDir(dir), LeaseDir: filepath.Join(dir, "cni", "leases"),
	}
	if err := netplugins.Apply(t.Context(), network); err != nil {
		done <- nil
		t.Fatal(err)
	}
	go func() { done <- supervisor.Run(ctx) }()
	readyCtx, cancelReady := context.WithTimeout(ctx, time.Minute)
	defer cancelReady()
	if err := supervisor.Ready(readyCtx); err != nil {
		t.Fatal(err)
	}
	endpoint := "unix://" + supervisor.Socket()
	if n.runtime, err = criclient.NewRemoteRuntimeServiceBuilder().WithEndpoint(endpoint).WithConnectionTimeout(2 * time.Minute).Build(ctx); err != nil {
		t.Fatal(err)
	}
	if n.images, err = criclient.NewRemoteImageServiceBuilder().WithEndpoint(endpoint).WithConnectionTimeout(2 * time.Minute).Build(ctx); err != nil {
		t.Fatal(err)
	}
	n.within(time.Minute, "the network is ready", func() bool {
		s, err := n.runtime.Status(ctx, false)
		return err == nil && slices.ContainsFunc(s.GetStatus().GetConditions(), func(c *runtimeapi.RuntimeCondition) bool {
			return c.GetType() == runtimeapi.NetworkReady && c.GetStatus()
		})
	})
	n.serveImages(program)
	return n
}

// build builds the program of the test's containers.
func build(t *testing.T) []byte {
	t.Helper()
	needs.Command(t, "go")
	out := filepath.Join(t.TempDir(), "app")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-o", out, "./app")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build app: %v\n%s", err, msg)
	}
	program, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// serveImages starts a registry with the program as an image.
func (n *node) serveImages(program []byte) {
	n.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	server := &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	go server.Serve(listener) //nolint:errcheck // ends with Close
	n.t.Cleanup(func() { server.Close() })
	host := listener.Addr().String()
	n.image, n.uid, n.noImage = host+"/app:1", host+"/app:user", host+"/missing:1"
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, dir := range []string{"tmp/", "dev/", "proc/", "etc/"} {
		if err := w.WriteHeader(&tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o777}); err != nil {
			n.t.Fatal(err)
		}
	}
	if err := w.WriteHeader(&tar.Header{Name: "app", Mode: 0o755, Size: int64(len(program))}); err != nil {
		n.t.Fatal(err)
	}
	if _, err := w.Write(program); err != nil {
		n.t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		n.t.Fatal(err)
	}
	content, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		n.t.Fatal(err)
	}
	for ref, user := range map[string]string{n.image: "", n.uid: "1000"} {
		image, err := mutate.AppendLayers(empty.Image, content)
		if err != nil {
			n.t.Fatal(err)
		}
		file, err := image.ConfigFile()
		if err != nil {
			n.t.Fatal(err)
		}
		file.Architecture, file.OS = "amd64", "linux"
		file.Config = v1.Config{Entrypoint: []string{"/app"}, User: user}
		if image, err = mutate.ConfigFile(image, file); err != nil {
			n.t.Fatal(err)
		}
		tag, err := name.NewTag(ref)
		if err != nil {
			n.t.Fatal(err)
		}
		if err := remote.Write(tag, image); err != nil {
			n.t.Fatal(err)
		}
	}
}

// run starts a manager, as an agent that starts.
func (n *node) run() {
	n.t.Helper()
	n.m = pods.New(pods.Config{
		Dir: n.dir, LogDir: filepath.Join(n.dir, "pod-logs"), Runtime: n.runtime, Images: n.images, Lookup: n.objects,
		NodeName: "n1", NodeIPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, CgroupRoot: n.cgroup,
		Capacity: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("4Gi")},
		Log:      slog.New(slog.NewTextHandler(n.t.Output(), nil)),
		Recorder: func(p *corev1.Pod, _, reason, message string) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.events = append(n.events, p.Name+" "+reason+": "+message)
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	m := n.m
	go func() { done <- m.Run(ctx) }()
	n.end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("Run: %v", err)
		}
	})
	n.t.Cleanup(n.end)
}

func (n *node) start(p *corev1.Pod) {
	n.t.Helper()
	if err := n.m.Start(p); err != nil {
		n.t.Fatal(err)
	}
}

// stopAll stops every pod and sees that nothing is left of them.
func (n *node) stopAll() {
	n.t.Helper()
	for _, p := range n.m.Pods() {
		if err := n.m.Stop(p.UID, "the test is over"); err != nil {
			n.t.Error(err)
		}
	}
	n.within(time.Minute, "all pods gone", func() bool { return len(n.m.Pods()) == 0 })
	ctx := n.t.Context()
	sandboxes, err1 := n.runtime.ListPodSandbox(ctx, nil)
	containers, err2 := n.runtime.ListContainers(ctx, nil)
	if err := errors.Join(err1, err2); err != nil || len(sandboxes)+len(containers) > 0 {
		n.t.Errorf("left in the runtime: %v, %v, %v", sandboxes, containers, err)
	}
	for _, sub := range []string{"pods", "pod-logs"} {
		if left, err := os.ReadDir(filepath.Join(n.dir, sub)); err != nil || len(left) > 0 {
			n.t.Errorf("left in %s: %v, %v", sub, left, err)
		}
	}
}

// removeCgroups removes the test's root groups; that they are empty is part of the test.
func (n *node) removeCgroups() {
	roots, err := filepath.Glob("/sys/fs/cgroup/*" + n.cgroup)
	if err != nil {
		n.t.Error(err)
	}
	if _, err := os.Stat("/sys/fs/cgroup" + n.cgroup); err == nil {
		roots = append(roots, "/sys/fs/cgroup"+n.cgroup)
	}
	for _, root := range roots {
		var dirs []string
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				dirs = append(dirs, path)
			}
			return err
		})
		if err != nil {
			n.t.Error(err)
		}
		for _, dir := range slices.Backward(dirs) {
			if base := filepath.Base(dir); base != filepath.Base(n.cgroup) && base != "burstable" && base != "besteffort" && base != "contract" {
				n.t.Errorf("a pod's control group is left: %s", dir)
			}
			if err := os.Remove(dir); err != nil {
				n.t.Error(err)
			}
		}
	}
}

func (n *node) within(d time.Duration, what string, ok func() bool) {
	n.t.Helper()
	for end := time.Now().Add(d); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.t.Fatalf("not within %s: %s\nevents: %q\npods: %s", d, what, n.events, n.describe())
		}
	}
}

// saw tells whether an event was recorded: "POD REASON:".
func (n *node) saw(event string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.events, func(e string) bool { return strings.HasPrefix(e, event) })
}

func (n *node) describe() string {
	if n.m == nil {
		return ""
	}
	var out string
	for _, p := range n.m.Pods() {
		out += fmt.Sprintf("\n%s: %+v", p.Name, p.Status)
	}
	return out
}

func (n *node) pod(called string) *corev1.Pod {
	for _, p := range n.m.Pods() {
		if p.Name == called {
			return p
		}
	}
	return nil
}

func ready(p *corev1.Pod) bool {
	return p != nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// objects is a Lookup from memory.
type objects struct {
	mu         sync.Mutex
	configMaps map[string]*corev1.ConfigMap
	secrets    map[string]*corev1.Secret
}

func (o *objects) ConfigMap(_, key string) *corev1.ConfigMap {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.configMaps[key]
}

func (o *objects) Secret(_, key string) *corev1.Secret {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.secrets[key]
}

func (o *objects) Node() *corev1.Node { return nil }

func (o *objects) setConfigMap(key string, data map[string]string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.configMaps == nil {
		o.configMaps = map[string]*corev1.ConfigMap{}
	}
	o.configMaps[key] = &corev1.ConfigMap{Data: data}
}
