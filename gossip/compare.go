package gossip

import "slices"

// A comparison finds what two nodes hold differently. It begins with one sum over everything; where
// sums differ the answer has sums of sixteen parts, and where few versions are left their list. Nodes
// that hold the same exchange one small message.
const (
	partBits  = 4  // a range is parted in 16
	fewListed = 32 // versions of both sides together that are listed rather than parted
)

func (t *step) startComparison() {
	for _, p := range t.choose(1, "") {
		m := t.to(p)
		m.Compare, m.Head = append(m.Compare, t.sum(Range{})), t.head
	}
	t.askVoid()
}

// compareSums answers what a peer holds of a range.
func (t *step) compareSums(from string, theirs Sum) {
	mine := t.sum(theirs.Range)
	if mine == theirs {
		return
	}
	m := t.to(from)
	if int64(mine.Count)+int64(theirs.Count) <= fewListed || theirs.Bits+partBits > 64 {
		m.Listings = append(m.Listings, t.listing(theirs.Range))
		return
	}
	for i := range NodeID(1 << partBits) {
		bits := theirs.Bits + partBits
		m.Compare = append(m.Compare, t.sum(Range{theirs.Prefix | i<<(64-bits), bits}))
	}
}

// compareListing takes what the peer has newer and offers what it has older or lacks.
func (t *step) compareListing(from string, l Listing) {
	theirs := make(map[NodeID]Version, len(l.Versions))
	for _, v := range l.Versions {
		theirs[v.Node] = v
	}
	var offer []Version
	for _, id := range t.in(l.Range) {
		if v, ok := theirs[id]; !ok || t.held[id].Version.Newer(v) {
			offer = append(offer, t.held[id].Version)
		}
	}
	spread := len(t.wants) < fewWants
	for _, v := range l.Versions {
		t.heard(from, v, spread)
	}
	if len(offer) > 0 {
		m := t.to(from)
		m.Offer = slices.Concat(m.Offer, offer)
	}
}
