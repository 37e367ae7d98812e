package membership

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/serf/serf"
)

// flock is the accepted keys, and where everybody is.
type flock struct {
	mu    sync.Mutex
	keys  map[string][]ed25519.PublicKey
	where map[string]string
}

func newFlock() *flock {
	return &flock{keys: map[string][]ed25519.PublicKey{}, where: map[string]string{}}
}

func (f *flock) enrol(node string, keys ...ed25519.PrivateKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys[node] = nil
	for _, k := range keys {
		f.keys[node] = append(f.keys[node], k.Public().(ed25519.PublicKey))
	}
}

func (f *flock) accepted(node string) []ed25519.PublicKey {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.keys[node]
}

func key(seed string) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte(fmt.Sprintf("%-32s", seed))[:32])
}

// config is of a node at a free port of this machine.
func (f *flock) config(t *testing.T, node string) Config {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.Addr().String())
	_ = l.Close()
	f.mu.Lock()
	f.where[node] = at.String()
	f.mu.Unlock()
	return Config{
		Cluster: "test", Node: node, Zone: "z1", Boot: 1, Key: key(node), Keys: f.accepted,
		GossipKeys: [][]byte{DeriveKey("1234", "test")}, Bind: at, Advertise: at, PeerPort: 7434,
		Missing: func(alive func(string) bool) []string {
			f.mu.Lock()
			defer f.mu.Unlock()
			var out []string
			for name, at := range f.where {
				if name != node && !alive(name) {
					out = append(out, at)
				}
			}
			return out
		},
	}
}

// run starts a member and returns how to end it.
func run(t *testing.T, c Config) (*Membership, func()) {
	t.Helper()
	m := New(c)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", c.Node, err)
		}
	})
	t.Cleanup(stop)
	return m, stop
}

