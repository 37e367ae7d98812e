package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Client returns a client whose requests to https://<node>/… reach that node and no other. Connections
// are kept, and shared by all clients of the network. It sets no deadline for a whole request: that is
// the context's.
func (n *Network) Client(node string) *http.Client {
	return &http.Client{
		Transport:     only{n, node},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// only lets requests to one node pass.
type only struct {
	network *Network
	node    string
}

func (o only) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" || r.URL.Host != o.node {
		return nil, fmt.Errorf("%s is not at node %s", r.URL.Redacted(), o.node)
	}
	return o.network.transport.RoundTrip(r)
}

func (n *Network) newTransport() *http.Transport {
	return &http.Transport{
		DialTLSContext: func(ctx context.Context, _, hostPort string) (net.Conn, error) {
			node, _, err := net.SplitHostPort(hostPort)
			if err != nil {
				return nil, err
			}
			return n.dial(ctx, node)
		},
		ForceAttemptHTTP2: true, HTTP2: http2(), IdleConnTimeout: idleTime,
		// One carries everything; the other is for when its streams are all in use. Requests that begin
		// together wait for the first instead of making a connection each.
		MaxConnsPerHost: 2, MaxResponseHeaderBytes: maxHeader, DisableCompression: true,
	}
}

// dial tries a node's addresses in order.
func (n *Network) dial(ctx context.Context, node string) (net.Conn, error) {
	if len(n.Keys(node)) == 0 {
		return nil, fmt.Errorf("node %s: %w", node, ErrNotEnrolled)
	}
	addresses := n.Addresses(node)
	if len(addresses) == 0 {
		return nil, fmt.Errorf("node %s: %w", node, ErrNoAddress)
	}
	var errs []error
	for _, address := range addresses {
		c, err := n.dialAt(ctx, node, address)
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("node %s: %w", node, errors.Join(errs...))
}

func (n *Network) dialAt(ctx context.Context, node, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	secure, err := n.secure(ctx, raw, node)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", address, err)
	}
	return secure, nil
}

// secure makes a connection to a node of a plain one, which it closes when that does not succeed.
func (n *Network) secure(ctx context.Context, raw net.Conn, node string) (*tls.Conn, error) {
	c := &conn{Conn: raw, network: n}
	secure := tls.Client(c, n.tls(node))
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	_, key, err := n.identify(secure.ConnectionState())
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return secure, n.admit(c, node, key)
}

// Body reads the body of a request to its end, at most limit bytes and for at most 10 s. It has
// answered when ok is false.
func Body(w http.ResponseWriter, r *http.Request, limit int64) (body []byte, ok bool) {
	if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return nil, false
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		status := http.StatusBadRequest
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			status = http.StatusRequestEntityTooLarge
		}
		http.Error(w, err.Error(), status)
		return nil, false
	}
	return body, true
}

const bodyTime = 10 * time.Second
