package agent

import (
	"crypto/ed25519"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/trust"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
	"github.com/pleachdev/pleach/gossip/membership"
)

// book is what this node knows of how to reach the others, and by which keys it knows them. The keys
// are the accepted commit's; the places are from wherever they were heard, as a key is asked for there.
type book struct {
	self string

	mu      sync.Mutex
	keys    map[string][]ed25519.PublicKey
	written map[string]string         // address in Git, host[:port]
	told    map[string]netip.AddrPort // by membership, signed by the node
	last    map[string]netip.AddrPort // the same of the agent before this one
}

func newBook(self string) *book {
	return &book{
		self: self, keys: map[string][]ed25519.PublicKey{}, written: map[string]string{},
		told: map[string]netip.AddrPort{}, last: map[string]netip.AddrPort{},
	}
}

// accept takes in the accepted nodes and returns their names, sorted, and their keys, which nobody changes.
func (b *book) accept(a *gitsync.Accepted) ([]string, map[string][]ed25519.PublicKey) {
	keys, written, names := map[string][]ed25519.PublicKey{}, map[string]string{}, make([]string, 0, len(a.Nodes))
	for _, n := range a.Nodes {
		names = append(names, n.Name)
		keys[n.Name] = trust.Ed25519Keys(n.Annotations[v1alpha1.NodeKeyAnnotation])
		if at := n.Annotations[v1alpha1.AddressAnnotation]; at != "" {
			written[n.Name] = at
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keys, b.written = keys, written
	return names, keys
}

// Keys returns the accepted keys of a node.
func (b *book) Keys(node string) []ed25519.PublicKey {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.keys[node]
}

// meet takes in where members are.
func (b *book) meet(members []membership.Member) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range members {
		if m.Alive {
			b.told[m.Name] = m.Peer
		}
	}
}

// Addresses returns where the agent of a node may be reached, the best first.
func (b *book) Addresses(node string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.addressesLocked(node)
}

func (b *book) addressesLocked(node string) []string {
	var out []string
	add := func(at string) {
		if !slices.Contains(out, at) {
			out = append(out, at)
		}
	}
	if at, ok := b.told[node]; ok {
		add(at.String())
	}
	if at := b.written[node]; at != "" {
		add(withPort(at))
	}
	if at, ok := b.last[node]; ok {
		add(at.String())
	}
	return out
}

// missing returns where to look for nodes that are not there: what Git says first, then where they were
// last, then the addresses of the command line.
func (b *book) missing(alive func(node string) bool, join []string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var written, last []string
	all := true
	for node := range b.keys {
		if node == b.self || alive(node) {
			continue
		}
		all = false
		if at := b.written[node]; at != "" {
			written = append(written, gossipAddress(withPort(at)))
		}
		for _, at := range []netip.AddrPort{b.told[node], b.last[node]} {
			if at.IsValid() {
				last = append(last, gossipAddress(at.String()))
			}
		}
	}
	if all {
		return nil
	}
	slices.Sort(written)
	slices.Sort(last)
	var given []string
	for _, at := range join {
		given = append(given, gossipAddress(withPort(at)))
	}
	var out []string
	for _, at := range slices.Concat(written, last, given) {
		if !slices.Contains(out, at) {
			out = append(out, at)
		}
	}
	return out
}

// places returns where members were last, for the next agent.
func (b *book) places() map[string]netip.AddrPort {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := map[string]netip.AddrPort{}
	for node := range b.keys {
		if at, ok := b.told[node]; ok {
			out[node] = at
		} else if at, ok := b.last[node]; ok {
			out[node] = at
		}
	}
	return out
}

// recall takes in where nodes were once, unless something better is known of them.
func (b *book) recall(places map[string]netip.AddrPort) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for node, at := range places {
		if _, ok := b.last[node]; !ok {
			b.last[node] = at
		}
	}
}

// withPort adds the default port where none is given: to a name, an IPv4 or an IPv6 address.
func withPort(at string) string {
	if _, _, err := net.SplitHostPort(at); err == nil {
		return at
	}
	return net.JoinHostPort(strings.Trim(at, "[]"), strconv.Itoa(defaultPeerPort))
}

// gossipAddress is where Serf listens beside an agent: the next port.
func gossipAddress(at string) string {
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		return at
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return at
	}
	return net.JoinHostPort(host, strconv.FormatUint(n+1, 10))
}
