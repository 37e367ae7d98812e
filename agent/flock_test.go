package agent

import (
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
	"github.com/pleachdev/pleach/gossip"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/reconcile/gate"
	"github.com/pleachdev/pleach/state"
)

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
