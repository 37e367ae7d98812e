package gossip

import (
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/pleachdev/pleach/reconcile"
)

// MaxMessageSize is the largest encoded message, bytes.
const MaxMessageSize = 2*MaxSize + 1<<16

// Message is what one node sends to another. The sender is known by its connection, and nothing in it
// is believed but the documents, which carry their own signatures. Any of the fields may be empty.
type Message struct {
	// Announce tells of new versions that the sender has or is about to have.
	Announce []Version
	// Offer tells of versions that the receiver lacked in a comparison.
	Offer []Version
	// Fetch asks for the newest document of these nodes.
	Fetch     []NodeID
	Documents []Sealed
	// Compare tells what the sender holds of some ranges; Listings tell it version by version.
	Compare  []Sum
	Listings []Listing
	// Head is the newest head of the config repository that the sender knows of. It causes a look at
	// the remote, where what is found is verified.
	Head reconcile.Commit
}

// Range is the ids that begin with the first Bits bits of Prefix.
type Range struct {
	Prefix NodeID
	Bits   uint8
}

// last is the largest id of r.
func (r Range) last() NodeID {
	return r.Prefix | NodeID(^uint64(0)>>r.Bits) // 0 when Bits is 64
}

// valid reports whether nothing stands in Prefix behind Bits.
func (r Range) valid() bool {
	return r.Bits <= 64 && uint64(r.Prefix)&(^uint64(0)>>r.Bits) == 0
}

// Sum is what a node holds of a range: two nodes with equal sums hold the same.
type Sum struct {
	Range
	Count uint32
	Hash  uint64 // of all versions in the range, by exclusive or
}

// Listing is all that a node holds of a range.
type Listing struct {
	Range
	Versions []Version
}

// wireMessage is a message as it travels. Numbers of fields are never used again for something else;
// those that are not known are passed over.
type wireMessage struct {
	Announce  []byte        `cbor:"1,keyasint,omitempty"` // versions of 24 bytes
	Offer     []byte        `cbor:"2,keyasint,omitempty"`
	Fetch     []byte        `cbor:"3,keyasint,omitempty"` // ids of 8 bytes
	Documents [][]byte      `cbor:"4,keyasint,omitempty"`
	Compare   []byte        `cbor:"5,keyasint,omitempty"` // sums of 21 bytes
	Listings  []wireListing `cbor:"6,keyasint,omitempty"`
	Head      commit        `cbor:"7,keyasint,omitempty"`
}

type wireListing struct {
	Range    []byte `cbor:"1,keyasint"` // 9 bytes
	Versions []byte `cbor:"2,keyasint,omitempty"`
}

// Lengths of what is packed.
const (
	idSize      = 8
	versionSize = 24 // id, boot, sequence, hash
	rangeSize   = 9  // prefix, bits
	sumSize     = rangeSize + 4 + 8
)

// Encode returns m as it is sent.
func (m Message) Encode() ([]byte, error) {
	w := wireMessage{Announce: packVersions(m.Announce), Offer: packVersions(m.Offer)}
	for _, id := range m.Fetch {
		w.Fetch = binary.BigEndian.AppendUint64(w.Fetch, uint64(id))
	}
	for _, d := range m.Documents {
		w.Documents = append(w.Documents, d.data)
	}
	for _, s := range m.Compare {
		w.Compare = appendRange(w.Compare, s.Range)
		w.Compare = binary.BigEndian.AppendUint32(w.Compare, s.Count)
		w.Compare = binary.BigEndian.AppendUint64(w.Compare, s.Hash)
	}
	for _, l := range m.Listings {
		w.Listings = append(w.Listings, wireListing{appendRange(nil, l.Range), packVersions(l.Versions)})
	}
	if m.Head.ID != "" {
		id, err := hex.DecodeString(m.Head.ID)
		if err != nil {
			return nil, fmt.Errorf("message: head %q is no full id", m.Head.ID)
		}
		w.Head = commit{id, m.Head.Level, micros(m.Head.Time)}
	}
	return encoding.Marshal(w)
}

