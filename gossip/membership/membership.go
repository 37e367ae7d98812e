// Package membership is who of the flock is there, by Serf: members, failures, and where each can be
// reached.
//
// Nothing is believed from it alone. Gossip is encrypted and labelled with the cluster's name, and a
// member counts only with a signature by a key that the config repository lists for its name; but
// whoever has the gossip key can still say of others that they failed. A failure therefore only begins a
// check (see package reconcile/gate), and what nodes tell of themselves travels in signed documents over
// the connections of package gossip/peer.
package membership

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"
	"golang.org/x/sync/errgroup"
)

// Config says who a node is and how it finds the others.
type Config struct {
	// Cluster is the cluster's name, Node this node's, Zone the one that it stands in, if any.
	Cluster, Node, Zone string
	// Boot is the node's boot counter.
	Boot int64
	// Key is this node's own; Keys returns those that are accepted for a node, none when it is not
	// enrolled. It is called from many goroutines, and must not call back.
	Key  ed25519.PrivateKey
	Keys func(node string) []ed25519.PublicKey
	// GossipKeys encrypt; the first is used to send. See [ReadKeys] and [DeriveKey].
	GossipKeys [][]byte
	// Bind is where to listen, UDP and TCP; Advertise is the address at which others reach it.
	Bind, Advertise netip.AddrPort
	// PeerPort is where the node's agent serves its peers, at Advertise's address.
	PeerPort uint16
	// Missing returns where to look for nodes of which Alive says that they are not there: host:port,
	// the most promising first. It is asked before each try.
	Missing func(alive func(node string) bool) []string
	// Log receives what happens; nil for nowhere.
	Log *slog.Logger
}

// Member is an enrolled node that Serf knows, and that proved to be it.
type Member struct {
	Name  string
	Alive bool           // by Serf: neither failed nor left
	Peer  netip.AddrPort // where its agent serves peers
	Zone  string
	Boot  int64 // the boot counter with which it joined
}

// Conflict says that another machine calls itself by this node's name, and has its key.
type Conflict struct {
	Here, There netip.AddrPort // this node, and the other machine
	At          time.Time      // when it was last heard of
}

// Membership is this node's part in the gossip. [Membership.Run] does the work.
type Membership struct {
	Config
	changed chan struct{} // buffered by one
	look    chan struct{} // buffered by one

	mu   sync.Mutex
	serf *serf.Serf // nil before Run and after it
	twin Conflict
	echo Conflict // the first word of this node's name at the place where it was last said to be
}

// New returns a node's membership. It starts nothing.
func New(c Config) *Membership {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Membership{Config: c, changed: make(chan struct{}, 1), look: make(chan struct{}, 1)}
}

// The pace at which missing nodes are looked for.
const (
	retryFirst = time.Second
	retryMost  = 10 * time.Second // what was cut off is found again within this
	knockTime  = 2 * time.Second  // until nobody is at an address
	lookWith   = 4                // addresses that are tried at a time while others are alive
	aloneWith  = 16               // the same while nobody is
)

// Run takes part until ctx ends, and looks for missing nodes all the while. It does not say good-bye:
// the node's pods go on without its agent, so that it has not left.
func (m *Membership) Run(ctx context.Context) error {
	events := make(chan serf.Event, 64)
	s, err := serf.Create(m.serfConfig(events))
	if err != nil {
		return fmt.Errorf("membership on %s: %w", m.Bind, err)
	}
	m.mu.Lock()
	m.serf = s
	m.mu.Unlock()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case e := <-events:
				if _, ok := e.(serf.MemberEvent); ok {
					poke(m.changed)
				}
			}
		}
	})
	group.Go(func() error { return m.join(ctx, s) })
	err = group.Wait()
	m.mu.Lock()
	m.serf = nil
	m.mu.Unlock()
	// Serf may wait to hand over an event.
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for {
			select {
			case <-events:
			case <-s.ShutdownCh():
				return
			}
		}
	}()
	err = errors.Join(err, s.Shutdown())
	<-drained
	return err
}

