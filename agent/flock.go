package agent

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/agent/wake"
	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gossip"
	"github.com/pleachdev/pleach/gossip/membership"
	"github.com/pleachdev/pleach/gossip/peer"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/reconcile/gate"
	"github.com/pleachdev/pleach/state"
)

// flock is this node's part among the others: it tells them of itself, hears of them, and knows who is
// there. One goroutine, drive, takes all steps of gossip and of the gate; everything else hands it events
// and carries out what it asks for. While the node is the only one that is enrolled, nothing of it is on
// the network.
type flock struct {
	*node
	book   *book
	peers  *peer.Network
	mux    *http.ServeMux // what peers may ask; parts of the agent add theirs before run
	events chan any       // a gossip.Event, a gate.Event, or a func() for drive to call
	outbox *outbox
	bounds limits // of what each peer may send

	number     atomic.Int64            // the boot counter
	answered   chan []reconcile.Answer // to this node's questions, for the decider
	questioned chan asked              // of other nodes, for the decider
	last       chan gossip.Sealed      // document of this agent, which is asked to end; buffered by one
	planned    time.Duration           // how long this node is away when its agent is asked to end; 0: it does not say

	// Of drive alone.
	spread   gossip.State
	watch    gate.State
	members  *membership.Membership // nil while the node is alone
	enrolled []string
	alive    int             // members, without this node
	met      map[string]bool // members that were greeted
	left     *gate.Durable   // of the agent before; nil when it left nothing
	keep     keeper
	waiting  map[question][]chan<- gate.Answer // witnesses' questions that wait for an answer of the gate
	heardAt  map[string]time.Time              // when the newest document of each node came
	stale    bool                              // what show last showed
	fresh    bool                              // the decider is to look again
	shown    time.Time

	mu   sync.Mutex
	view view
	news chan struct{} // buffered by one

	decoded   map[string]*heard // of the decider alone
	lastKnown [][]byte          // documents that the agent before left; fixed after load
}

// view is what drive has last found out.
type view struct {
	documents []gossip.Sealed // that count, sorted by node, this node's own included
	enrolled  []string
	states    map[string]gate.View
	members   int // that are alive, this node included
	contested bool
	frozen    string // why nothing is moved from lost nodes; "" when it may be
}

// question is what a witness is asked, and by whom.
type question struct{ by, about string }

func newFlock(n *node) *flock {
	f := &flock{
		node: n, book: newBook(n.Node), mux: http.NewServeMux(), events: make(chan any, 256), bounds: newLimits(),
		answered: make(chan []reconcile.Answer, 64), questioned: make(chan asked), last: make(chan gossip.Sealed, 1), planned: backWithin,
		waiting: map[question][]chan<- gate.Answer{}, heardAt: map[string]time.Time{}, decoded: map[string]*heard{}, news: make(chan struct{}, 1),
	}
	f.number.Store(n.boot)
	f.peers = peer.New(peer.Config{
		Node: n.Node, Key: n.signer.Ed25519(), Keys: f.book.Keys, Addresses: f.book.Addresses, Log: n.Log.With("part", "peers"),
	})
	f.outbox = newOutbox(f)
	f.serveGossip()
	f.load()
	return f
}

// run takes part until ctx ends, and then says when this node means to be back. Its pods go on.
func (f *flock) run(ctx context.Context) error {
	group, live := errgroup.WithContext(context.WithoutCancel(ctx))
	live, end := context.WithCancel(live)
	f.outbox.group, f.outbox.ctx = group, live
	joined := make(chan *membership.Membership, 1)
	group.Go(func() error { return f.follow(live, joined) })
	group.Go(func() error { return f.drive(live, joined) })
	group.Go(func() error {
		defer end()
		f.takeLeave(ctx, live)
		return nil
	})
	err := group.Wait()
	f.peers.Close()
	return err
}

