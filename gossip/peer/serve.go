package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Serve answers peers on l with h until ctx ends, or l breaks; it closes l. A request carries the name
// of its node; see [From]. Requests under way are cut off at the end.
func (n *Network) Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	group, ctx := errgroup.WithContext(ctx)
	ready := &handshaken{address: l.Addr(), conns: make(chan net.Conn), done: make(chan struct{})}
	server := &http.Server{
		Handler: n.bounded(h), HTTP2: http2(), MaxHeaderBytes: maxHeader,
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: idleTime,
		ErrorLog:    slog.NewLogLogger(n.Log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if secure, ok := c.(*tls.Conn); ok {
				if own, ok := secure.NetConn().(*conn); ok {
					return WithPeer(ctx, own.node)
				}
			}
			return ctx
		},
	}
	group.Go(func() error {
		if err := server.Serve(ready); ctx.Err() == nil {
			return fmt.Errorf("serve peers on %s: %w", l.Addr(), err)
		}
		return nil
	})
	group.Go(func() error { return n.accept(ctx, l, ready) })
	group.Go(func() error {
		<-ctx.Done()
		return errors.Join(ignoreClosed(l.Close()), ignoreClosed(server.Close()))
	})
	return group.Wait()
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// accept takes connections and passes on those whose peer is enrolled. Handshakes cost a signature
// each and anybody may begin one, so there are only so many at a time.
func (n *Network) accept(ctx context.Context, l net.Listener, ready *handshaken) error {
	var wait sync.WaitGroup
	defer wait.Wait()
	var mu sync.Mutex
	total, by := 0, map[string]int{}
	begin := func(host string) bool {
		mu.Lock()
		defer mu.Unlock()
		if total >= maxHandshakes || by[host] >= maxHandshakesOf {
			return false
		}
		total++
		by[host]++
		return true
	}
	end := func(host string) {
		mu.Lock()
		defer mu.Unlock()
		total--
		if by[host]--; by[host] == 0 {
			delete(by, host)
		}
	}
	pause := 5 * time.Millisecond
	for {
		raw, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if raw != nil {
				_ = raw.Close() // nobody is there to serve it
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept peers on %s: %w", l.Addr(), err)
		case err != nil: // out of file descriptors, most likely: what is open goes on
			n.Log.Warn("no connection of a peer can be accepted", "err", err, "retryIn", pause)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, time.Second)
			continue
		}
		pause = 5 * time.Millisecond
		host, _, err := net.SplitHostPort(raw.RemoteAddr().String())
		if err != nil || !begin(host) {
			_ = raw.Close() // whoever is enrolled tries again
			continue
		}
		wait.Go(func() {
			secure, err := n.handshake(ctx, raw)
			end(host)
			if err != nil {
				n.Log.Debug("a connection was refused", "from", raw.RemoteAddr(), "err", err)
				return
			}
			select {
			case ready.conns <- secure:
			case <-ctx.Done():
				_ = secure.NetConn().Close() // nobody is there to serve it
			}
		})
	}
}

func (n *Network) handshake(ctx context.Context, raw net.Conn) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	c := &conn{Conn: raw, network: n}
	secure := tls.Server(c, n.tls(""))
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	state := secure.ConnectionState()
	node, key, err := n.identify(state)
	if err == nil && state.NegotiatedProtocol != "h2" {
		err = errors.New("a peer speaks HTTP/2")
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return secure, n.admit(c, node, key)
}

// handshaken is the listener of connections whose peer is known.
type handshaken struct {
	address net.Addr
	conns   chan net.Conn
	done    chan struct{}
	once    sync.Once
}

func (h *handshaken) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *handshaken) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

func (h *handshaken) Addr() net.Addr { return h.address }

// bounded keeps the requests of each node below a number.
func (n *Network) bounded(h http.Handler) http.Handler {
	var mu sync.Mutex
	under := map[string]int{}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		node := From(r)
		mu.Lock()
		full := under[node] >= maxRequests
		if !full {
			under[node]++
		}
		mu.Unlock()
		if full {
			http.Error(w, fmt.Sprintf("node %s has %d requests under way", node, maxRequests), http.StatusTooManyRequests)
			return
		}
		defer func() {
			mu.Lock()
			defer mu.Unlock()
			if under[node]--; under[node] == 0 {
				delete(under, node)
			}
		}()
		h.ServeHTTP(w, r)
	})
}
