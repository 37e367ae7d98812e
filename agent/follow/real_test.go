package follow_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pleachdev/pleach/agent/follow"
	"github.com/pleachdev/pleach/e2e/lab"
	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/gitsync/repository"
	"github.com/pleachdev/pleach/gitsync/trust"
	"github.com/pleachdev/pleach/gossip/peer"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/state"
)

// member is a node as far as it follows: real Git, real connections to its peers, and documents that are
// handed over by the test.
type member struct {
	name     string
	dir      string
	key      *trust.SigningKey
	store    *state.Store
	syncer   *gitsync.Syncer
	follower *follow.Follower
	network  *peer.Network
	address  string
	down     atomic.Bool // the remote does not answer this node
	packs    atomic.Int64
	reads    atomic.Int64
}

type silent struct{}

func (silent) Synced(time.Duration, error) {}
func (silent) Refused(int)                 {}

// Three nodes over real connections: one fetches a push from the remote and the others from it; a node
// that the remote does not answer follows its peers and says so; the remote is read less than once a second.
func TestRealFlock(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for turns, about half a minute")
	}
	l := lab.New(t)
	g, err := l.GitServer()
	check(t, err)
	check(t, g.Create(t.Context(), "flock"))
	owner, err := lab.NewKey(t.Context(), l.Dir, "ada@example.org")
	check(t, err)
	user, err := repository.UserKey(owner.File)
	check(t, err)
	defer func() { _ = user.Close() }() // the test is over
	who := repository.User{Name: "Ada", Mail: "ada@example.org", Key: user}

	var members []*member
	byName := map[string]*member{}
	for i := range 3 {
		m := &member{name: fmt.Sprint("node-", i), store: state.New(), dir: t.TempDir()}
		m.key, err = trust.LoadOrCreateKey(filepath.Join(m.dir, repository.NodeKeyFile), m.name)
		check(t, err)
		members, byName[m.name] = append(members, m), m
	}
	dir := filepath.Join(l.Dir, "config")
	options := func(m *member) repository.NodeOptions {
		return repository.NodeOptions{Name: m.name, AgentDir: m.dir}
	}
	first, err := repository.Init(dir, repository.InitOptions{ClusterName: "test", Node: options(members[0]), User: who})
	check(t, err)
	for _, m := range members[1:] {
		_, err := repository.AddNode(dir, options(m), repository.Change{User: who})
		check(t, err)
	}
	repo := l.OpenRepo(t, owner, dir)
	repo.Git("remote", "add", "origin", g.URL("flock"))
	repo.Push()

	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	defer func() { cancel(); group.Wait() }()
	for _, m := range members {
		m.open(t, g.URL("flock"), first, byName)
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		check(t, err)
		m.address = listener.Addr().String()
		mux := http.NewServeMux()
		mux.Handle("/git/", http.StripPrefix("/git", m.syncer.Server(slog.New(slog.DiscardHandler))))
		group.Go(func() { _ = m.network.Serve(ctx, listener, mux) }) // ends with ctx
	}
	for _, m := range members {
		var others []state.Member
		for _, o := range members {
			if o != m {
				others = append(others, state.Member{Node: o.name, Standing: state.Alive})
			}
		}
		m.store.SetMembers(others)
		group.Go(func() { _ = m.follower.Run(ctx) })
		group.Go(func() { m.gossip(ctx, members) })
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(90 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				for _, m := range members {
					t.Logf("%s: %+v", m.name, m.syncer.Remote())
				}
				t.Fatalf("not within 90 s: %s", what)
			}
		}
	}
	everywhere := func(head string) {
		t.Helper()
		until("commit "+head+" is accepted by all", func() bool {
			for _, m := range members {
				if a := m.syncer.Accepted(); a == nil || a.Head.ID != head {
					return false
				}
			}
			return true
		})
	}
	push := func(text string) string {
		repo.Write("notes/"+text, text)
		head := repo.Commit(text)
		repo.Push()
		return head
	}
	count := func(of func(*member) *atomic.Int64) (n int64) {
		for _, m := range members {
			n += of(m).Load()
		}
		return n
	}
	packs := func() int64 { return count(func(m *member) *atomic.Int64 { return &m.packs }) }
	reads := func() int64 { return count(func(m *member) *atomic.Int64 { return &m.reads }) }
	everywhere(repo.Head())

	begin, packsBefore, readsBefore := time.Now(), packs(), reads()
	const pushes = 5
	for i := range pushes {
		everywhere(push(fmt.Sprint("push-", i)))
	}
	fetched, read, seconds := packs()-packsBefore, reads()-readsBefore, time.Since(begin).Seconds()
	t.Logf("%d reads in %.1f s, %d packs for %d pushes", read, seconds, fetched, pushes)
	if fetched > pushes+1 { // two may look at the same moment
		t.Errorf("%d packs were fetched from the remote for %d pushes", fetched, pushes)
	}
	if float64(read) > seconds+3 {
		t.Errorf("%d reads in %.1f s", read, seconds)
	}

	members[2].down.Store(true)
	until("node-2 finds out that it is cut off", func() bool { return len(members[2].follower.Conditions()) > 0 })
	until("node-0 has heard of it", func() bool { return len(members[0].store.Snapshot().Document("node-2").Conditions) > 0 })
	everywhere(push("while-cut-off"))
	if r := members[2].syncer.Remote(); r.PeersSince.IsZero() || r.Err == "" {
		t.Errorf("node-2 follows its peers and says %+v", r)
	}
	if a, c := members[0].follower.CourierRank(), members[2].follower.CourierRank(); a > 1 || c != 2 {
		t.Errorf("courier ranks of node-0 and node-2 are %d and %d: want the one that is cut off last", a, c)
	}
	members[2].down.Store(false)
	until("node-2 follows the remote again", func() bool { return members[2].syncer.Remote().PeersSince.IsZero() })
}