// follow tells drive of what is accepted, and goes on the network as soon as it has others.
func (f *flock) follow(ctx context.Context, joined chan<- *membership.Membership) error {
	group, ctx := errgroup.WithContext(ctx)
	defer group.Wait() //nolint:errcheck // its only error is that ctx ended, or is returned below
	var members *membership.Membership
	var last *gitsync.Accepted
	for {
		snapshot := f.store.Snapshot()
		if a := snapshot.Accepted(); a != nil && a != last {
			before := last
			last = a
			names, keys := f.book.accept(a)
			f.peers.Refresh()
			if members != nil {
				members.Refresh()
			}
			f.tell(ctx, func() { f.enrol(ctx, gossip.Enrolled{Names: names, Keys: keys}, a.Head) })
			if released(before, a) {
				f.Log.Warn("a commit lets slots move although many nodes vanished at once", "commit", a.Head.ID)
				f.tell(ctx, gate.Release{})
			}
			if members == nil && f.inFlock(names) {
				members = f.membership(a)
				group.Go(func() error { return f.online(ctx, members) })
				group.Go(func() error { return f.recall(ctx) })
				joined <- members
			}
		}
		if err := snapshot.Wait(ctx, state.Accepted); err != nil {
			return quietly(ctx, err)
		}
	}
}

// inFlock reports whether this node and another are enrolled.
func (f *flock) inFlock(names []string) bool { return len(names) > 1 && slices.Contains(names, f.Node) }

// membership returns the membership of this node, which a enrols, to be run.
func (f *flock) membership(a *gitsync.Accepted) *membership.Membership {
	keys := f.gossipKeys
	if keys == nil {
		keys = [][]byte{membership.DeriveKey(f.Introduction, a.Cluster.Name)}
	}
	return membership.New(membership.Config{
		Cluster: a.Cluster.Name, Node: f.Node, Zone: enrolledNode(a, f.Node).Labels[corev1.LabelTopologyZone], Boot: f.number.Load(),
		Key: f.signer.Ed25519(), Keys: f.book.Keys, GossipKeys: keys,
		Bind: next(f.peerBind), Advertise: next(f.advertise), PeerPort: f.advertise.Port(),
		Missing: func(alive func(string) bool) []string { return f.book.missing(alive, f.Join) },
		Log:     f.Log.With("part", "membership"),
	})
}

// next is the same address at the next port.
func next(at netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(at.Addr(), at.Port()+1) }

// online serves the peers and takes part in membership until ctx ends. A port that is taken may be
// free later: nothing that runs depends on it.
func (f *flock) online(ctx context.Context, members *membership.Membership) error {
	group, ctx := errgroup.WithContext(ctx)
	again := func(what string, work func() error) {
		group.Go(func() error {
			for wait := time.Second; ; wait = min(2*wait, time.Minute) {
				err := work()
				if ctx.Err() != nil {
					return nil //nolint:nilerr // the agent ends, and so did the work
				}
				f.Log.Error("this node is cut off from its flock; what runs goes on", "what", what, "err", err, "retryIn", wait)
				f.happened("FlockUnreachable", fmt.Sprintf("%s: %v", what, err))
				if !wake.Sleep(ctx, wait) {
					return nil
				}
			}
		})
	}
	if !f.advertise.Addr().IsValid() {
		return errors.New("this machine has no address that others could reach; name one with --advertise")
	}
	again("serving peers", func() error {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", f.peerBind.String())
		if err != nil {
			return fmt.Errorf("--peer-listen: %w", err)
		}
		return f.peers.Serve(ctx, l, f.mux)
	})
	again("membership", func() error { return members.Run(ctx) })
	return group.Wait()
}

// tell hands an event to drive; it waits while drive has many.
func (f *flock) tell(ctx context.Context, e any) {
	select {
	case f.events <- e:
	case <-ctx.Done():
	}
}

// drive takes one step after the other until ctx ends.
func (f *flock) drive(ctx context.Context, joined <-chan *membership.Membership) error {
	seed := fnv.New64a()
	_, _ = seed.Write([]byte(f.Node))
	f.spread = gossip.NewState(f.Node, seed.Sum64()^rand.Uint64()) // which peers it chooses is nobody's to foresee
	f.watch = gate.NewState(f.Node, f.left, time.Now())
	timer := time.NewTimer(0)
	defer timer.Stop()
	var changed <-chan struct{}
	for {
		select {
		case <-ctx.Done():
			return f.save(time.Now())
		case e := <-f.events:
			f.take(ctx, e)
			for range len(f.events) { // shown together: where many nodes are in doubt at once, many events come
				f.take(ctx, <-f.events)
			}
		case f.members = <-joined:
			changed = f.members.Changed()
		case <-changed:
			f.meet(ctx)
		case <-timer.C:
			f.take(ctx, gossip.Tick{})
			f.take(ctx, gate.Tick{})
		}
		f.show(time.Now())
		if f.members == nil {
			continue // nobody to wait for
		}
		f.saveNow(time.Now())
		due := f.spread.Wake()
		if w := f.watch.Wake(); !w.IsZero() && w.Before(due) {
			due = w
		}
		timer.Reset(max(time.Until(due), time.Millisecond))
	}
}

