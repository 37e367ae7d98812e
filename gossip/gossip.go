// Package gossip holds what the nodes of a flock tell each other: every node's document, signed and
// numbered by that node alone, how it is written, when it may be believed, and how it spreads.
//
// It is pure. [Encode] and [Open] turn a [reconcile.Document] into signed bytes and back; [Truth]
// strikes out what a document cannot truthfully say; and [Step] takes the state of the spread and one
// event, and returns the next state and what is to be sent. None of them reads a clock, a socket or a
// file or starts a goroutine: agent and simulator drive the same code.
//
//	this node's document ─ Encode ─▶ Sealed ─▶ Publish ┐
//	peers ─ DecodeMessage (Open verifies) ─▶ Receive   ├─ Step ─▶ Send, Changed, Look, Renumber …
//	membership ─▶ Members, Gone      clock ─▶ Tick     ┘
package gossip

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
)

// NodeID is short for a node's name on the wire: the first 8 bytes of its SHA-256.
type NodeID uint64

// IDOf returns the id of the node of that name.
func IDOf(name string) NodeID {
	sum := sha256.Sum256([]byte(name))
	return NodeID(binary.BigEndian.Uint64(sum[:]))
}

// Number orders the documents of one node. Boot is the node's boot counter, Seq grows within a boot.
type Number struct {
	Boot, Seq uint32
}

// Compare is negative when n is older than o, and positive when it is newer.
func (n Number) Compare(o Number) int {
	return cmp.Or(cmp.Compare(n.Boot, o.Boot), cmp.Compare(n.Seq, o.Seq))
}

// Version is one version of one node's document. Hash tells two documents of one number apart, which
// only exist when two machines have one key.
type Version struct {
	Node   NodeID
	Number Number
	Hash   uint64 // the first 8 bytes of the SHA-256 of the encoded document
}

// Newer reports whether v replaces o, a version of the same node. Of two documents with one number
// every node keeps the same one.
func (v Version) Newer(o Version) bool {
	return cmp.Or(v.Number.Compare(o.Number), cmp.Compare(v.Hash, o.Hash)) > 0
}