// open makes what m follows with. Its way to the remote counts, and can be cut.
func (m *member) open(t *testing.T, remote, introduction string, all map[string]*member) {
	t.Helper()
	target, err := url.Parse(remote)
	check(t, err)
	proxy := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.Out.URL.Scheme, p.Out.URL.Host = target.Scheme, target.Host
	}}
	way := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.down.Load() {
			http.Error(w, "cut", http.StatusBadGateway)
			return
		}
		// Looks are of protocol version 2, packs of version 0.
		if r.Method == http.MethodPost && r.Header.Get("Git-Protocol") == "" {
			m.packs.Add(1)
		} else {
			m.reads.Add(1)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(way.Close)
	m.syncer, err = gitsync.Open(t.Context(), gitsync.Config{
		Dir: t.TempDir(), Remote: gitstore.Remote{URL: way.URL + target.Path}, Branch: "main", Introduction: introduction,
	})
	check(t, err)
	t.Cleanup(func() { _ = m.syncer.Close() }) // the test is over
	m.network = peer.New(peer.Config{
		Node: m.name, Key: m.key.Ed25519(),
		Keys: func(node string) []ed25519.PublicKey {
			return []ed25519.PublicKey{all[node].key.Ed25519().Public().(ed25519.PublicKey)}
		},
		Addresses: func(node string) []string { return []string{all[node].address} },
	})
	t.Cleanup(m.network.Close)
	m.follower = follow.New(follow.Config{
		Node: m.name, Syncer: m.syncer, Store: m.store, Interval: 5 * time.Second,
		Peer: func(node string) gitstore.Remote {
			return gitstore.Remote{URL: "https://" + node + "/git", Client: m.network.Client(node)}
		},
		Metrics: silent{}, Log: slog.New(slog.DiscardHandler),
	})
}

// gossip hands m's document and its news of heads to the others.
func (m *member) gossip(ctx context.Context, all []*member) {
	told := ""
	for ctx.Err() == nil {
		d := &reconcile.Document{Node: m.name, Conditions: m.follower.Conditions()}
		if a := m.syncer.Accepted(); a != nil {
			d.Head = a.Head
		}
		for _, o := range all {
			if o != m && d.Head.ID != told {
				o.follower.Look(d.Head, m.name)
			}
			o.store.SetDocument(d)
		}
		told = d.Head.ID
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