// take is one step, and what follows from it.
func (f *flock) take(ctx context.Context, e any) {
	now := time.Now()
	switch e := e.(type) {
	case func():
		e()
	case exchange:
		e.answer <- f.receive(ctx, e.Receive, now) // buffered by one
	case gossip.Receive:
		for _, m := range f.receive(ctx, e, now) {
			f.outbox.send(e.From, m)
		}
	case gossip.Event:
		var effects []gossip.Effect
		f.spread, effects = gossip.Step(f.spread, e, now)
		for _, x := range effects {
			f.gossiped(x)
		}
	case gate.Event:
		var effects []gate.Effect
		f.watch, effects = gate.Step(f.watch, e, now)
		if _, tick := e.(gate.Tick); !tick || len(effects) > 0 || now.Sub(f.shown) > time.Second {
			f.stale = true
		}
		for _, x := range effects {
			f.gated(ctx, x)
		}
	}
}

// exchange is a message of a peer that waits for what there is to say to it.
type exchange struct {
	gossip.Receive
	answer chan<- []gossip.Message
}

// receive takes in a message of a peer and returns what is to be said to it. That goes back over the same
// connection where there is one: of two machines with one name the other is reached at the address that
// everybody knows, and this one would never hear of it.
func (f *flock) receive(ctx context.Context, r gossip.Receive, now time.Time) []gossip.Message {
	var effects []gossip.Effect
	f.spread, effects = gossip.Step(f.spread, r, now)
	var answer []gossip.Message
	for _, x := range effects {
		if send, ok := x.(gossip.Send); ok && send.To == r.From {
			answer = append(answer, send.Message)
			continue
		}
		f.gossiped(x)
	}
	for _, d := range r.Message.Documents {
		if d.Node == r.From {
			f.take(ctx, gate.HandedOver{Node: d.Node})
		}
	}
	return answer
}

// enrol takes in the nodes of a newly accepted commit.
func (f *flock) enrol(ctx context.Context, nodes gossip.Enrolled, head reconcile.Commit) {
	f.enrolled, f.stale = nodes.Names, true
	f.take(ctx, nodes)
	f.take(ctx, gate.Enrolled{Names: nodes.Names})
	f.take(ctx, gossip.Verified{Head: head})
	if f.members != nil {
		f.meet(ctx) // membership may know those already that were enrolled just now
	}
}

// meet takes in what membership says.
func (f *flock) meet(ctx context.Context) {
	members := f.members.Members()
	f.book.meet(members)
	var alive, failed []string
	for _, m := range members {
		if m.Alive {
			alive = append(alive, m.Name)
		} else {
			failed = append(failed, m.Name)
		}
	}
	f.greet(alive)
	f.alive, f.stale = len(alive), true
	f.take(ctx, gossip.Members{Names: alive})
	f.take(ctx, gate.Members{Alive: alive, Failed: failed})
	if c, ok := f.members.Conflict(time.Now()); ok {
		f.happened("NameConflict", fmt.Sprintf("another machine, at %s, calls itself by this node's name and has its key", c.There))
	}
}

// greet hands this node's document straight to members that were not there before: to be heard of by
// comparison would take them seconds, in which they may claim nothing.
func (f *flock) greet(alive []string) {
	own, ok := f.spread.Document(f.Node)
	met := make(map[string]bool, len(alive))
	greeted := 0
	for _, node := range alive {
		met[node] = true
		if ok && !f.met[node] && greeted < maxGreeted {
			f.outbox.send(node, gossip.Message{Documents: []gossip.Sealed{own}})
			greeted++
		}
	}
	if ok { // before that, the first document is announced when it is there
		f.met = met
	}
}

const maxGreeted = 16 // at a time: a large flock that starts at once compares instead

// happened records an event about this node.
func (f *flock) happened(reason, message string) {
	f.store.Record(state.Happening{
		Object: corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: f.Node},
		Type:   corev1.EventTypeWarning, Reason: reason, Message: message, Host: f.Node, At: time.Now(),
	})
}
