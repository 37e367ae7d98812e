package reconcile

import (
	"slices"
	"strconv"
	"time"
	"unique"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// record is an instance of another node's document as the index keeps it: what the decisions read, in
// a quarter of the room. Equal records say the same.
type record struct {
	from       *peer
	common     unique.Handle[common]
	note       unique.Handle[remark] // zero when there is nothing to say
	odd        unique.Handle[Instance]
	uid        [16]byte
	epoch      int64
	boot       int64
	claimed    int64 // nanoseconds since 1970; so readySince, 0 when never
	readySince int64
	ordinal    int32
	suffix     [suffixLength]byte // of the pod's name
	ready      bool
	leaving    bool
}

// common is what the pods of one workload, commit and phase share.
type common struct {
	node, revision, cause, app, kind, namespace, owner string // node is the slot's
	commit                                             Commit
	phase                                              corev1.PodPhase
}

// remark is what an instance says for people.
type remark struct{ reason, message string }

// newRecord leaves out addresses and restarts. An instance that does not fit the form is kept whole.
func newRecord(from *peer, m *Instance) record {
	r := record{
		from: from, epoch: m.Epoch, boot: m.Boot, claimed: m.Claimed.UnixNano(), ordinal: m.Slot.Ordinal, ready: m.Ready, leaving: m.Terminating,
		common: unique.Make(common{
			node: m.Slot.Node, revision: m.Revision, cause: m.Cause, app: m.App, kind: m.Kind, namespace: m.Namespace, owner: m.Owner,
			commit: m.Commit, phase: m.Phase,
		}),
	}
	if !m.ReadySince.IsZero() {
		r.readySince = m.ReadySince.UnixNano()
	}
	if m.Reason != "" || m.Message != "" {
		r.note = unique.Make(remark{m.Reason, m.Message})
	}
	copy(r.suffix[:], m.Name[max(0, len(m.Name)-suffixLength):])
	r.uid, _ = parseUID(m.UID)
	whole := *m
	whole.PodIP, whole.Restarts = "", 0
	if r.instance(m.Slot.Workload) != whole {
		r.odd = unique.Make(whole)
	}
	return r
}

func (r *record) slot(workload types.UID) Slot {
	return Slot{Workload: workload, Ordinal: r.ordinal, Node: r.common.Value().node}
}

// instance is the record as its node told it.
func (r *record) instance(workload types.UID) Instance {
	if r.odd != (unique.Handle[Instance]{}) {
		return r.odd.Value()
	}
	c := r.common.Value()
	m := Instance{
		Slot: r.slot(workload), Revision: c.revision, Epoch: r.epoch, Node: r.from.name, Boot: r.boot,
		Claimed: time.Unix(0, r.claimed).UTC(), Cause: c.cause, Commit: c.commit, App: c.app, Kind: c.kind, Namespace: c.namespace, Owner: c.owner,
		Name: podName(c.kind, c.owner, c.revision, string(r.suffix[:])), UID: formatUID(r.uid), Phase: c.phase, Ready: r.ready, Terminating: r.leaving,
	}
	if r.readySince != 0 {
		m.ReadySince = time.Unix(0, r.readySince).UTC()
	}
	if r.note != (unique.Handle[remark]{}) {
		n := r.note.Value()
		m.Reason, m.Message = n.reason, n.message
	}
	return m
}

// seat is the memory of one slot, in as little room as most slots need.
type seat struct {
	key   string // as Slot.key
	epoch int64
	boot  int64
	node  string
	base  unique.Handle[seatBase]
	rest  *SlotState // timers and failures; nil when there are none
}

// seatBase is what the slots of a workload share.
type seatBase struct{ app, revision string }

var noBase = unique.Make(seatBase{})

// state is what is remembered of the slot.
func (t *seat) state() SlotState {
	var s SlotState
	if t.rest != nil {
		s = *t.rest
	}
	b := t.base.Value()
	s.App, s.Revision, s.Epoch, s.Node, s.Boot = b.app, b.revision, t.epoch, t.node, t.boot
	return s
}

func (t *seat) set(s SlotState) {
	t.epoch, t.node, t.boot = s.Epoch, s.Node, s.Boot
	t.setBase(s.App, s.Revision)
	s.App, s.Revision, s.Epoch, s.Node, s.Boot = "", "", 0, "", 0
	switch {
	case s == SlotState{}:
		t.rest = nil
	case t.rest == nil || *t.rest != s:
		rest := s // so that only what is kept is made
		t.rest = &rest
	}
}

func (t *seat) setBase(app, revision string) {
	if b := t.base.Value(); b.app != app || b.revision != revision {
		t.base = unique.Make(seatBase{app, revision})
	}
}

// see remembers what a pod tells of its slot.
func (t *seat) see(r *record) {
	if r.epoch >= t.epoch {
		t.epoch, t.node, t.boot = r.epoch, r.from.name, r.boot
	}
	if app := r.common.Value().app; app != "" {
		t.setBase(app, t.base.Value().revision)
	}
}

// find returns the place of a slot's seat, and whether it is there. Seats are sorted by the length of
// their keys and then the key, which is the order of ordinals.
func (g *tracked) find(id Slot) (int, bool) {
	cut, end := len(g.uid)+1, id.Node
	if end == "" {
		end = strconv.Itoa(int(id.Ordinal))
		if i := int(id.Ordinal); i >= 0 && i < len(g.seats) && g.seats[i].key[cut:] == end {
			return i, true
		}
	}
	from, to := 0, len(g.seats)
	for from < to {
		i := int(uint(from+to) / 2)
		key := g.seats[i].key[cut:]
		if len(key) < len(end) || len(key) == len(end) && key < end {
			from = i + 1
		} else {
			to = i
		}
	}
	return from, from < len(g.seats) && g.seats[from].key[cut:] == end
}

// seat returns the memory of a slot, a new one if need be. It is good until the next new one.
func (g *tracked) seat(id Slot) *seat { return &g.seats[g.sit(id)] }

// sit returns the place of a slot's seat, a new one if need be.
func (g *tracked) sit(id Slot) int {
	i, ok := g.find(id)
	if !ok {
		g.seats = slices.Insert(g.seats, i, seat{key: id.key(), base: noBase})
	}
	return i
}
