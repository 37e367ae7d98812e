package agent

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/trust"
	"github.com/pleachdev/pleach/gossip/peer"
	"github.com/pleachdev/pleach/reconcile"
)

func TestTwoMachinesWithOneKeyStartNothingMore(t *testing.T) {
	f := newTestFlock(t, "a", "b")
	accepted := f.accepted(2, 4)
	f.start("a", accepted)
	f.start("b", accepted)
	f.once("four replicas, one each", func() bool { return f.each(4) })

	// A copy of b's disk, on another machine.
	twin := f.nodes["b"].node
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(twin.Dir)); err != nil {
		t.Fatal(err)
	}
	original := f.nodes["b"]
	f.ports["b"] = freePorts(t)
	f.nodes["b"] = newTestNode("b", dir, twin.signer, "10.1.1.3")
	f.start("b", accepted)
	for _, n := range []*testNode{original, f.nodes["b"]} {
		f.once("both machines say that there is another", func() bool {
			return n.ready.err() != nil && strings.Contains(n.ready.err().Error(), "another machine signs with this node's key")
		})
	}
}

// TestAWipedNodeCountsOn: its disk is empty, so that it takes itself for a new one. It claims nothing before it
// has heard how far it was: else its pods would have the names of others.
func TestAWipedNodeCountsOn(t *testing.T) {
	f := newTestFlock(t, "a", "b", "c")
	accepted := f.accepted(2, 6)
	for name := range f.nodes {
		f.start(name, accepted)
	}
	f.once("six replicas, one each", func() bool { return f.each(6) })
	lost := f.nodes["b"]
	lost.stop()
	f.nodes["b"] = newTestNode("b", t.TempDir(), lost.signer, "10.1.1.3")
	f.start("b", accepted)
	f.once("six replicas, one each", func() bool { return f.each(6) })
	f.once("b's document beyond its old one", func() bool {
		d := f.nodes["a"].store.Snapshot().Document("b")
		return d != nil && d.Boot > lost.boot
	})
	for _, pod := range f.nodes["b"].pods.Pods() {
		if i, err := reconcile.UnmarshalInstance(pod); err != nil || i.Boot <= lost.boot {
			t.Errorf("%s was claimed in boot %d, and boots up to %d were used before: %v", pod.Name, i.Boot, lost.boot, err)
		}
	}
}

func TestAKeyIsRotated(t *testing.T) {
	f := newTestFlock(t, "a", "b")
	accepted := f.accepted(2, 2)
	f.start("a", accepted)
	f.start("b", accepted)
	f.once("two replicas, one each", func() bool { return f.each(2) })

	next, err := trust.LoadOrCreateKey(filepath.Join(t.TempDir(), "next.key"), "b")
	if err != nil {
		t.Fatal(err)
	}
	old := f.keys["b"][0]
	accept := func(level int64, keys ...*trust.SigningKey) *gitsync.Accepted {
		f.keys["b"] = keys
		a := f.accepted(level, 2)
		for _, n := range f.nodes {
			n.store.SetAccepted(a)
		}
		return a
	}
	both := accept(3, old, next)
	f.nodes["b"].stop()
	f.nodes["b"].signer = next
	f.start("b", both)
	heard := func() bool {
		d := f.nodes["a"].store.Snapshot().Document("b")
		return d != nil && d.Boot == f.nodes["b"].boot
	}
	f.once("b's document by its new key", heard)
	last := accept(4, next)
	f.nodes["b"].stop()
	f.start("b", last)
	f.once("b's document without its old key", heard)
	if !f.each(2) {
		t.Errorf("slots are at %s", f.slots())
	}

	// Who still has the old key is nobody.
	f.nodes["b"].stop()
	f.nodes["b"].signer = old
	f.start("b", last)
	f.once("b is refused", func() bool {
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://a"+peer.CheckPath, nil)
		answer, err := f.nodes["b"].flock.peers.Client("a").Do(r)
		if err == nil {
			answer.Body.Close()
		}
		return err != nil
	})
	if heard() {
		t.Error("a took a document by a key that was removed")
	}
}
