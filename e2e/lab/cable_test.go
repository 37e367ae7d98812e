package lab_test

import (
	"context"
	"testing"
	"time"

	"github.com/pleachdev/pleach/e2e/lab"
)

// TestDelay: what a node with a long cable sends and gets is late, also after it was off; nothing is lost, and
// other faults hold on such a cable as on any.
func TestDelay(t *testing.T) {
	l, list := nodes(t, 1)
	n := list[0]
	if err := n.LongCable(); err == nil {
		t.Error("a node that is on was given another cable")
	}
	if err := n.PowerOff(); err != nil {
		t.Fatal(err)
	}
	if err := n.LongCable(); err != nil {
		t.Fatal(err)
	}
	u := l.Underlay()
	// connect is how long it takes to connect to the node: once there and back.
	connect := func() time.Duration {
		t.Helper()
		listener, err := n.Listen("0.0.0.0:5000")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = listener.Close() }()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		began := time.Now()
		conn, err := u.DialContext(ctx, "tcp", n.Addr.String()+":5000")
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		return time.Since(began)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	connect()
	const late = 300 * time.Millisecond
	if err := u.Delay(n, late); err != nil {
		t.Fatal(err)
	}
	if took := connect(); took < 2*late {
		t.Errorf("connected in %s, with %s of delay each way", took, late)
	}
	if err := n.PowerOff(); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := connect(); took < 2*late {
		t.Errorf("connected in %s after it was off, with %s of delay each way", took, late)
	}
	if err := u.Heal(); err != nil {
		t.Fatal(err)
	}
	lab.Wait(t, 20*time.Second, "without delay it is faster", func(context.Context) error {
		if took := connect(); took > 2*late {
			return context.DeadlineExceeded
		}
		return nil
	})
	if err := u.Isolate(n); err != nil {
		t.Fatal(err)
	}
	listener, err := n.Listen("0.0.0.0:5000")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if conn, err := u.DialContext(ctx, "tcp", n.Addr.String()+":5000"); err == nil {
		_ = conn.Close()
		t.Error("reached a node that is isolated")
	}
}
