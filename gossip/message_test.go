package gossip

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func fullMessage(t testing.TB) Message {
	v := sealed(t, nodeDocument("n2", 1)).Version
	return Message{
		Announce:  []Version{v, {Node: IDOf("n3"), Number: Number{1, 2}, Hash: 3}},
		Offer:     []Version{v},
		Fetch:     []NodeID{IDOf("n1"), IDOf("n4")},
		Documents: []Sealed{sealed(t, nodeDocument("n1", 1))},
		Compare:   []Sum{{Hash: 5, Count: 70}, {Range: Range{0xf << 60, 4}, Count: 9, Hash: 1 << 63}},
		Listings:  []Listing{{Range: Range{0xab << 56, 8}, Versions: []Version{v}}, {Range: Range{0xac << 56, 8}}},
		Head:      commitOf("head", 40),
	}
}

func TestMessage(t *testing.T) {
	want := fullMessage(t)
	data, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "message-v1.hex")
	if *update {
		if err := os.WriteFile(path, []byte(hex.EncodeToString(data)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if hex.EncodeToString(data) != strings.TrimSpace(string(golden)) {
		t.Error("messages are written differently: agents of two versions would not understand each other")
	}
	got, refused, err := DecodeMessage(data, publicKeys)
	if err != nil || len(refused) > 0 {
		t.Fatal(refused, err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestAnnouncementIs24Bytes(t *testing.T) {
	one, err := Message{Announce: make([]Version, 1)}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	two, err := Message{Announce: make([]Version, 2)}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got := len(two) - len(one); got != 24 {
		t.Errorf("%d bytes a version", got)
	}
}

func TestDecodeMessageRefuses(t *testing.T) {
	data, err := fullMessage(t).Encode()
	if err != nil {
		t.Fatal(err)
	}
	m, refused, err := DecodeMessage(data, func(string) []ed25519.PublicKey { return nil })
	if err != nil || len(refused) != 1 || !errors.Is(refused[0], ErrSignature) || len(m.Documents) != 0 || len(m.Announce) != 2 {
		t.Errorf("a document that does not verify: %+v, %v, %v", m, refused, err)
	}
	for name, w := range map[string]wireMessage{
		"a version cut off":    {Announce: make([]byte, 23)},
		"an id cut off":        {Fetch: make([]byte, 9)},
		"a sum cut off":        {Compare: make([]byte, 20)},
		"a range that is none": {Compare: append(bytes.Repeat([]byte{0xff}, 8), make([]byte, 13)...)},
		"too many bits":        {Listings: []wireListing{{Range: []byte{0, 0, 0, 0, 0, 0, 0, 0, 65}}}},
	} {
		bad, err := encoding.Marshal(w)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := DecodeMessage(bad, publicKeys); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, _, err := DecodeMessage(make([]byte, MaxMessageSize+1), publicKeys); err == nil {
		t.Error("a message above the limit: accepted")
	}
}

// FuzzMessage gives a node anything that a peer could send.
func FuzzMessage(f *testing.F) {
	data, err := fullMessage(f).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte{0xa0})
	names := []string{"n1", "n2", "n3"}
	document := sealed(f, nodeDocument("n2", 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, _, err := DecodeMessage(data, publicKeys)
		if err != nil {
			return
		}
		s := NewState("n1", 1)
		for _, e := range []Event{Enrolled{Names: names}, Members{names}, Publish{Document: document}, Receive{"n2", m}, Tick{}} {
			s, _ = Step(s, e, epoch)
		}
		var hash uint64
		for _, d := range s.held {
			hash ^= d.Version.Hash
		}
		if hash != s.hash || len(s.ids) != len(s.held) {
			t.Fatal("the sum is not that of what is held")
		}
	})
}

// TestMessagesJoin: two messages joined say what both say, with the newest document of each node and the newest head.
func TestMessagesJoin(t *testing.T) {
	numbered := func(node string, seq int64) Sealed {
		d := nodeDocument(node, 1)
		d.Boot, d.Seq = 1, seq
		return sealed(t, d)
	}
	v := numbered("n3", 1).Version
	a := Message{Announce: []Version{v}, Documents: []Sealed{numbered("n1", 1), numbered("n2", 2)}, Head: commitOf("head", 40)}
	b := Message{Announce: []Version{v}, Fetch: []NodeID{7}, Documents: []Sealed{numbered("n1", 2), numbered("n2", 1)}, Head: commitOf("older", 39)}
	want := Message{
		Announce: []Version{v, v}, Fetch: []NodeID{7}, Documents: []Sealed{numbered("n1", 2), numbered("n2", 2)}, Head: commitOf("head", 40),
	}
	got := a
	if !got.Join(b) || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if a.Documents[0].Version.Number.Seq != 1 {
		t.Error("the first message's own list was written to")
	}
	large := nodeDocument("n4", 0)
	for range 60 {
		large.Conditions = append(large.Conditions, large.Conditions[0])
		large.Conditions[0].Message = strings.Repeat("x", 10000)
	}
	got = Message{Documents: []Sealed{sealed(t, large)}}
	if got.Join(Message{Documents: got.Documents}) || len(got.Documents) != 1 {
		t.Errorf("a message of %d bytes", got.size())
	}
	if all := fullMessage(t); !new(Message).Join(all) {
		t.Error("an empty message takes nothing up")
	} else if joined := (Message{}); !joined.Join(all) || !reflect.DeepEqual(joined, all) {
		t.Errorf("got %+v\nwant %+v", joined, all)
	}
}
