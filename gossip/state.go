package gossip

import (
	"cmp"
	"crypto/ed25519"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/pleachdev/pleach/reconcile"
)

// The pace of the spread. agreement between nodes does not depend on it.
const (
	// Fanout is how many peers hear of a change from a node that has just heard of it.
	Fanout = 5
	// Few is how many peers a node tells of its own news itself: in a flock of that many others the
	// document goes straight to all, one message each. Passing words on would take some eight messages for
	// each node that hears, and as many hops.
	Few = 32
	// CompareEvery is the time between two comparisons with one peer.
	CompareEvery = 2 * time.Second

	// fanoutLate hear of it once more when the document has come: at a loss of 5 % one word to each of
	// five leaves 0.9 % of a flock without any, too many for 99 % to have it at once. Among few it is the
	// only one that is passed on, for whom the writer does not reach.
	fanoutLate = 1

	fetchAgain = 100 * time.Millisecond // until a document is asked for once more, of the next who has it
	fetchLater = 2 * time.Second        // the same while catching up
	fetchTries = 8
	maxSources = 8  // peers remembered for one document
	fewWants   = 16 // a node that lacks more is catching up and tells nobody of what is news to it alone
	headHints  = 16 // heads that are passed on in headWindow, at most
	headWindow = 10 * time.Second
	maxJumps   = 3 // of the boot counter in jumpWindow: two machines have one key
	jumpWindow = time.Minute
)

// State is what a node knows of the flock's documents. [Step] takes the one that it is given over:
// only the State that it returns may be used afterwards.
type State struct {
	self     string
	id       NodeID
	rng      *rand.PCG
	enrolled map[NodeID]string
	peers    []string // reachable now, sorted, without this node

	held map[NodeID]Sealed // the newest of every node, this one's own included
	ids  []NodeID          // of held, sorted
	hash uint64            // of all of held
	// void names nodes that were held for gone. Their documents are passed on as others', and count
	// for nothing here until the node itself has handed over a current one.
	void  map[NodeID]bool
	wants map[NodeID]*want

	above     uint32      // the boot counter was told to be at least this
	jumps     []time.Time // of the boot counter, the last ones
	contested bool

	head    reconcile.Commit // the newest that this node has verified
	hints   []hint           // heads heard of lately
	compare time.Time        // when the next comparison is due; zero before the first event

	out []Send // room for what a step sends

	without rule
}

// want is a document that was heard of and is not here yet.
type want struct {
	version Version
	sources []string // peers that told of it
	waiting []string // peers that asked this node for it meanwhile
	tries   int
	retry   time.Time
	told    bool // others were told of it
}

// hint is a head that was heard of.
type hint struct {
	id string
	at time.Time
}

// NewState returns the state of a node that knows nothing yet. Which peers it chooses follows from seed.
func NewState(self string, seed uint64) State {
	return State{
		self: self, id: IDOf(self), rng: rand.NewPCG(seed, uint64(IDOf(self))),
		enrolled: map[NodeID]string{}, held: map[NodeID]Sealed{}, void: map[NodeID]bool{}, wants: map[NodeID]*want{},
	}
}

// Documents returns the documents that count, this node's own included, sorted by node.
func (s State) Documents() []Sealed {
	out := make([]Sealed, 0, len(s.held))
	for id, d := range s.held {
		if !s.void[id] {
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(a, b Sealed) int { return cmp.Compare(a.Node, b.Node) })
	return out
}

// Document returns the document of a node, if there is one that counts.
func (s State) Document(node string) (Sealed, bool) {
	id := IDOf(node)
	d, ok := s.held[id]
	return d, ok && !s.void[id]
}

// Contested reports whether another machine signs with this node's key. The node claims nothing then,
// until a person has taken one of the two away and the agent starts again.
func (s State) Contested() bool { return s.contested }

// silent reports whether a node whose key is contested has jumped often enough for the other machine
// to have found out as well.
func (s *State) silent() bool { return s.contested && len(s.jumps) >= 2*maxJumps }

// Wake is when Step wants a [Tick] at the latest; zero is at once.
func (s State) Wake() time.Time {
	wake := s.compare
	for _, w := range s.wants {
		if w.retry.Before(wake) {
			wake = w.retry
		}
	}
	return wake
}

// store replaces the document of a node.
func (s *State) store(d Sealed) {
	id := d.Version.Node
	if old, ok := s.held[id]; ok {
		s.hash ^= old.Version.Hash
	} else {
		at, _ := slices.BinarySearch(s.ids, id)
		s.ids = slices.Insert(s.ids, at, id)
	}
	s.held[id] = d
	s.hash ^= d.Version.Hash
}

// forget drops all that is known of nodes that are not enrolled, and the documents that were signed by a key
// which is not among keys any more; nil keys are not known.
func (s *State) forget(keys map[string][]ed25519.PublicKey) (dropped []string) {
	s.ids = slices.DeleteFunc(s.ids, func(id NodeID) bool {
		name, ok := s.enrolled[id]
		good := func(key ed25519.PublicKey) bool { return key.Equal(s.held[id].by) }
		if id == s.id || ok && (keys == nil || slices.ContainsFunc(keys[name], good)) {
			return false
		}
		dropped = append(dropped, s.held[id].Node)
		s.hash ^= s.held[id].Version.Hash
		delete(s.held, id)
		return true
	})
	unknown := func(id NodeID) bool { _, ok := s.enrolled[id]; return !ok && id != s.id }
	maps.DeleteFunc(s.void, func(id NodeID, _ bool) bool { return unknown(id) })
	maps.DeleteFunc(s.wants, func(id NodeID, _ *want) bool { return unknown(id) })
	return dropped
}

// in returns the ids of held documents in a range.
func (s *State) in(r Range) []NodeID {
	from, _ := slices.BinarySearch(s.ids, r.Prefix)
	to, found := slices.BinarySearch(s.ids, r.last())
	if found {
		to++
	}
	return s.ids[from:to]
}

func (s *State) sum(r Range) Sum {
	out := Sum{Range: r, Hash: s.hash}
	ids := s.in(r)
	out.Count = uint32(len(ids))
	if r.Bits > 0 {
		out.Hash = 0
		for _, id := range ids {
			out.Hash ^= s.held[id].Version.Hash
		}
	}
	return out
}

func (s *State) listing(r Range) Listing {
	out := Listing{Range: r}
	for _, id := range s.in(r) {
		out.Versions = append(out.Versions, s.held[id].Version)
	}
	return out
}

// few reports whether a node tells all others itself of what is news of its own.
func (s *State) few() bool { return len(s.peers) <= Few && s.without != ruleFew }

// choose returns up to n peers at random, except one.
func (s *State) choose(n int, except string) []string {
	out := make([]string, 0, n)
	if len(s.peers) <= n+1 {
		for _, p := range s.peers {
			if p != except && len(out) < n {
				out = append(out, p)
			}
		}
		return out
	}
	r := rand.New(s.rng)
	for len(out) < n {
		if p := s.peers[r.IntN(len(s.peers))]; p != except && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}
