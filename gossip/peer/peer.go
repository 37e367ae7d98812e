// Package peer is the connections between the agents of a flock: HTTP/2 over TLS 1.3, where both
// sides show the key that the config repository enrolled them with.
//
// There is no certificate authority. A certificate is only the form that TLS wants a key in: what
// counts is that the key is among those that the accepted Node object of that name lists. Who is not
// enrolled gets nothing but a failed handshake, and who is enrolled and hostile finds bounds on
// connections, requests and memory; see the constants.
package peer

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Config says who a node is and whom it knows.
type Config struct {
	// Node is this node's name.
	Node string
	// Key is this node's own, of which the public half is enrolled.
	Key ed25519.PrivateKey
	// Keys returns the public keys that the accepted Node object of a name lists: two while one is
	// being replaced by the other, none when the node is not enrolled. It is called often, and from
	// many goroutines.
	Keys func(node string) []ed25519.PublicKey
	// Addresses returns where a node may be reached, as host:port, the best first.
	Addresses func(node string) []string
	// Log receives what happens; nil for nowhere.
	Log *slog.Logger
}

// Errors of requests to peers, for callers that must choose.
var (
	// ErrNotEnrolled means that the accepted state has no node of that name.
	ErrNotEnrolled = errors.New("the node is not enrolled")
	// ErrNoAddress means that nobody has told where the node is.
	ErrNoAddress = errors.New("no address of the node is known")
)

// Network is this node's connections to the others. It holds none before it is used.
type Network struct {
	Config
	certificate tls.Certificate
	transport   *http.Transport
	sent        atomic.Int64

	mu   sync.Mutex
	open map[string][]*conn // by node, oldest first; both those that came and those that were made
}

// New returns the network of a node. It starts nothing.
func New(c Config) *Network {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	n := &Network{Config: c, certificate: certificateOf(c.Node, c.Key), open: map[string][]*conn{}}
	n.transport = n.newTransport()
	return n
}

// Sent returns how many bytes were written to peers, encryption included.
func (n *Network) Sent() int64 { return n.sent.Load() }

// Refresh closes the connections of keys that are enrolled no more. Call it whenever what
// [Config.Keys] returns may have changed.
func (n *Network) Refresh() {
	n.mu.Lock()
	var ended []*conn
	for _, list := range n.open {
		for _, c := range list {
			if !n.enrolled(c.node, c.key) {
				ended = append(ended, c)
			}
		}
	}
	n.mu.Unlock()
	for _, c := range ended {
		n.Log.Info("a connection is closed: its key is not enrolled any more", "node", c.node)
		_ = c.Close() // the other end sees it either way
	}
}

// Close ends all connections. Requests under way fail.
func (n *Network) Close() {
	n.mu.Lock()
	var all []*conn
	for _, list := range n.open {
		all = append(all, list...)
	}
	n.mu.Unlock()
	for _, c := range all {
		_ = c.Close() // nobody waits for what it carries
	}
	n.transport.CloseIdleConnections()
}

// conn is a connection of a peer that has shown its key.
type conn struct {
	net.Conn
	network *Network
	node    string            // "" until the handshake is over
	key     ed25519.PublicKey // as shown
	once    sync.Once
}

// Write counts what is sent.
func (c *conn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.network.sent.Add(int64(n))
	return n, err
}

// Close takes the connection out of the list.
func (c *conn) Close() error {
	c.once.Do(func() {
		c.network.mu.Lock()
		defer c.network.mu.Unlock()
		list := slices.DeleteFunc(c.network.open[c.node], func(o *conn) bool { return o == c })
		if c.network.open[c.node] = list; len(list) == 0 {
			delete(c.network.open, c.node)
		}
	})
	return c.Conn.Close()
}

// admit takes a connection into the list once its peer is known. What is too much of one node ends
// with its oldest: that is the one that nothing may answer on any more.
func (n *Network) admit(c *conn, node string, key ed25519.PublicKey) error {
	n.mu.Lock()
	c.node, c.key = node, key
	list := append(n.open[node], c)
	n.open[node] = list
	var oldest *conn
	if len(list) > maxConnections {
		oldest = list[0]
	}
	n.mu.Unlock()
	if oldest != nil {
		_ = oldest.Close() // the other end sees it either way
	}
	// Whoever removed the key between the handshake and this moment did not see the connection.
	if !n.enrolled(node, key) {
		return errors.Join(fmt.Errorf("node %s: %w with this key", node, ErrNotEnrolled), c.Close())
	}
	return nil
}

// Bounds that keep a peer from exhausting this node.
const (
	maxConnections  = 8                // of one node, in both directions
	maxRequests     = 64               // of one node at a time
	maxHandshakes   = 64               // at a time
	maxHandshakesOf = 16               // at a time from one address
	handshakeTime   = 5 * time.Second  // for all of it
	idleTime        = 2 * time.Minute  // until a connection without requests is closed
	pingAfter       = 10 * time.Second // of silence while a request is under way
	pingTime        = 5 * time.Second  // until a connection that does not answer is closed
	maxHeader       = 16 << 10         // bytes
	dialTime        = 3 * time.Second  // for each address
	maxConcurrent   = 64               // streams of one connection
	streamWindow    = 256 << 10        // bytes of a request that are taken before they are asked for
	connWindow      = 1 << 20          // the same of all requests of a connection
)

// http2 are the settings of both sides.
func http2() *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams: maxConcurrent, StrictMaxConcurrentRequests: false,
		MaxReceiveBufferPerStream: streamWindow, MaxReceiveBufferPerConnection: connWindow,
		SendPingTimeout: pingAfter, PingTimeout: pingTime, WriteByteTimeout: pingAfter + pingTime,
	}
}

type contextKey struct{}

// From returns the name of the node that a request comes from: the one that the connection's key
// belongs to.
func From(r *http.Request) string {
	node, _ := r.Context().Value(contextKey{}).(string)
	return node
}

// WithPeer returns ctx as the context of a request from node, for tests of handlers.
func WithPeer(ctx context.Context, node string) context.Context {
	return context.WithValue(ctx, contextKey{}, node)
}
