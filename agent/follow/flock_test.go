package follow

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/agent/wake"
	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/state"
)

// world is a remote with one branch and a flock around it. Its heads are levels.
type world struct {
	mu    sync.Mutex
	head  int64
	reads []time.Time
	cut   map[string]bool // nodes that the remote does not answer
	bad   map[string]bool // nodes that hand out nothing that can be believed
	nodes map[string]*fakeNode
}

type fakeNode struct {
	*world
	name     string
	store    *state.Store
	follower *Follower
	hints    chan struct{}
	accepted *gitsync.Accepted
	at       map[int64]time.Time // level to when it was accepted
	err      string
	took     []string // "remote", or the peer that a head came from
}

func commitAt(level int64) reconcile.Commit {
	return reconcile.Commit{ID: fmt.Sprintf("%040x", level), Level: level}
}

func (n *fakeNode) Sync(context.Context) (*gitsync.Accepted, error) {
	time.Sleep(20 * time.Millisecond)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reads = append(n.reads, time.Now())
	if n.cut[n.name] {
		n.err = "cut off"
		return n.accepted, fmt.Errorf("read refs: %w", gitsync.ErrUnreachable)
	}
	n.err = ""
	n.acceptLocked(n.head, "remote")
	return n.accepted, nil
}

func (n *fakeNode) acceptLocked(level int64, from string) {
	if n.accepted != nil && n.accepted.Head.Level >= level {
		return
	}
	n.accepted = &gitsync.Accepted{Head: commitAt(level)}
	n.at[level] = time.Now()
	n.took = append(n.took, from)
	for _, other := range n.nodes { // as gossip brings it
		if other != n {
			time.AfterFunc(50*time.Millisecond, func() { other.follower.Look(commitAt(level), n.name) })
		}
	}
}

func (n *fakeNode) FollowPeer(ctx context.Context, peer gitsync.Peer, head string) (*gitsync.Accepted, error) {
	time.Sleep(10 * time.Millisecond)
	n.mu.Lock()
	defer n.mu.Unlock()
	from := n.nodes[peer.Node]
	if n.bad[peer.Node] {
		return n.accepted, &gitsync.PeerError{Node: peer.Node, Head: head, Reason: "garbage"}
	}
	if n.accepted == nil || from == nil || from.accepted == nil {
		return n.accepted, gitsync.ErrUnreachable
	}
	if _, has := from.at[levelOf(head)]; !has {
		return n.accepted, gitsync.ErrUnreachable
	}
	n.acceptLocked(levelOf(head), peer.Node)
	return n.accepted, ctx.Err()
}

func levelOf(id string) (level int64) {
	_, _ = fmt.Sscanf(id, "%x", &level)
	return level
}

func (n *fakeNode) Compare(heads []gitsync.PeerHead) (unknown []gitsync.PeerHead) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, h := range heads {
		if n.accepted != nil && h.Head.Level > n.accepted.Head.Level {
			unknown = append(unknown, h)
		}
	}
	return unknown
}

func (n *fakeNode) Accepted() *gitsync.Accepted {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.accepted
}

func (n *fakeNode) Remote() gitsync.Remote {
	n.mu.Lock()
	defer n.mu.Unlock()
	return gitsync.Remote{Err: n.err}
}

func (n *fakeNode) Synced(time.Duration, error) {}
func (n *fakeNode) Refused(int)                 {}

// publish keeps n's document with all others, as gossip does.
func (n *fakeNode) publish(ctx context.Context) {
	for ctx.Err() == nil {
		d := &reconcile.Document{Node: n.name, Conditions: n.follower.Conditions()}
		if a := n.Accepted(); a != nil {
			d.Head = a.Head
		}
		for _, other := range n.nodes {
			other.store.SetDocument(d)
		}
		wake.Sleep(ctx, 200*time.Millisecond)
	}
}

// run starts a flock of n nodes and calls f with it.
func run(t *testing.T, n int, f func(t *testing.T, w *world, nodes []*fakeNode)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{head: 1, cut: map[string]bool{}, bad: map[string]bool{}, nodes: map[string]*fakeNode{}}
		var all []*fakeNode
		for i := range n {
			node := &fakeNode{world: w, name: fmt.Sprintf("node-%d", i), store: state.New(), hints: make(chan struct{}, 1), at: map[int64]time.Time{}}
			node.follower = New(Config{
				Node: node.name, Syncer: node, Store: node.store, Interval: 5 * time.Second, Hints: node.hints,
				Peer: func(string) gitstore.Remote { return gitstore.Remote{} }, Metrics: node, Log: slog.New(slog.DiscardHandler),
			})
			w.nodes[node.name] = node
			all = append(all, node)
		}
		for _, node := range all {
			var members []state.Member
			for _, other := range all {
				if other != node {
					members = append(members, state.Member{Node: other.name, Standing: state.Alive})
				}
			}
			node.store.SetMembers(members)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for _, node := range all {
			group.Go(func() {
				if err := node.follower.Run(ctx); err != nil {
					t.Error(err)
				}
			})
			group.Go(func() { node.publish(ctx) })
		}
		time.Sleep(10 * time.Second)
		f(t, w, all)
		cancel()
		group.Wait()
		time.Sleep(time.Second) // timers of the gossip
	})
}

func (w *world) push() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.head++
	return w.head
}

// everywhere returns how long after since the last node had accepted level, and the first.
func everywhere(t *testing.T, nodes []*fakeNode, level int64, since time.Time) (first, last time.Duration) {
	t.Helper()
	first = time.Hour
	for _, n := range nodes {
		n.mu.Lock()
		at, ok := n.at[level]
		n.mu.Unlock()
		if !ok {
			t.Errorf("%s has not accepted %d", n.name, level)
			continue
		}
		first, last = min(first, at.Sub(since)), max(last, at.Sub(since))
	}
	return first, last
}