func (m *Membership) serfConfig(events chan<- serf.Event) *serf.Config {
	c := serf.DefaultConfig() // the pace of failure detection stays as it is: faster ones are wrong too often
	c.NodeName, c.EventCh, c.Tags = m.Node, events, m.tags(m.Boot)
	c.DisableCoordinates = true
	c.Merge = admission{m}
	// Serf's own resolution ends the membership of the one that most others do not know. Here a signed
	// document decides which machine the node is.
	c.EnableNameConflictResolution = false
	c.Logger = logger(m.Log)
	l := c.MemberlistConfig
	l.Label = label(m.Cluster)
	l.BindAddr, l.BindPort = m.Bind.Addr().String(), int(m.Bind.Port())
	l.AdvertiseAddr, l.AdvertisePort = m.Advertise.Addr().String(), int(m.Advertise.Port())
	l.Keyring = keyring(m.GossipKeys)
	// A node that comes back elsewhere is taken over from the one that failed.
	l.DeadNodeReclaimTime = 30 * time.Second
	l.Logger = c.Logger
	return c
}

// SetBoot tells of a new boot counter.
func (m *Membership) SetBoot(boot int64) error {
	m.mu.Lock()
	m.Boot = boot
	s := m.serf
	m.mu.Unlock()
	if s == nil {
		return nil
	}
	return s.SetTags(m.tags(boot)) // not with the lock held: Serf asks admission
}

func (m *Membership) boot() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.Boot
}

// Changed has an element when [Membership.Members] or [Membership.Conflict] may return something new.
func (m *Membership) Changed() <-chan struct{} { return m.changed }

// Refresh is to be called when the accepted nodes or their keys have changed.
func (m *Membership) Refresh() {
	poke(m.changed)
	poke(m.look)
}

// Members returns the members, without this node, sorted by name. Before Run and after it there are none.
func (m *Membership) Members() []Member {
	m.mu.Lock()
	s := m.serf
	m.mu.Unlock()
	if s == nil {
		return nil
	}
	var out []Member
	for _, member := range s.Members() {
		if member.Name == m.Node {
			continue
		}
		if i, err := m.identify(&member); err == nil {
			i.Alive = member.Status == serf.StatusAlive
			out = append(out, i)
		}
	}
	slices.SortFunc(out, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Conflict returns the conflict over this node's name that was seen in the last two minutes, if any.
func (m *Membership) Conflict(now time.Time) (Conflict, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.twin, m.twin.There.IsValid() && now.Sub(m.twin.At) < conflictLasts
}

const conflictLasts = 2 * time.Minute

// join looks for nodes that are missing, forever.
func (m *Membership) join(ctx context.Context, s *serf.Serf) error {
	jitter := rand.New(rand.NewPCG(uint64(m.boot()), rand.Uint64())) // nodes that start together do not look together
	retry := retryFirst
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-m.look:
			retry = retryFirst
		}
		alive := map[string]bool{}
		for _, member := range m.Members() {
			if member.Alive {
				alive[member.Name] = true
			}
		}
		addresses := m.Missing(func(node string) bool { return alive[node] })
		if len(addresses) == 0 {
			retry = retryFirst
		} else {
			m.try(ctx, s, addresses, len(alive) == 0, jitter)
		}
		timer.Reset(retry + time.Duration(jitter.Int64N(int64(retry)/4+1)))
		if len(addresses) > 0 {
			retry = min(2*retry, retryMost)
		}
	}
}

// try knocks at some addresses and joins where somebody opens. A node that is alone goes through the
// list in its order; one that is not looks for some of those that are missing.
func (m *Membership) try(ctx context.Context, s *serf.Serf, addresses []string, alone bool, jitter *rand.Rand) {
	most := aloneWith
	if !alone {
		most = lookWith
		addresses = slices.Clone(addresses)
		jitter.Shuffle(len(addresses), func(i, j int) { addresses[i], addresses[j] = addresses[j], addresses[i] })
	}
	var group errgroup.Group
	group.SetLimit(lookWith)
	for _, address := range addresses[:min(most, len(addresses))] {
		group.Go(func() error {
			found, err := knock(ctx, address)
			if err == nil {
				_, err = s.Join([]string{found}, true)
			}
			if err != nil {
				m.Log.Debug("nobody to join", "address", address, "err", err)
			}
			return nil
		})
	}
	_ = group.Wait() // none returns an error: the next round tries again
}

// knock returns the address of a host that accepts a connection.
func knock(ctx context.Context, address string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, knockTime)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	found := c.RemoteAddr().String()
	return found, c.Close()
}

func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is waiting already
	}
}

// label keeps flocks on one network apart; it is part of what the encryption authenticates.
func label(cluster string) string { return "pleach/" + cluster }

func keyring(keys [][]byte) *memberlist.Keyring {
	k, err := memberlist.NewKeyring(keys, keys[0])
	if err != nil {
		panic(err) // ReadKeys and DeriveKey return keys of the right length only
	}
	return k
}

func itoa[T uint16 | int64](n T) string { return strconv.FormatInt(int64(n), 10) }
