package peer

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pleachdev/pleach/reconcile/gate"
)

// flock is some nodes over loopback, with the keys that are accepted for each.
type flock struct {
	t *testing.T

	mu    sync.Mutex
	keys  map[string][]ed25519.PublicKey
	where map[string][]string
	nets  map[string]*Network
	own   map[string]ed25519.PrivateKey
}

func newFlock(t *testing.T, nodes ...string) *flock {
	f := &flock{
		t: t, keys: map[string][]ed25519.PublicKey{}, where: map[string][]string{},
		nets: map[string]*Network{}, own: map[string]ed25519.PrivateKey{},
	}
	for _, node := range nodes {
		key := newKey(t)
		f.own[node] = key
		f.keys[node] = []ed25519.PublicKey{key.Public().(ed25519.PublicKey)}
		f.nets[node] = f.network(node, key)
		f.where[node] = []string{f.serve(f.nets[node], whoami)}
	}
	return f
}

func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// at says where a node is from now on.
func (f *flock) at(node string, addresses ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.where[node] = addresses
}

func (f *flock) network(node string, key ed25519.PrivateKey) *Network {
	n := New(Config{
		Node: node, Key: key,
		Keys:      func(node string) []ed25519.PublicKey { f.mu.Lock(); defer f.mu.Unlock(); return f.keys[node] },
		Addresses: func(node string) []string { f.mu.Lock(); defer f.mu.Unlock(); return f.where[node] },
	})
	f.t.Cleanup(n.Close)
	return n
}

// serve starts a network's server and returns its address.
func (f *flock) serve(n *Network, h http.HandlerFunc) string {
	f.t.Helper()
	l, err := new(net.ListenConfig).Listen(f.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Serve(ctx, l, h) }()
	f.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Errorf("serve: %v", err)
		}
	})
	return l.Addr().String()
}

func whoami(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, From(r)+" "+r.Proto) }

// ask returns what a node answers another.
func (f *flock) ask(from *Network, to string) (string, error) {
	ctx, cancel := context.WithTimeout(f.t.Context(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+to+"/", nil)
	if err != nil {
		return "", err
	}
	answer, err := from.Client(to).Do(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if answer.StatusCode != http.StatusOK {
		return "", errors.New(answer.Status)
	}
	return string(body), err
}

func TestPeersKnowEachOther(t *testing.T) {
	f := newFlock(t, "a", "b")
	for range 2 {
		if got, err := f.ask(f.nets["a"], "b"); got != "a HTTP/2.0" || err != nil {
			t.Fatalf("b was asked by %q, %v; want a over HTTP/2", got, err)
		}
	}
	if got := len(f.nets["a"].open["b"]); got != 1 {
		t.Errorf("a made %d connections for two requests, want one", got)
	}
	if f.nets["a"].Sent() == 0 {
		t.Error("nothing was counted as sent")
	}
}

func TestWhoIsNotEnrolledIsRefused(t *testing.T) {
	f := newFlock(t, "a", "b", "c")
	stranger := newKey(t)
	tests := []struct {
		name     string
		from     *Network
		to, want string
	}{
		{"a key that nobody has enrolled", f.network("x", stranger), "b", ""},
		{"another key under an enrolled name", f.network("a", stranger), "b", ""},
		{"an enrolled key under another name", f.network("a", f.own["c"]), "b", ""},
		{"a node that is not enrolled", f.nets["a"], "x", ErrNotEnrolled.Error()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := f.ask(tt.from, tt.to); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %q, %v; want an error with %q", got, err, tt.want)
			}
		})
	}
	// c's own key, at the address where b is expected.
	f.at("b", f.where["c"]...)
	if got, err := f.ask(f.nets["a"], "b"); err == nil || !strings.Contains(err.Error(), "node c answers where node b was called") {
		t.Errorf("got %q, %v; want that c is not b", got, err)
	}
	f.at("b")
	if _, err := f.ask(f.nets["a"], "b"); !errors.Is(err, ErrNoAddress) {
		t.Errorf("got %v; want %v", err, ErrNoAddress)
	}
}

func TestAClientReachesItsNodeOnly(t *testing.T) {
	f := newFlock(t, "a", "b", "c")
	for _, url := range []string{"https://c/", "http://b/", "https://b:1/"} {
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if answer, err := f.nets["a"].Client("b").Do(r); err == nil {
			answer.Body.Close()
			t.Errorf("%s was answered", url)
		}
	}
}

func TestOldTLSAndStrangersGetNothing(t *testing.T) {
	f := newFlock(t, "a")
	for name, c := range map[string]*tls.Config{
		"TLS 1.2":        {MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true, NextProtos: []string{"h2"}},
		"no certificate": {InsecureSkipVerify: true, NextProtos: []string{"h2"}},
	} {
		d := tls.Dialer{Config: c}
		raw, err := d.DialContext(t.Context(), "tcp", f.where["a"][0])
		if err == nil { // in TLS 1.3 the refusal comes with the first read
			_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
			var n int
			n, err = raw.Read(make([]byte, 1))
			_ = raw.Close()
			if n > 0 {
				t.Errorf("%s: the server sent something", name)
			}
		}
		if err == nil {
			t.Errorf("%s: was accepted", name)
		}
	}
}

