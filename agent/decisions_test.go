package agent

import (
	"crypto/ed25519"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gossip"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/reconcile/gate"
)

func TestDecisionsOutliveTheAgent(t *testing.T) {
	dir := t.TempDir()
	d, err := openDecisions(dir)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0).UTC()
	slot := reconcile.Slot{Workload: webUID, Ordinal: 2}
	stop := reconcile.Action{Kind: reconcile.Stop, By: "c1", Instance: reconcile.Instance{Slot: slot, Revision: "abcdefghij", Epoch: 3}}
	start := reconcile.Action{Kind: reconcile.Start, By: "c1", Instance: reconcile.Instance{Slot: slot, Revision: "klmnopqrst", Epoch: 4}}
	memory := reconcile.Resume(reconcile.Memory{Version: reconcile.StateVersion, Slots: map[string]reconcile.SlotState{"w/2": {Epoch: 3, Failures: 2}}})
	decided := reconcile.Decision{
		Actions: []reconcile.Action{stop, start}, Declines: []reconcile.Decline{{Slot: slot, Revision: "klmnopqrst", Reason: "Insufficient cpu", At: now}},
	}
	d.take(memory, decided, now)
	d.take(memory, reconcile.Decision{Actions: []reconcile.Action{stop}}, now.Add(time.Minute)) // asked for again
	if err := d.save(); err != nil {
		t.Fatal(err)
	}

	again, err := openDecisions(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(again.Releases) != 1 || again.Releases[0] != (reconcile.Release{Slot: slot, Revision: "abcdefghij", Epoch: 3, By: "c1", At: now}) {
		t.Errorf("releases %+v", again.Releases)
	}
	if len(again.Declines) != 1 || again.State.Memory().Slots["w/2"].Failures != 2 {
		t.Errorf("%+v", again)
	}
	before, err := os.Stat(again.path)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.save(); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(again.path); err != nil || !os.SameFile(before, after) {
		t.Errorf("written although nothing changed, %v", err)
	}

	again.expire(nil, now.Add(gossip.KeepFor-time.Second))
	if len(again.Releases) != 1 || len(again.Declines) != 1 {
		t.Error("over too early")
	}
	again.expire([]reconcile.Instance{stop.Instance}, now.Add(gossip.KeepFor))
	if len(again.Releases) != 1 || len(again.Declines) != 0 {
		t.Errorf("after 10 minutes, the pod still ending: %+v", again)
	}
	again.expire(nil, now.Add(gossip.KeepFor))
	if len(again.Releases) != 0 {
		t.Errorf("after 10 minutes: %+v", again.Releases)
	}
}

func TestDecisionsOfAnotherForm(t *testing.T) {
	for name, text := range map[string]string{
		"damaged":           `{"version":1,`,
		"a later agent's":   `{"version":2,"state":{"version":1}}`,
		"a later reconcile": `{"version":1,"state":{"version":99}}`,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "decisions.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := openDecisions(dir)
		if err == nil || !strings.Contains(err.Error(), "decisions.json") {
			t.Errorf("%s: %v", name, err)
		}
		if err := d.save(); err != nil || len(d.Releases) != 0 {
			t.Errorf("%s: cannot be used: %v", name, err)
		}
	}
}