func (w *world) readsSince(at time.Time) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.reads {
		if !r.Before(at) {
			n++
		}
	}
	return n
}

// The remote is read less than once a second whatever is pushed, one node fetches a new head from it and
// the others from that one, and the more nodes there are the sooner it is seen.
func TestFlockFollows(t *testing.T) {
	for _, n := range []int{1, 3, 20} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			run(t, n, func(t *testing.T, w *world, nodes []*fakeNode) {
				begin := time.Now()
				var worst, spread time.Duration
				const pushes = 12
				for range pushes {
					at := time.Now()
					level := w.push()
					time.Sleep(11300 * time.Millisecond)
					first, last := everywhere(t, nodes, level, at)
					worst, spread = max(worst, last), max(spread, last-first)
				}
				seconds := time.Since(begin).Seconds()
				rate := float64(w.readsSince(begin)) / seconds
				t.Logf("%d nodes: %.2f reads a second, a push is everywhere after %v at most, %v after the first", n, rate, worst, spread)
				if rate > 0.81 {
					t.Errorf("%.2f reads a second", rate)
				}
				if limit := period(5*time.Second, n) + 500*time.Millisecond; worst > limit {
					t.Errorf("a push was everywhere after %v, want %v", worst, limit)
				}
				if spread > 500*time.Millisecond {
					t.Errorf("the last node was %v behind the first", spread)
				}
				remote := 0
				for _, node := range nodes {
					for _, from := range node.took {
						if from == "remote" {
							remote++
						}
					}
				}
				if most := pushes + n; remote > most+pushes/5 { // each node begins with the remote
					t.Errorf("%d heads were fetched from the remote for %d pushes", remote, pushes)
				}
			})
		})
	}
}

// A hint at any node reaches all.
func TestHintReachesAll(t *testing.T) {
	run(t, 20, func(t *testing.T, w *world, nodes []*fakeNode) {
		time.Sleep(100 * time.Millisecond)
		at := time.Now()
		level := w.push()
		nodes[7].hints <- struct{}{}
		time.Sleep(500 * time.Millisecond)
		everywhere(t, nodes, level, at)
		before := time.Now()
		for range 600 { // somebody floods a node with hints
			select {
			case nodes[3].hints <- struct{}{}:
			default:
			}
			time.Sleep(100 * time.Millisecond)
		}
		if got := w.readsSince(before); got > 48+60+hintsBurst+5 {
			t.Errorf("%d reads in a minute of hints", got)
		}
	})
}

// Nodes that the remote does not answer follow their peers and take no turns; when it answers nobody, it
// is not asked more often than before; and what was pushed meanwhile is seen when it is back.
func TestCutOff(t *testing.T) {
	run(t, 5, func(t *testing.T, w *world, nodes []*fakeNode) {
		w.mu.Lock()
		w.cut[nodes[0].name], w.cut[nodes[1].name] = true, true
		w.mu.Unlock()
		time.Sleep(time.Minute)
		for _, n := range nodes {
			conditions := n.follower.Conditions()
			if lame := len(conditions) == 1 && conditions[0].Type == RemoteReachable && conditions[0].Status == corev1.ConditionFalse; lame != w.cut[n.name] {
				t.Errorf("%s: cut off %v, says %v", n.name, w.cut[n.name], conditions)
			}
		}
		for range 10 {
			at := time.Now()
			level := w.push()
			time.Sleep(5 * time.Second)
			if _, last := everywhere(t, nodes, level, at); last > 2*time.Second {
				t.Errorf("with two cut off a push is everywhere after %v", last)
			}
		}
		w.mu.Lock()
		for _, n := range nodes {
			w.cut[n.name] = true
		}
		w.mu.Unlock()
		away := time.Now()
		level := w.push()
		time.Sleep(10 * time.Minute)
		if rate := float64(w.readsSince(away)) / 600; rate > 0.81 {
			t.Errorf("a remote that is away is asked %.2f times a second", rate)
		}
		w.mu.Lock()
		clear(w.cut)
		w.mu.Unlock()
		back := time.Now()
		time.Sleep(2 * time.Minute)
		if _, last := everywhere(t, nodes, level, back); last > time.Minute {
			t.Errorf("what was pushed meanwhile is everywhere after %v", last)
		}
		for _, n := range nodes {
			if c := n.follower.Conditions(); len(c) != 0 {
				t.Errorf("%s still says %v", n.name, c)
			}
		}
	})
}

// A peer that lies, or makes up heads, delays nobody for long and does not make the flock flood the remote.
func TestLyingPeer(t *testing.T) {
	run(t, 8, func(t *testing.T, w *world, nodes []*fakeNode) {
		w.mu.Lock()
		w.bad[nodes[0].name] = true
		w.mu.Unlock()
		at := time.Now()
		level := w.push()
		nodes[0].hints <- struct{}{} // the liar is the first to have it
		time.Sleep(30 * time.Second)
		if _, last := everywhere(t, nodes, level, at); last > 5*time.Second {
			t.Errorf("everywhere after %v", last)
		}
		begin := time.Now()
		for i := range int64(120) { // heads that do not exist
			for _, n := range nodes[1:] {
				n.follower.Look(commitAt(1_000_000+i), nodes[0].name)
			}
			time.Sleep(time.Second)
		}
		if rate := float64(w.readsSince(begin)) / 120; rate > 1.7 {
			t.Errorf("made-up heads cause %.2f reads a second", rate)
		}
		begin = time.Now()
		time.Sleep(11 * time.Minute)
		if rate := float64(w.readsSince(begin)) / 660; rate > 1.7 {
			t.Errorf("made-up heads cause %.2f reads a second later on", rate)
		}
	})
}
