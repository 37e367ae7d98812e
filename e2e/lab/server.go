package lab

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// faulty serves a handler on any number of listeners and can misbehave as a whole: the part that
// the Git server and the registry have in common.
type faulty struct {
	server http.Server
	down   atomic.Bool
	slow   atomic.Int64 // time.Duration

	mu        sync.Mutex
	addresses []string
	serving   sync.WaitGroup
}

func newFaulty(handler http.Handler) *faulty {
	f := &faulty{}
	f.server.ReadHeaderTimeout = 10 * time.Second
	f.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.down.Load() {
			reset(w)
			return
		}
		if d := time.Duration(f.slow.Load()); d > 0 {
			select {
			case <-time.After(d):
			case <-r.Context().Done():
				return
			}
		}
		handler.ServeHTTP(w, r)
	})
	return f
}

// reset breaks the connection the hard way, as a dead server does.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// Serve answers on one more listener, in the background, until the lab is closed.
func (f *faulty) Serve(listener net.Listener) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.addresses = append(f.addresses, listener.Addr().String())
	f.serving.Go(func() { _ = f.server.Serve(listener) })
}

// Address is the host:port of the first listener, 127.0.0.1 and a free port.
func (f *faulty) Address() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.addresses[0]
}

// Down makes the server break every connection without an answer, or ends that.
func (f *faulty) Down(down bool) { f.down.Store(down) }

// Slow makes every request wait before it is looked at; 0 ends that.
func (f *faulty) Slow(by time.Duration) { f.slow.Store(int64(by)) }

// open listens on a free port of 127.0.0.1 and, when the lab has an underlay, on that port of
// [ServersAddr].
func (f *faulty) open(l *Lab, what string) error {
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	f.Serve(listener)
	l.Defer("close "+what, f.close)
	l.mu.Lock()
	underlay := l.underlay
	l.mu.Unlock()
	if underlay == nil {
		return nil
	}
	inside, err := underlay.Listen(listener.Addr().(*net.TCPAddr).Port)
	if err != nil {
		return err
	}
	f.Serve(inside)
	return nil
}

func (f *faulty) close() error {
	err := f.server.Close()
	f.serving.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
