package agent

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/agent/api"
	"github.com/pleachdev/pleach/agent/follow"
	"github.com/pleachdev/pleach/agent/machine"
	"github.com/pleachdev/pleach/agent/wake"
	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/statusbranch"
	"github.com/pleachdev/pleach/gitsync/trust"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/state"
)

// livePods runs pods in a map; they are ready as soon as they are looked at again.
type livePods struct {
	mu      sync.Mutex
	pods    map[types.UID]*corev1.Pod
	changed chan struct{}
	ip      string // of the first
}

func (p *livePods) Start(pod *corev1.Pod) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pods[pod.UID] == nil {
		pod = pod.DeepCopy()
		pod.Status.Phase = corev1.PodRunning
		pod.Status.PodIP = p.ip
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Unix(1, 0)}}
		p.pods[pod.UID] = pod
		wake.Poke(p.changed)
	}
	return nil
}

func (p *livePods) Stop(uid types.UID, _ string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.pods, uid)
	wake.Poke(p.changed)
	return nil
}

func (p *livePods) Pods() []*corev1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.SortedFunc(maps.Values(p.pods), func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
}

func (p *livePods) Changed() <-chan struct{} { return p.changed }
func (p *livePods) ConfigChanged()           {}
func (p *livePods) Found() []types.UID       { return nil }
func (p *livePods) Looked() <-chan struct{}  { return looked }
func (p *livePods) Resume(types.UID)         {}

// testNode is an agent without Git and containerd: its own disk, store, decider and place on the network.
type testNode struct {
	*node
	pods *livePods
	stop func() // ends the agent; its pods go on
	// planned makes an end one that the node tells of; else it ends as after kill -9.
	planned time.Duration
}

// newTestNode is a node that has no pods; ip is that of the first.
func newTestNode(name, dir string, signer *trust.SigningKey, ip string) *testNode {
	return &testNode{
		node: &node{Config: Config{Dir: dir, Node: name}, signer: signer},
		pods: &livePods{pods: map[types.UID]*corev1.Pod{}, changed: make(chan struct{}, 1), ip: ip},
	}
}

// testFlock is several of them over loopback.
type testFlock struct {
	t     *testing.T
	nodes map[string]*testNode
	keys  map[string][]*trust.SigningKey
	ports map[string]uint16
}

func newTestFlock(t *testing.T, names ...string) *testFlock {
	t.Helper()
	f := &testFlock{t: t, nodes: map[string]*testNode{}, keys: map[string][]*trust.SigningKey{}, ports: map[string]uint16{}}
	for i, name := range names {
		dir := t.TempDir()
		key, err := trust.LoadOrCreateKey(filepath.Join(dir, "keys", "node.key"), name)
		if err != nil {
			t.Fatal(err)
		}
		f.keys[name] = []*trust.SigningKey{key}
		f.ports[name] = freePorts(t)
		f.nodes[name] = newTestNode(name, dir, key, fmt.Sprintf("10.1.%d.2", i))
	}
	return f
}

// freePorts returns a port that is free together with the next one.
func freePorts(t *testing.T) uint16 {
	t.Helper()
	for range 100 {
		a, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := netip.MustParseAddrPort(a.Addr().String()).Port()
		b, err := new(net.ListenConfig).Listen(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port+1))
		_ = a.Close()
		if err == nil {
			_ = b.Close()
			return port
		}
	}
	t.Fatal("no two ports are free")
	return 0
}

// accepted is a flock of all the nodes with a Deployment of some replicas.
func (f *testFlock) accepted(level int64, replicas int32) *gitsync.Accepted {
	a := acceptedWith(replicas)
	commit := reconcile.Commit{ID: strings.Repeat(fmt.Sprintf("%02x", level), 20), Level: level}
	a.Head, a.Nodes = commit, nil
	for i, name := range slices.Sorted(maps.Keys(f.nodes)) {
		var keys []string
		for _, k := range f.keys[name] {
			keys = append(keys, k.AuthorizedKey())
		}
		a.Nodes = append(a.Nodes, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}, Annotations: map[string]string{
				v1alpha1.NodeKeyAnnotation: strings.Join(keys, ","),
				v1alpha1.AddressAnnotation: fmt.Sprintf("127.0.0.1:%d", f.ports[name]),
			}},
			Spec: corev1.NodeSpec{PodCIDR: fmt.Sprintf("10.1.%d.0/24", i)},
		})
	}
	return a
}

