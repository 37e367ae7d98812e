package gossip

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/e2e/shapes"
	"github.com/pleachdev/pleach/reconcile"
)

var update = flag.Bool("update", false, "write testdata anew")

var epoch = shapes.Epoch

// keyOf returns the key of a node of the tests; everybody knows it.
func keyOf(node string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(node))
	return ed25519.NewKeyFromSeed(seed[:])
}

func publicKeys(node string) []ed25519.PublicKey {
	return []ed25519.PublicKey{keyOf(node).Public().(ed25519.PublicKey)}
}

func commitOf(name string, level int64) reconcile.Commit { return shapes.Commit(name, level) }

func nodeDocument(node string, n int) reconcile.Document { return shapes.Document(node, n) }

// fullDocument has everything that a document can say.
func fullDocument() reconcile.Document {
	d := nodeDocument("n1", 21)
	m := d.Instances[1]
	d.Instances[2].PodIP = "fd00::4:11"
	d.Instances[3].Name, d.Instances[3].UID = "by-hand", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
	d.Releases = []reconcile.Release{
		{Slot: m.Slot, Revision: m.Revision, Epoch: 4, By: d.Head.ID, At: epoch},
		{Slot: d.Instances[0].Slot, Revision: "0000000000", Epoch: 1, By: reconcile.ByEviction, At: epoch.Add(time.Second)},
	}
	d.Declines = []reconcile.Decline{{Slot: m.Slot, Revision: m.Revision, Reason: "node n1 declined: Insufficient cpu", At: epoch}}
	return d
}