// TestDocumentTellsOfReleases follows a slot that is given up from the decision to what the node
// signs, through a restart.
func TestDocumentTellsOfReleases(t *testing.T) {
	pods := &fakePods{pods: map[types.UID]*corev1.Pod{}, changed: make(chan struct{}, 1)}
	d, published := newDecider(t, pods)
	now := time.Unix(1_800_000_000, 0)
	pass := func() reconcile.Document {
		t.Helper()
		now = now.Add(time.Second)
		if _, err := d.pass(t.Context(), d.store.Snapshot(), now); err != nil {
			t.Fatal(err)
		}
		keys := func(string) []ed25519.PublicKey { return []ed25519.PublicKey{d.key.Public().(ed25519.PublicKey)} }
		signed, err := gossip.Open((*published)["status/n1.cbor"], keys)
		if err != nil {
			t.Fatal(err)
		}
		document, err := signed.Document()
		if err != nil {
			t.Fatal(err)
		}
		// The document for people says the same.
		var readable reconcile.Document
		if err := json.Unmarshal((*published)["status/n1.json"], &readable); err != nil {
			t.Fatal(err)
		}
		a, b := marshal(t, document), marshal(t, readable)
		if a != b {
			t.Errorf("signed %s\nreadable %s", a, b)
		}
		if size := len((*published)["status/n1.cbor"]); size > 1500 {
			t.Errorf("the signed document of 3 pods has %d bytes", size)
		}
		return document
	}
	d.store.SetAccepted(acceptedWith(3))
	pass()
	pods.ready()
	if got := pass(); len(got.Instances) != 3 || len(got.Releases) != 0 {
		t.Fatalf("%d pods, %d releases", len(got.Instances), len(got.Releases))
	}
	scaled := acceptedWith(1)
	d.store.SetAccepted(scaled)
	got := pass() // in the same pass: peers must not wait for the pods' end to hear of it
	if len(got.Releases) != 2 || got.Releases[0].By != scaled.Head.ID || got.Releases[0].Epoch != 1 {
		t.Fatalf("releases %+v", got.Releases)
	}

	var err error
	if d.memory, err = openDecisions(filepath.Dir(d.memory.path)); err != nil {
		t.Fatal(err)
	}
	d.author = author{}
	if got := pass(); len(got.Releases) != 2 {
		t.Errorf("after a restart: %d releases", len(got.Releases))
	}
	now = now.Add(gossip.KeepFor)
	if got := pass(); len(got.Releases) != 0 {
		t.Errorf("after 10 minutes: %+v", got.Releases)
	}
}

func marshal(t *testing.T, d reconcile.Document) string {
	t.Helper()
	b, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// silent is a flock of which a stable member has said nothing yet.
type silent struct{ alone }

func (silent) look(*gitsync.Accepted, time.Time) outlook {
	return outlook{states: map[string]gate.View{"n2": {Stable: true}}}
}

func TestPodsOnDiskWaitForTheOthers(t *testing.T) {
	pods := &fakePods{pods: map[types.UID]*corev1.Pod{}, changed: make(chan struct{}, 1)}
	d, _ := newDecider(t, pods)
	accepted := acceptedWith(2)
	d.store.SetAccepted(accepted)
	now := time.Unix(1_800_000_000, 0)
	pass := func(d *decider) {
		t.Helper()
		now = now.Add(time.Second)
		if _, err := d.pass(t.Context(), d.store.Snapshot(), now); err != nil {
			t.Fatal(err)
		}
	}
	pass(d)
	pods.ready()
	pods.found = slices.Sorted(maps.Keys(pods.pods))
	if len(pods.found) != 2 {
		t.Fatalf("%d pods, want 2", len(pods.found))
	}

	// The machine was started anew, and the other node has not been heard.
	d, _ = newDecider(t, pods)
	d.flock = silent{}
	two := *accepted
	two.Nodes = append(slices.Clone(two.Nodes), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}})
	d.store.SetAccepted(&two)
	pass(d)
	pass(d)
	if len(pods.resumed) > 0 {
		t.Errorf("resumed %v before the other node was heard", pods.resumed)
	}
	for _, i := range d.author.document.Instances {
		if i.Ready {
			t.Errorf("%s is said to be ready, and does not run", i.Name)
		}
	}

	// A node without others needs nobody, and no Git.
	d.flock = alone{}
	d.store.SetAccepted(accepted)
	pass(d)
	if len(pods.resumed) != 2 || len(pods.pods) != 2 {
		t.Errorf("resumed %v of %d pods, want both", pods.resumed, len(pods.pods))
	}
}