// start runs a node's agent from what is on its disk.
func (f *testFlock) start(name string, a *gitsync.Accepted) {
	t, n := f.t, f.nodes[name]
	t.Helper()
	fresh := &node{
		Config: Config{Dir: n.Dir, Node: name, Introduction: strings.Repeat("0a", 20), PeerListen: fmt.Sprintf("127.0.0.1:%d", f.ports[name])},
		signer: n.signer, store: state.New(), hints: make(chan struct{}, 1), machine: &machine.Machine{},
	}
	fresh.fill()
	if testing.Verbose() {
		fresh.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})).With("at", name)
	}
	fresh.ready.runtime = func() error { return nil }
	fresh.following = follow.New(follow.Config{Node: name, Store: fresh.store, Log: fresh.Log})
	var err error
	if fresh.boot, err = nextBoot(n.Dir, time.Now()); err != nil {
		t.Fatal(err)
	}
	if fresh.reach, err = reachOf(fresh.Config, nil); err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	metrics, err := api.NewMetrics(registry, fresh.store, "test")
	if err != nil {
		t.Fatal(err)
	}
	memory, err := openDecisions(n.Dir)
	if err != nil {
		t.Fatal(err)
	}
	room := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	fresh.flock = newFlock(fresh)
	fresh.flock.planned = n.planned
	if err := fresh.flock.measure(registry); err != nil {
		t.Fatal(err)
	}
	fresh.store.SetAccepted(a)
	d := &decider{
		node: name, flock: fresh.flock, pods: n.pods, store: fresh.store, metrics: metrics, memory: memory, key: n.signer.Ed25519(),
		log: fresh.Log, publish: func(statusbranch.Content) {}, starting: map[types.UID]time.Time{}, asking: map[reconcile.Ask]bool{},
		self: func() reconcile.Document {
			lacks, since := fresh.ready.get()
			return reconcile.Document{Allocatable: room, Conditions: []corev1.NodeCondition{nodeReady(lacks, lacks, since)}}
		},
	}
	ctx, cancel := context.WithCancel(context.Background())
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return fresh.flock.run(ctx) })
	group.Go(func() error { return d.run(ctx) })
	n.node = fresh
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := group.Wait(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	})
	t.Cleanup(n.stop)
}

// slots returns where the slots of the Deployment run: "0@a 1@b", sorted.
func (f *testFlock) slots(of ...string) string {
	var out []string
	for name, n := range f.nodes {
		if len(of) > 0 && !slices.Contains(of, name) {
			continue
		}
		for _, pod := range n.pods.Pods() {
			i, err := reconcile.UnmarshalInstance(pod)
			if err != nil {
				f.t.Fatal(err)
			}
			out = append(out, fmt.Sprintf("%d@%s", i.Slot.Ordinal, name))
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// once waits until ready says so, and says what there is when it never does.
func (f *testFlock) once(what string, ready func() bool) {
	f.t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for !ready() {
		if time.Now().After(deadline) {
			f.t.Fatalf("never came: %s; slots %s", what, f.slots())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// each reports whether every one of n slots runs exactly once, on the given nodes or any.
func (f *testFlock) each(n int, of ...string) bool {
	list := strings.Fields(f.slots(of...))
	seen := map[string]bool{}
	for _, s := range list {
		ordinal, _, _ := strings.Cut(s, "@")
		seen[ordinal] = true
	}
	return len(list) == n && len(seen) == n
}

// unplug takes a node's host off the network, as seen by the others.
func (f *testFlock) unplug(name string) {
	nowhere := netip.MustParseAddrPort("255.255.255.255:7434")
	f.ports[name] = 1 // nobody listens there
	for other, n := range f.nodes {
		if other != name {
			n.flock.book.mu.Lock()
			n.flock.book.told[name], n.flock.book.written[name] = nowhere, nowhere.String()
			n.flock.book.mu.Unlock()
		}
	}
}

func keyOf(f *testFlock, name string) ed25519.PrivateKey { return f.keys[name][0].Ed25519() }