// DecodeMessage reads a message, and verifies its documents as [Open] does; refused says why some of
// them do not count. Any other fault makes the whole message an error. It keeps data, which must not be
// changed any more.
func DecodeMessage(data []byte, keys func(node string) []ed25519.PublicKey) (m Message, refused []error, err error) {
	if len(data) > MaxMessageSize {
		return Message{}, nil, fmt.Errorf("message: %d bytes, want at most %d", len(data), MaxMessageSize)
	}
	var w wireMessage
	if err := decoding.Unmarshal(data, &w); err != nil {
		return Message{}, nil, fmt.Errorf("message: %w", err)
	}
	if len(w.Fetch)%idSize != 0 || len(w.Compare)%sumSize != 0 {
		return Message{}, nil, errors.New("message: ids or sums that are cut off")
	}
	var errs [3]error
	m.Announce, errs[0] = unpackVersions(w.Announce)
	m.Offer, errs[1] = unpackVersions(w.Offer)
	for b := w.Fetch; len(b) > 0; b = b[idSize:] {
		m.Fetch = append(m.Fetch, NodeID(binary.BigEndian.Uint64(b)))
	}
	for b := w.Compare; len(b) > 0; b = b[sumSize:] {
		s := Sum{unpackRange(b), binary.BigEndian.Uint32(b[rangeSize:]), binary.BigEndian.Uint64(b[rangeSize+4:])}
		if !s.valid() {
			return Message{}, nil, errors.New("message: a range that is none")
		}
		m.Compare = append(m.Compare, s)
	}
	for _, l := range w.Listings {
		if len(l.Range) != rangeSize || !unpackRange(l.Range).valid() {
			return Message{}, nil, errors.New("message: a range that is none")
		}
		versions, err := unpackVersions(l.Versions)
		errs[2] = errors.Join(errs[2], err)
		m.Listings = append(m.Listings, Listing{unpackRange(l.Range), versions})
	}
	if err := errors.Join(errs[:]...); err != nil {
		return Message{}, nil, err
	}
	if len(w.Head.ID) > 0 {
		m.Head = reconcile.Commit{ID: hex.EncodeToString(w.Head.ID), Level: w.Head.Level, Time: timeOf(w.Head.Time)}
	}
	for _, b := range w.Documents {
		d, err := Open(b, keys)
		if err != nil {
			refused = append(refused, err)
			continue
		}
		m.Documents = append(m.Documents, d)
	}
	return m, refused, nil
}

// Join says in m what other says as well, for the same receiver. It reports false, and m is what it was, when
// that would make a message of more than [MaxSize]. Neither message shares anything with the other then.
func (m *Message) Join(other Message) bool {
	if m.size()+other.size() > MaxSize {
		return false
	}
	m.Announce = slices.Concat(m.Announce, other.Announce)
	m.Offer = slices.Concat(m.Offer, other.Offer)
	m.Fetch = slices.Concat(m.Fetch, other.Fetch)
	m.Compare = slices.Concat(m.Compare, other.Compare)
	m.Listings = slices.Concat(m.Listings, other.Listings)
	documents := slices.Clone(m.Documents)
	for _, d := range other.Documents {
		// A newer one of the same node takes the place of the older.
		i := slices.IndexFunc(documents, func(o Sealed) bool { return o.Version.Node == d.Version.Node })
		switch {
		case i < 0:
			documents = append(documents, d)
		case d.Version.Newer(documents[i].Version):
			documents[i] = d
		}
	}
	m.Documents = documents
	if other.Head.ID != "" && (m.Head.ID == "" || other.Head.Level > m.Head.Level) {
		m.Head = other.Head
	}
	return true
}

// size is about what m takes when it is encoded, bytes.
func (m *Message) size() int {
	size := versionSize*(len(m.Announce)+len(m.Offer)) + idSize*len(m.Fetch) + sumSize*len(m.Compare)
	for _, d := range m.Documents {
		size += len(d.data)
	}
	for _, l := range m.Listings {
		size += rangeSize + versionSize*len(l.Versions)
	}
	return size
}

func packVersions(versions []Version) []byte {
	var b []byte
	for _, v := range versions {
		b = binary.BigEndian.AppendUint64(b, uint64(v.Node))
		b = binary.BigEndian.AppendUint32(b, v.Number.Boot)
		b = binary.BigEndian.AppendUint32(b, v.Number.Seq)
		b = binary.BigEndian.AppendUint64(b, v.Hash)
	}
	return b
}

func unpackVersions(b []byte) ([]Version, error) {
	if len(b)%versionSize != 0 {
		return nil, errors.New("message: a version that is cut off")
	}
	var versions []Version
	for ; len(b) > 0; b = b[versionSize:] {
		versions = append(versions, Version{
			Node:   NodeID(binary.BigEndian.Uint64(b)),
			Number: Number{binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])},
			Hash:   binary.BigEndian.Uint64(b[16:]),
		})
	}
	return versions, nil
}

func appendRange(b []byte, r Range) []byte {
	return append(binary.BigEndian.AppendUint64(b, uint64(r.Prefix)), r.Bits)
}

func unpackRange(b []byte) Range {
	return Range{NodeID(binary.BigEndian.Uint64(b)), b[8]}
}