func sealed(t testing.TB, d reconcile.Document) Sealed {
	t.Helper()
	s, err := Encode(d, keyOf(d.Node))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func asJSON(t testing.TB, v any) string {
	t.Helper()
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRoundTrip(t *testing.T) {
	for name, want := range map[string]reconcile.Document{
		"full":   fullDocument(),
		"empty":  {Node: "n1", Boot: 1, Accepted: map[string]reconcile.Commit{}, Instances: []reconcile.Instance{}},
		"plain":  nodeDocument("node-with-a-long-name", 110),
		"leaves": {Node: "n1", Boot: 1, Accepted: map[string]reconcile.Commit{}, Instances: []reconcile.Instance{}, BackBy: epoch},
	} {
		t.Run(name, func(t *testing.T) {
			s := sealed(t, want)
			opened, err := Open(s.Bytes(), publicKeys)
			if err != nil {
				t.Fatal(err)
			}
			got, err := opened.Document()
			if err != nil {
				t.Fatal(err)
			}
			if a, b := asJSON(t, got), asJSON(t, want); a != b {
				t.Errorf("got %s\nwant %s", a, b)
			}
			if again := sealed(t, got); !bytes.Equal(again.Bytes(), s.Bytes()) {
				t.Error("what was read is not written as it was")
			}
		})
	}
}

// TestGolden reads the bytes that the first agents wrote. When it fails, the format changed, and a
// flock of two versions would not understand itself: raise FormatVersion, or take the change back.
func TestGolden(t *testing.T) {
	path := filepath.Join("testdata", "document-v1.hex")
	s := sealed(t, fullDocument())
	if *update {
		var b strings.Builder
		for line := range strings.SplitSeq(hex.Dump(s.Bytes()), "\n") {
			if line != "" {
				b.WriteString(strings.ReplaceAll(line[10:58], " ", "") + "\n")
			}
		}
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	golden, err := hex.DecodeString(strings.ReplaceAll(string(text), "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(golden, s.Bytes()) {
		t.Error("the document is written differently")
	}
	opened, err := Open(golden, publicKeys)
	if err != nil {
		t.Fatal(err)
	}
	got, err := opened.Document()
	if err != nil {
		t.Fatal(err)
	}
	if a, b := asJSON(t, got), asJSON(t, fullDocument()); a != b {
		t.Errorf("got %s\nwant %s", a, b)
	}
}

// resign seals a payload of any content under the envelope of any version.
func resign(t *testing.T, version uint32, payload any) []byte {
	t.Helper()
	body, err := encoding.Marshal(payload)
	if err != nil {
		t.Fatal(err)
	}
	data, err := encoding.Marshal(envelope{Version: version, Node: "n1", Boot: 7, Seq: 123, Payload: body, Signature: make([]byte, 64)})
	if err != nil {
		t.Fatal(err)
	}
	copy(data[len(data)-64:], ed25519.Sign(keyOf("n1"), signed(data)))
	return data
}

func TestLaterAgents(t *testing.T) {
	p, err := write(new(fullDocument()))
	if err != nil {
		t.Fatal(err)
	}
	type later struct {
		payload
		More  map[string]any `cbor:"23,keyasint"`
		Other []any          `cbor:"99,keyasint"`
	}
	t.Run("fields that are not known are passed over and passed on", func(t *testing.T) {
		data := resign(t, FormatVersion, later{*p, map[string]any{"a": []int{1, 2}}, []any{"x", map[int]string{1: "y"}}})
		s, err := Open(data, publicKeys)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Document()
		if err != nil {
			t.Fatal(err)
		}
		if a, b := asJSON(t, got), asJSON(t, fullDocument()); a != b {
			t.Errorf("got %s\nwant %s", a, b)
		}
		if !bytes.Equal(s.Bytes(), data) {
			t.Error("the bytes that were signed are not what is passed on")
		}
	})
	t.Run("a phase that is not known", func(t *testing.T) {
		changed := *p
		changed.Instances.States = bytes.Clone(p.Instances.States)
		changed.Instances.States[4] = 15 << phaseShift
		s, err := Open(resign(t, FormatVersion, changed), publicKeys)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Document()
		if err != nil || got.Instances[4].Phase != corev1.PodUnknown {
			t.Errorf("got %v, %v; want Unknown", got.Instances[4].Phase, err)
		}
	})
	t.Run("a format that is not known", func(t *testing.T) {
		_, err := Open(resign(t, 2, map[int]string{1: "anything"}), publicKeys)
		if !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "version 2") {
			t.Errorf("got %v; want one that names version 2", err)
		}
		later, err := encoding.Marshal([]any{3, "an envelope of another form"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(later, publicKeys); !errors.Is(err, ErrVersion) {
			t.Errorf("got %v; want %v", err, ErrVersion)
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	good := sealed(t, fullDocument()).Bytes()
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		if _, err := Open(bad, publicKeys); err == nil {
			t.Fatalf("byte %d changed, and accepted", i)
		}
	}
	for name, c := range map[string]struct {
		data []byte
		keys func(string) []ed25519.PublicKey
		want error
	}{
		"not enrolled":         {good, func(string) []ed25519.PublicKey { return nil }, ErrSignature},
		"of another node":      {good, func(string) []ed25519.PublicKey { return publicKeys("n2") }, ErrSignature},
		"cut":                  {good[:len(good)-1], publicKeys, nil},
		"something behind":     {append(bytes.Clone(good), 0), publicKeys, nil},
		"empty":                {nil, publicKeys, nil},
		"larger than the most": {make([]byte, MaxSize+1), publicKeys, nil},
	} {
		if _, err := Open(c.data, c.keys); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: got %v; want %v", name, err, c.want)
		}
	}
	rotated := func(node string) []ed25519.PublicKey { return append(publicKeys("old"), publicKeys(node)...) }
	if _, err := Open(good, rotated); err != nil {
		t.Errorf("a node with two keys: %v", err)
	}
}

func TestEncodeRefuses(t *testing.T) {
	for name, change := range map[string]func(*reconcile.Document){
		"an instance of another node": func(d *reconcile.Document) { d.Instances[1].Node = "n2" },
		"a slot of another node":      func(d *reconcile.Document) { d.Instances[0].Slot.Node = "n2" },
		"a uid that is none":          func(d *reconcile.Document) { d.Instances[1].Slot.Workload = "web" },
		"a commit that is none":       func(d *reconcile.Document) { d.Head.ID = "main" },
		"an address that is none":     func(d *reconcile.Document) { d.Instances[1].PodIP = "10.0.0.010" },
		"a number out of range":       func(d *reconcile.Document) { d.Boot = 1 << 32 },
		"no node":                     func(d *reconcile.Document) { d.Node = "" },
	} {
		d := fullDocument()
		change(&d)
		if _, err := Encode(d, keyOf("n1")); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
	if _, err := Encode(fullDocument(), nil); err == nil {
		t.Error("signed without a key")
	}
}

func TestMessagesAreCut(t *testing.T) {
	d := fullDocument()
	d.Instances[1].Message = strings.Repeat("ä", 1000)
	got, err := sealed(t, d).Document()
	if err != nil {
		t.Fatal(err)
	}
	if m := got.Instances[1].Message; len(m) > MaxMessage || !strings.HasSuffix(m, "ä…") {
		t.Errorf("got %d bytes ending in %q", len(m), m[len(m)-8:])
	}
}

// bytesPerInstance is what a further instance adds to a document.
func bytesPerInstance(t testing.TB) float64 {
	return float64(len(sealed(t, nodeDocument("n1", 25)).Bytes())-len(sealed(t, nodeDocument("n1", 0)).Bytes())) / 25
}

func TestSize(t *testing.T) {
	if got := bytesPerInstance(t); got > 77 {
		t.Errorf("%.1f bytes an instance; want at most 77", got)
	} else {
		t.Logf("%.1f bytes an instance; a document of 25 has %d, of none %d", got,
			len(sealed(t, nodeDocument("n1", 25)).Bytes()), len(sealed(t, nodeDocument("n1", 0)).Bytes()))
	}
}

func FuzzDocument(f *testing.F) {
	f.Add(sealed(f, fullDocument()).payload)
	f.Add(sealed(f, nodeDocument("n1", 3)).payload)
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, payload []byte) {
		s := Sealed{Node: "n1", Version: Version{Number: Number{7, 1}}, data: payload, payload: payload}
		d, err := s.Document()
		if err != nil {
			return
		}
		for _, m := range d.Instances {
			if m.Node != "n1" {
				t.Fatalf("an instance of %q in the document of n1", m.Node)
			}
		}
		// What could be read can be written, unless it holds what Encode refuses, and means the same.
		again, err := Encode(d, keyOf("n1"))
		if err != nil {
			return
		}
		back, err := again.Document()
		if err != nil {
			t.Fatal(err)
		}
		for i := range d.Instances {
			d.Instances[i].Message = cut(d.Instances[i].Message, MaxMessage)
		}
		if a, err := json.Marshal(d); err == nil { // not of years that JSON has not
			if b, err := json.Marshal(back); err != nil || !bytes.Equal(a, b) {
				t.Fatalf("read %s\nagain %s, %v", a, b, err)
			}
		}
	})
}

func FuzzOpen(f *testing.F) {
	f.Add(sealed(f, fullDocument()).Bytes())
	f.Add([]byte{0x82, 0x03, 0x60})
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := Open(data, publicKeys); err == nil {
			if _, err := s.Document(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	d := nodeDocument("n1", 25)
	for b.Loop() {
		sealed(b, d)
	}
	b.ReportMetric(bytesPerInstance(b), "B/instance")
}

func BenchmarkDecode(b *testing.B) {
	s := sealed(b, nodeDocument("n1", 25))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Document(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	data := sealed(b, nodeDocument("n1", 25)).Bytes()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Open(data, publicKeys); err != nil {
			b.Fatal(err)
		}
	}
}