func TestARemovedKeyEndsItsConnections(t *testing.T) {
	f := newFlock(t, "a", "b")
	entered, ended := make(chan bool), make(chan error, 1)
	f.at("b", f.serve(f.nets["b"], func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	}))
	go func() {
		_, err := f.ask(f.nets["a"], "b")
		ended <- err
	}()
	<-entered
	f.mu.Lock()
	delete(f.keys, "a")
	f.mu.Unlock()
	f.nets["b"].Refresh()
	if err := <-ended; err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v; want the request to be cut off", err)
	}
}

func TestTwoKeysWhileRotating(t *testing.T) {
	f := newFlock(t, "a", "b")
	next := newKey(t)
	f.mu.Lock()
	f.keys["a"] = append(f.keys["a"], next.Public().(ed25519.PublicKey))
	f.mu.Unlock()
	for _, n := range []*Network{f.nets["a"], f.network("a", next)} {
		if got, err := f.ask(n, "b"); err != nil || !strings.HasPrefix(got, "a ") {
			t.Errorf("got %q, %v; want both keys to be a's", got, err)
		}
	}
	f.mu.Lock()
	f.keys["a"] = f.keys["a"][1:]
	f.mu.Unlock()
	f.nets["b"].Refresh()
	if got, err := f.ask(f.nets["a"], "b"); err == nil {
		t.Errorf("the old key was answered %q", got)
	}
}

func TestTheNextAddressIsTried(t *testing.T) {
	f := newFlock(t, "a", "b")
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close() // a port where nobody listens
	f.at("b", l.Addr().String(), f.where["b"][0])
	if got, err := f.ask(f.nets["a"], "b"); err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestAHostilePeerFindsBounds(t *testing.T) {
	f := newFlock(t, "a", "b")
	t.Run("connections", func(t *testing.T) {
		for range 3 * maxConnections {
			c, err := f.nets["a"].dial(t.Context(), "b")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
		}
		deadline := time.Now().Add(20 * time.Second)
		for {
			f.nets["b"].mu.Lock()
			got := len(f.nets["b"].open["a"])
			f.nets["b"].mu.Unlock()
			if got == maxConnections {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("b keeps %d connections of a, want %d", got, maxConnections)
			}
			time.Sleep(time.Millisecond)
		}
	})
	t.Run("requests", func(t *testing.T) {
		release := make(chan bool)
		f.at("b", f.serve(f.nets["b"], func(http.ResponseWriter, *http.Request) { <-release }))
		results := make(chan error, 2*maxRequests)
		// Several clients, as one keeps to the streams that the server allows it.
		for range 2 {
			n := f.network("a", f.own["a"])
			for range maxRequests {
				go func() {
					_, err := f.ask(n, "b")
					results <- err
				}()
			}
		}
		for range maxRequests {
			if err := <-results; err == nil || !strings.Contains(err.Error(), "429") {
				t.Fatalf("got %v; want that it is too much", err)
			}
		}
		close(release)
		for range maxRequests {
			if err := <-results; err != nil {
				t.Fatalf("a request within the bound: %v", err)
			}
		}
	})
	t.Run("body", func(t *testing.T) {
		f.at("b", f.serve(f.nets["b"], func(w http.ResponseWriter, r *http.Request) {
			if b, ok := Body(w, r, 100); ok {
				_, _ = fmt.Fprint(w, len(b))
			}
		}))
		n := f.network("a", f.own["a"])
		for size, want := range map[int]int{100: http.StatusOK, 101: http.StatusRequestEntityTooLarge} {
			r, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://b/", bytes.NewReader(make([]byte, size)))
			answer, err := n.Client("b").Do(r)
			if err != nil {
				t.Fatal(err)
			}
			answer.Body.Close()
			if answer.StatusCode != want {
				t.Errorf("%d bytes: %s, want %d", size, answer.Status, want)
			}
		}
	})
	t.Run("handshakes", func(t *testing.T) {
		address := f.serve(f.nets["b"], whoami)
		for range 2 * maxHandshakesOf { // that never say a word
			c, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
		}
		f.at("b", address)
		n := f.network("a", f.own["a"])
		deadline := time.Now().Add(3 * handshakeTime)
		for {
			if _, err := f.ask(n, "b"); err == nil {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("who is enrolled does not come through: %v", err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
}

func TestCheckTellsSilenceFromRefusal(t *testing.T) {
	f := newFlock(t, "a", "b", "c")
	closed := func() string {
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
		return l.Addr().String()
	}
	frozen, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0") // the kernel answers for it
	if err != nil {
		t.Fatal(err)
	}
	defer frozen.Close()
	wedged := f.serve(f.nets["b"], func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	tests := []struct {
		name string
		at   []string
		want gate.Answer
	}{
		{"an agent", []string{f.where["b"][0]}, gate.Answered},
		{"no agent on the host", []string{closed()}, gate.Refused},
		{"an agent that stands still", []string{frozen.Addr().String()}, gate.Refused},
		{"an agent that does not come to answer", []string{wedged}, gate.Refused},
		{"no host", []string{"255.255.255.255:1"}, gate.NoAnswer},
		{"another node at the address", []string{f.where["c"][0]}, gate.NoAnswer},
		{"nowhere", nil, gate.NoAnswer},
		{"one address of two", []string{closed(), f.where["b"][0]}, gate.Answered},
	}
	for _, tt := range tests {
		f.at("b", tt.at...)
		if got := f.nets["a"].Check(t.Context(), "b"); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