// await waits until the members of m are as want says: "b alive", "c failed", sorted.
func await(t *testing.T, m *Membership, want ...string) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		var got []string
		for _, member := range m.Members() {
			state := "failed"
			if member.Alive {
				state = "alive"
			}
			got = append(got, member.Name+" "+state)
		}
		if strings.Join(got, ", ") == strings.Join(want, ", ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s sees %q, want %q", m.Node, got, want)
		}
		select {
		case <-m.Changed():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func TestNodesFindEachOther(t *testing.T) {
	f := newFlock()
	for _, node := range []string{"a", "b", "c"} {
		f.enrol(node, key(node))
	}
	a, _ := run(t, f.config(t, "a"))
	b, _ := run(t, f.config(t, "b"))
	_, stop := run(t, f.config(t, "c"))
	await(t, a, "b alive", "c alive")
	await(t, b, "a alive", "c alive")
	got := a.Members()[0]
	want := Member{Name: "b", Alive: true, Peer: netip.AddrPortFrom(b.Advertise.Addr(), 7434), Zone: "z1", Boot: 1}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	stop()
	await(t, a, "b alive", "c failed")

	// c comes back, elsewhere.
	c := f.config(t, "c")
	c.Boot = 2
	run(t, c)
	if testing.Short() {
		return // who failed elsewhere is taken over after 30 s
	}
	await(t, a, "b alive", "c alive")
	await(t, b, "a alive", "c alive")
	if got := a.Members()[1]; got.Boot != 2 {
		t.Errorf("got %+v; want boot 2", got)
	}
}

func TestOnlyEnrolledNodesAreMembers(t *testing.T) {
	f := newFlock()
	f.enrol("a", key("a"))
	f.enrol("b", key("b"))
	a, _ := run(t, f.config(t, "a"))
	b, _ := run(t, f.config(t, "b"))
	run(t, f.config(t, "c")) // knows the gossip key, and no more
	await(t, a, "b alive")

	thief := f.config(t, "b") // b's name with another key, while b is there
	thief.Key = key("thief")
	f.mu.Lock()
	f.where["b"] = b.Bind.String()
	f.mu.Unlock()
	run(t, thief)
	await(t, b, "a alive")
	await(t, a, "b alive")

	f.enrol("c", key("c"))
	a.Refresh()
	b.Refresh()
	await(t, a, "b alive", "c alive")
	await(t, b, "a alive", "c alive")

	f.enrol("c") // removed, and still there
	a.Refresh()
	await(t, a, "b alive")
}

func TestADifferentGossipKeyIsAnotherFlock(t *testing.T) {
	f := newFlock()
	for _, node := range []string{"a", "b", "c"} {
		f.enrol(node, key(node))
	}
	old, next := DeriveKey("old", "test"), DeriveKey("next", "test")
	config := func(node string, keys ...[]byte) Config {
		c := f.config(t, node)
		c.GossipKeys = keys
		return c
	}
	a, _ := run(t, config("a", old, next)) // in the middle of a rotation
	b, _ := run(t, config("b", next, old))
	run(t, config("c", DeriveKey("guessed", "test")))
	await(t, a, "b alive")
	await(t, b, "a alive")
}

func TestTwoMachinesWithOneKeyAreReported(t *testing.T) {
	f := newFlock()
	f.enrol("a", key("a"))
	f.enrol("b", key("b"))
	a, _ := run(t, f.config(t, "a"))
	first, _ := run(t, f.config(t, "b"))
	await(t, a, "b alive")
	second, _ := run(t, f.config(t, "b"))
	deadline := time.Now().Add(60 * time.Second)
	for {
		_, one := first.Conflict(time.Now())
		_, other := second.Conflict(time.Now())
		if one || other {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody says that there are two machines of one name")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func TestAdmission(t *testing.T) {
	f := newFlock()
	f.enrol("a", key("a"))
	f.enrol("b", key("old"), key("new"))
	m := New(f.config(t, "a"))
	at := netip.MustParseAddrPort("10.0.0.2:7435")
	other := func(change func(*Config)) *serf.Member {
		c := m.Config
		c.Node, c.Key, c.Advertise = "b", key("new"), at
		if change != nil {
			change(&c)
		}
		return &serf.Member{Name: "b", Addr: net.ParseIP("10.0.0.2"), Port: 7435, Tags: New(c).tags(c.Boot)}
	}
	with := func(s *serf.Member, change func(*serf.Member)) *serf.Member { change(s); return s }
	tests := []struct {
		name   string
		member *serf.Member
		want   string // "" is let in
	}{
		{"the new key", other(nil), ""},
		{"the old key", other(func(c *Config) { c.Key = key("old") }), ""},
		{"a stranger's key", other(func(c *Config) { c.Key = key("x") }), "not the one that is enrolled"},
		{"another cluster", other(func(c *Config) { c.Cluster = "other" }), "not signed"},
		{"another place than was signed", other(func(c *Config) { c.Advertise = netip.MustParseAddrPort("10.0.0.3:7435") }), "not signed"},
		{"another life than was signed", with(other(nil), func(s *serf.Member) { s.Tags[tagBoot] = "9" }), "not signed"},
		{"another port than was signed", with(other(nil), func(s *serf.Member) { s.Tags[tagPort] = "9" }), "not signed"},
		{"another zone than was signed", with(other(nil), func(s *serf.Member) { s.Tags[tagZone] = "z" }), "not signed"},
		{"the tags of another node", with(other(nil), func(s *serf.Member) { s.Name = "a2" }), "not enrolled"},
		{"this node itself", &serf.Member{Name: "a", Addr: m.Advertise.Addr().AsSlice(), Port: m.Advertise.Port()}, ""},
		{"this node elsewhere, unsigned", &serf.Member{Name: "a", Addr: net.ParseIP("10.0.0.2"), Port: 7435}, "not the one that is enrolled"},
	}
	for _, tt := range tests {
		err := admission{m}.NotifyMerge([]*serf.Member{tt.member})
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	// A node's names and places are as long as they may be: Serf's tags still have room.
	c := m.Config
	c.Node, c.Zone, c.Boot = strings.Repeat("n", 253), strings.Repeat("z", 63), 1<<32
	size := 1
	for k, v := range New(c).tags(c.Boot) {
		size += len(k) + len(v) + 6
	}
	if size > 512 {
		t.Errorf("tags are %d bytes, Serf carries 512", size)
	}
}

func TestReadKeys(t *testing.T) {
	good := "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI="
	tests := []struct{ name, in, want string }{
		{"one", good + "\n", ""},
		{"two and a remark", "# of May\n" + good + "\n\n" + good + "\n", ""},
		{"none", "# nothing\n", "holds no key"},
		{"short", "MTIz\n", ":1: want 32 bytes, got 3"},
		{"no base64", good + "\n***\n", ":2: "},
	}
	for _, tt := range tests {
		path := filepath.Join(t.TempDir(), "keys")
		if err := os.WriteFile(path, []byte(tt.in), 0o600); err != nil {
			t.Fatal(err)
		}
		keys, err := ReadKeys(path)
		if tt.want == "" && (err != nil || len(keys) == 0) || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %d keys, %v; want %q", tt.name, len(keys), err, tt.want)
		}
	}
	if string(DeriveKey("1", "a")) == string(DeriveKey("1", "b")) || string(DeriveKey("1", "a")) == string(DeriveKey("2", "a")) {
		t.Error("two flocks have one key")
	}
}
