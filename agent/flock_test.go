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
	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/statusbranch"
	"github.com/pleachdev/pleach/gitsync/trust"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
	"github.com/pleachdev/pleach/gossip"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/reconcile/gate"
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
		poke(p.changed)
	}
	return nil
}

func (p *livePods) Stop(uid types.UID, _ string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.pods, uid)
	poke(p.changed)
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
		f.nodes[name] = &testNode{
			node: &node{Config: Config{Dir: dir, Node: name}, signer: key},
			pods: &livePods{pods: map[types.UID]*corev1.Pod{}, changed: make(chan struct{}, 1), ip: fmt.Sprintf("10.1.%d.2", i)},
		}
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

func TestThreeAgentsAgree(t *testing.T) {
	f := newTestFlock(t, "a", "b", "c")
	first := f.accepted(2, 6)
	for name := range f.nodes {
		f.start(name, first)
	}
	f.once("six replicas, one each", func() bool { return f.each(6) })
	before := f.slots()

	// Everybody hears of everybody, and nobody is contradicted.
	f.once("three documents everywhere", func() bool {
		for _, n := range f.nodes {
			if len(n.store.Snapshot().Documents()) != 3 {
				return false
			}
		}
		return true
	})

	// An agent that starts again finds its pods and starts none elsewhere.
	f.nodes["b"].stop()
	f.start("b", first)
	f.once("b's document of its second life", func() bool {
		d := f.nodes["a"].store.Snapshot().Document("b")
		return d != nil && d.Boot == f.nodes["b"].boot
	})
	if got := f.slots(); got != before {
		t.Errorf("slots are at %s after a restart, want %s", got, before)
	}

	// A replica more is claimed once.
	second := f.accepted(3, 9)
	for _, n := range f.nodes {
		n.store.SetAccepted(second)
	}
	f.once("nine replicas, one each", func() bool { return f.each(9) })
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

func TestADeadNodeIsReplacedAndADeadAgentIsNot(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for failure detection, about half a minute")
	}
	f := newTestFlock(t, "a", "b", "c")
	accepted := f.accepted(2, 6)
	for name := range f.nodes {
		f.start(name, accepted)
	}
	f.once("six replicas, one each", func() bool { return f.each(6) })
	before := f.slots()

	// c's agent dies; its host still answers.
	f.nodes["c"].stop()
	f.once("a and b find that c's host answers without its agent", func() bool {
		for _, name := range []string{"a", "b"} {
			m := f.nodes[name].store.Snapshot().Member("c")
			if m == nil || m.Standing != state.Failed || !strings.Contains(m.Reason, "host answers") {
				return false
			}
		}
		return true
	})
	time.Sleep(2 * gate.HoldDown) // what must not happen cannot be waited for
	if got := f.slots(); got != before {
		t.Fatalf("slots are at %s, want %s: c's agent is down and its pods run", got, before)
	}

	// Now the host is gone too.
	f.unplug("c")
	f.once("six replicas on the two that are left", func() bool { return f.each(6, "a", "b") })
	f.once("both hold c for gone", func() bool {
		for _, name := range []string{"a", "b"} {
			if m := f.nodes[name].store.Snapshot().Member("c"); m == nil || m.Standing != state.Gone {
				return false
			}
		}
		return true
	})

	// It comes back, with its pods: they are surplus now.
	f.ports["c"] = f.nodes["c"].peerBind.Port()
	for _, n := range f.nodes {
		n.flock.book.mu.Lock()
		n.flock.book.written["c"] = n.flock.book.written["c"][:0]
		n.flock.book.told["c"] = f.nodes["c"].peerBind
		n.flock.book.mu.Unlock()
	}
	f.start("c", accepted)
	f.once("six replicas, one each", func() bool { return f.each(6) })
	f.once("c counts again", func() bool {
		m := f.nodes["a"].store.Snapshot().Member("c")
		return m != nil && m.Standing == state.Alive
	})
}

func TestAPlannedAbsenceIsNoDeath(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for failure detection, about half a minute")
	}
	f := newTestFlock(t, "a", "b", "c")
	accepted := f.accepted(2, 6)
	f.nodes["c"].planned = time.Hour // the gate bounds it
	for name := range f.nodes {
		f.start(name, accepted)
	}
	f.once("six replicas, one each", func() bool { return f.each(6) })
	before := f.slots()

	f.nodes["c"].stop()
	f.unplug("c")
	f.once("a and b know that c means to be back", func() bool {
		for _, name := range []string{"a", "b"} {
			m := f.nodes[name].store.Snapshot().Member("c")
			if m == nil || m.Standing != state.Failed || !strings.Contains(m.Reason, "means to be back by") {
				return false
			}
		}
		return true
	})
	time.Sleep(3 * gate.HoldDown) // what must not happen cannot be waited for
	if got := f.slots(); got != before {
		t.Errorf("slots are at %s, want %s: c said that it comes back", got, before)
	}
}

