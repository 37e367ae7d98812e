package gossip

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/fxamacker/cbor/v2"

	"github.com/pleachdev/pleach/reconcile"
)

const (
	// FormatVersion is the version of the documents that this package writes. A later agent adds
	// fields to the payload without changing it, and earlier ones pass over them: documents of others
	// are kept and passed on as the bytes that were signed, so that nothing of them is lost. It
	// changes only when what is there comes to mean something else.
	FormatVersion = 1
	// MaxSize is the largest encoded document, bytes: some 10,000 instances.
	MaxSize = 1 << 20

	// domain keeps a signature of a document from being taken for one of something else.
	domain = "pleach.dev/node-document\x00"
	// trailer is the length of the last element of the envelope: a byte string's head and a signature.
	trailer = 2 + ed25519.SignatureSize
)

// What Open refuses.
var (
	// ErrSignature means that none of the node's keys made the signature.
	ErrSignature = errors.New("not signed by a key of the node")
	// ErrVersion means that a newer agent wrote the document in a format that this one does not know.
	ErrVersion = errors.New("unknown format version")
)

// envelope is what every version of the format begins with: an array of these elements. The
// signature is over the domain and all bytes before its own element.
type envelope struct {
	_         struct{} `cbor:",toarray"`
	Version   uint32
	Node      string
	Boot      uint32
	Seq       uint32
	Payload   []byte
	Signature []byte
}

// Sealed is a document as its node signed it: encoded, verified and never changed. The zero value is
// no document.
type Sealed struct {
	Node    string
	Version Version
	by      ed25519.PublicKey // the key that verified it
	data    []byte
	payload []byte // part of data
}

// Bytes returns the encoded document. It must not be changed.
func (s Sealed) Bytes() []byte { return s.data }

// Encode writes and signs a document. Times are kept to the microsecond, messages of instances to
// [MaxMessage] bytes. A document of which another part of the node's own code could make no sense is
// an error: entries of other nodes, ids that are no ids.
func Encode(d reconcile.Document, key ed25519.PrivateKey) (Sealed, error) {
	if len(key) != ed25519.PrivateKeySize {
		return Sealed{}, errors.New("sign the node document: the node's ed25519 key is needed")
	}
	if d.Node == "" || d.Boot < 0 || d.Boot > math.MaxUint32 || d.Seq < 0 || d.Seq > math.MaxUint32 {
		return Sealed{}, fmt.Errorf("document of node %q: number %d/%d is out of range", d.Node, d.Boot, d.Seq)
	}
	p, err := write(&d)
	if err != nil {
		return Sealed{}, fmt.Errorf("document of node %s: %w", d.Node, err)
	}
	body, err := encoding.Marshal(p)
	if err != nil {
		return Sealed{}, fmt.Errorf("document of node %s: %w", d.Node, err)
	}
	data, err := encoding.Marshal(envelope{
		Version: FormatVersion, Node: d.Node, Boot: uint32(d.Boot), Seq: uint32(d.Seq),
		Payload: body, Signature: make([]byte, ed25519.SignatureSize),
	})
	if err != nil {
		return Sealed{}, fmt.Errorf("document of node %s: %w", d.Node, err)
	}
	if len(data) > MaxSize {
		return Sealed{}, fmt.Errorf("document of node %s: %d bytes, want at most %d", d.Node, len(data), MaxSize)
	}
	copy(data[len(data)-ed25519.SignatureSize:], ed25519.Sign(key, signed(data)))
	s, err := seal(data)
	s.by = key.Public().(ed25519.PublicKey)
	return s, err
}

// Open verifies an encoded document. keys returns the public keys of a node by its name, none when
// the node is not enrolled; nothing of data counts before one of them has verified it. Open keeps
// data, which must not be changed any more.
func Open(data []byte, keys func(node string) []ed25519.PublicKey) (Sealed, error) {
	s, err := seal(data)
	if err != nil {
		return Sealed{}, err
	}
	text, signature := signed(data), data[len(data)-ed25519.SignatureSize:]
	for _, key := range keys(s.Node) {
		if len(key) == ed25519.PublicKeySize && ed25519.Verify(key, text, signature) {
			s.by = key
			return s, nil
		}
	}
	return Sealed{}, fmt.Errorf("document that says it is of node %q: %w", s.Node, ErrSignature)
}

// seal reads the envelope and verifies nothing.
func seal(data []byte) (Sealed, error) {
	if len(data) > MaxSize {
		return Sealed{}, fmt.Errorf("document: %d bytes, want at most %d", len(data), MaxSize)
	}
	if version, ok := formatVersion(data); ok && version != FormatVersion {
		return Sealed{}, fmt.Errorf("document: %w %d, this agent knows %d; upgrade it", ErrVersion, version, FormatVersion)
	}
	var e envelope
	if err := decoding.Unmarshal(data, &e); err != nil {
		return Sealed{}, fmt.Errorf("document: %w", err)
	}
	if len(e.Signature) != ed25519.SignatureSize || !bytes.HasSuffix(data, e.Signature) || e.Node == "" || len(e.Node) > maxNodeName {
		return Sealed{}, errors.New("document: malformed envelope")
	}
	sum := sha256.Sum256(data)
	start := len(data) - trailer - len(e.Payload)
	if start < 0 || !bytes.Equal(data[start:start+len(e.Payload)], e.Payload) {
		return Sealed{}, errors.New("document: malformed envelope")
	}
	return Sealed{
		Node: e.Node,
		Version: Version{
			Node: IDOf(e.Node), Number: Number{e.Boot, e.Seq}, Hash: binary.BigEndian.Uint64(sum[:]),
		},
		data:    data,
		payload: data[start : start+len(e.Payload)], // not the decoder's copy of it
	}, nil
}

// formatVersion reads the first element of an envelope, whatever follows.
func formatVersion(data []byte) (version uint64, ok bool) {
	if len(data) < 2 || data[0]>>5 != 4 || data[0]&31 > 23 {
		return 0, false // not an array of few elements
	}
	_, err := decoding.UnmarshalFirst(data[1:], &version)
	return version, err == nil
}

// signed returns what the signature of an encoded document covers.
func signed(data []byte) []byte {
	return append([]byte(domain), data[:len(data)-trailer]...)
}

// Limits that no honest document reaches.
const (
	maxNodeName = 253
	maxElements = 1 << 16
)

var encoding, decoding = modes()

// modes returns the one way in which things are written, and the rules for what is read. Fields that
// are not known are passed over.
func modes() (cbor.EncMode, cbor.DecMode) {
	enc, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		panic(err) // constant options
	}
	dec, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		MaxNestedLevels: 8, MaxArrayElements: maxElements, MaxMapPairs: 1 << 12,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return enc, dec
}
