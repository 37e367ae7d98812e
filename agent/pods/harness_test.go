package pods

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/agent/pods/fakecri"
)

// objects is a Lookup from memory.
type objects struct {
	mu         sync.Mutex
	configMaps map[string]*corev1.ConfigMap
	secrets    map[string]*corev1.Secret
}

func (o *objects) ConfigMap(namespace, name string) *corev1.ConfigMap {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.configMaps[namespace+"/"+name]
}

func (o *objects) Secret(namespace, name string) *corev1.Secret {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.secrets[namespace+"/"+name]
}

func (o *objects) Node() *corev1.Node { return nil }

func (o *objects) set(c *corev1.ConfigMap) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.configMaps == nil {
		o.configMaps = map[string]*corev1.ConfigMap{}
	}
	o.configMaps[c.Namespace+"/"+c.Name] = c
}

// plain is a mount table for tests without root: a tmpfs is an ordinary directory.
type plain struct{}

func (plain) Tmpfs(string, int64) (bool, error) { return true, nil }
func (plain) Bind(*os.File, string) error       { return nil }
func (plain) Unmount(string) error              { return nil }
func (plain) UnmountBelow(string) error         { return nil }

// A node is a manager with a fake runtime below it.
type node struct {
	t       *testing.T
	runtime *fakecri.Runtime
	objects *objects
	dir     string
	client  *fakecri.Client
	m       *Manager
	end     func()
	step    func(string) // told of each durable step
	hold    bool         // what a manager finds is not resumed at once

	mu     sync.Mutex
	events []string
}

const testImage = "example.org/app:1"

func newNode(t *testing.T, runtime *fakecri.Runtime) *node {
	if runtime == nil {
		runtime = fakecri.New(testImage)
	}
	n := &node{t: t, runtime: runtime, objects: &objects{}, dir: t.TempDir()}
	n.open(n.dir)
	return n
}

// open starts a manager on a directory, as an agent that starts.
func (n *node) open(dir string) {
	n.t.Helper()
	n.dir = dir
	n.client = n.runtime.Connect()
	n.m = New(Config{
		Dir: dir, LogDir: filepath.Join(dir, "logs"), Runtime: n.client, Images: n.client.Images(), Lookup: n.objects,
		NodeName: "n1", NodeIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Mounts: plain{},
		Capacity: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi")},
		Recorder: func(_ *corev1.Pod, _, reason, message string) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.events = append(n.events, reason+": "+message)
		},
		ResolvConf: filepath.Join(dir, "none"),
	})
	n.m.store.step = n.step
	if !n.hold {
		for _, uid := range n.m.Found() {
			n.m.Resume(uid)
		}
	}
	n.run()
}

func (n *node) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	m := n.m
	go func() { done <- m.Run(ctx) }()
	var once sync.Once
	n.end = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				n.t.Errorf("Run: %v", err)
			}
		})
	}
	n.t.Cleanup(n.end)
}

// restart ends the manager as a clean shutdown does, and starts another.
func (n *node) restart() {
	n.end()
	n.open(n.dir)
}

func (n *node) start(pod *corev1.Pod) {
	n.t.Helper()
	if err := n.m.Start(pod); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) pod(name string) *corev1.Pod {
	for _, p := range n.m.Pods() {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// settle waits, in the bubble's time.
func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// within waits for a condition and fails after d of the bubble's time.
func (n *node) within(d time.Duration, what string, ok func() bool) {
	n.t.Helper()
	for end := time.Now().Add(d); ; {
		synctest.Wait()
		if ok() {
			return
		}
		if time.Now().After(end) {
			n.t.Fatalf("not within %s: %s\n%s", d, what, n.describe())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (n *node) describe() string {
	var b strings.Builder
	for _, p := range n.m.Pods() {
		fmt.Fprintf(&b, "pod %s %s: %s\n", p.Name, p.Status.Phase, summary(p))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	fmt.Fprintf(&b, "runtime: %s\nevents: %s", strings.Join(n.runtime.Log(), "; "), strings.Join(n.events, "; "))
	return b.String()
}

func (n *node) sawEvent(reason string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.events, func(e string) bool { return strings.HasPrefix(e, reason+":") })
}

// summary is "app=Running/2 ready" for each container.
func summary(p *corev1.Pod) string {
	var out []string
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		state := "?"
		switch {
		case c.State.Running != nil:
			state = "Running"
		case c.State.Waiting != nil:
			state = c.State.Waiting.Reason
		case c.State.Terminated != nil:
			state = c.State.Terminated.Reason
		}
		text := fmt.Sprintf("%s=%s/%d", c.Name, state, c.RestartCount)
		if c.Ready {
			text += " ready"
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

func isReady(p *corev1.Pod) bool {
	if p == nil {
		return false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// newPod is a pod with one container "app", changed by the given functions.
func newPod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("uid-" + name)},
		Spec: corev1.PodSpec{
			RestartPolicy:                 corev1.RestartPolicyAlways,
			TerminationGracePeriodSeconds: new(int64(30)),
			Containers:                    []corev1.Container{newContainer("app")},
		},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func newContainer(name string) corev1.Container {
	return corev1.Container{Name: name, Image: testImage, ImagePullPolicy: corev1.PullIfNotPresent}
}