// The others are where their documents in the status branch say, when nothing else tells.
func TestPlacesFromTheStatusBranch(t *testing.T) {
	f := newTestFlock(t, "a", "b", "c")
	a := f.accepted(2, 1)
	n := &node{Config: Config{Node: "a", Log: slog.New(slog.DiscardHandler)}, reach: reach{advertise: netip.MustParseAddrPort("192.0.2.1:7434")}}
	fl := &flock{node: n, book: newBook("a")}
	fl.book.accept(a)
	says := func(name string, addresses ...corev1.NodeAddress) gossip.Sealed {
		sealed, err := gossip.Encode(reconcile.Document{Node: name, Boot: 1, Seq: 1, Addresses: addresses}, keyOf(f, name))
		if err != nil {
			t.Fatal(err)
		}
		return sealed
	}
	host := corev1.NodeAddress{Type: corev1.NodeHostName, Address: "b"}
	inside := func(at string) corev1.NodeAddress {
		return corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: at}
	}
	places := fl.placesOf([]gossip.Sealed{says("a", inside("192.0.2.1")), says("b", host, inside("192.0.2.2"), inside("10.0.0.2")), says("c", host)}, a)
	want := map[string]netip.AddrPort{"b": netip.MustParseAddrPort("192.0.2.2:7434")}
	if !maps.Equal(places, want) {
		t.Errorf("places %v, want %v", places, want)
	}
	fl.book.recall(places)
	fl.book.recall(map[string]netip.AddrPort{"b": netip.MustParseAddrPort("198.51.100.9:7434")})
	if got := fl.book.missing(func(string) bool { return false }, nil); !slices.Contains(got, "192.0.2.2:7435") || slices.Contains(got, "198.51.100.9:7435") {
		t.Errorf("looks for others at %v", got)
	}
}

// A document that is judged again with the same outcome is the same to everybody; with another it is not.
func TestDocumentsAreJudgedAgain(t *testing.T) {
	f := newTestFlock(t, "a", "b")
	a := f.accepted(2, 1)
	fl := &flock{node: &node{Config: Config{Node: "a", Log: slog.New(slog.DiscardHandler)}, store: state.New()}, book: newBook("a"), decoded: map[string]*heard{}}
	now := time.Unix(1_800_000_000, 0).UTC()
	m := reconcile.Instance{
		Slot: reconcile.Slot{Workload: webUID}, Revision: "abcdefghij", Epoch: 1, Node: "b", Boot: 1, Claimed: now, Commit: a.Head, Cause: a.Head.ID,
		App: "shop", Kind: "Deployment", Namespace: "default", Owner: "web", Phase: corev1.PodRunning, PodIP: "10.1.1.2",
	}
	m.Name, m.UID = m.PodID()
	sealed, err := gossip.Encode(reconcile.Document{Node: "b", Boot: 1, Seq: 1, Instances: []reconcile.Instance{m}}, keyOf(f, "b"))
	if err != nil {
		t.Fatal(err)
	}
	fl.view.documents = []gossip.Sealed{sealed}
	look := func(a *gitsync.Accepted, at time.Time) *reconcile.Document {
		t.Helper()
		d := fl.look(a, at).documents
		if len(d) != 1 || fl.decoded["b"].fresh != nil {
			t.Fatalf("%d documents, want one, and the whole not kept", len(d))
		}
		return d[0]
	}
	first := look(a, now)
	if len(first.Instances) != 1 {
		t.Fatalf("struck: %+v", first)
	}
	if look(a, now.Add(2*judgeAgain)) != first {
		t.Error("what is the same after a while is taken for new")
	}
	same := *a
	if look(&same, now.Add(2*judgeAgain)) != first {
		t.Error("what is the same after a commit is taken for new")
	}
	moved := f.accepted(3, 1)
	moved.Nodes[1].Spec.PodCIDR = "10.9.0.0/24"
	if d := look(moved, now.Add(2*judgeAgain)); d == first || len(d.Instances) != 0 {
		t.Errorf("after the node has got another range: %+v", d.Instances)
	}
}

func keyOf(f *testFlock, name string) ed25519.PrivateKey { return f.keys[name][0].Ed25519() }

func TestMovesAreReleasedByACommit(t *testing.T) {
	says := func(value string) *gitsync.Accepted {
		a := acceptedWith(1)
		a.Cluster.Annotations = map[string]string{v1alpha1.ReleaseMovesAnnotation: value}
		return a
	}
	for name, c := range map[string]struct {
		before, now *gitsync.Accepted
		want        bool
	}{
		"written first":          {acceptedWith(1), says("2026-03-01T12:00Z"), true},
		"written anew":           {says("2026-02-01T12:00Z"), says("2026-03-01T12:00Z"), true},
		"another commit":         {says("2026-03-01T12:00Z"), says("2026-03-01T12:00Z"), false},
		"taken away":             {says("2026-03-01T12:00Z"), acceptedWith(1), false},
		"there before the agent": {nil, says("2026-03-01T12:00Z"), false},
	} {
		if got := released(c.before, c.now); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
