package reconcile

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// StateVersion is the version of Memory's form.
const StateVersion = 1

// State is what a node knows from one step to the next: its memory, and an index of what the inputs have
// said. [Step] takes the one that it is given over: only the State that it returns may be used
// afterwards. The zero value is the state of a new node.
type State struct {
	memory Memory // until the first step
	index  *index
}

// Memory is what a node remembers that documents do not say: timers and the last that was seen of slots.
// It is not needed for safety. A node that lost it starts its timers again, and reads the rest from the
// documents.
type Memory struct {
	Version   int                        `json:"version"`
	Slots     map[string]SlotState       `json:"slots,omitempty"` // by "<workload uid>/<ordinal or node>"
	Workloads map[types.UID]RolloutState `json:"workloads,omitempty"`
}

// Resume returns the state of a node that remembers m.
func Resume(m Memory) State { return State{memory: m} }

// Memory returns what is to outlive a restart: of the slots that this node ran last, or gave up for a
// commit, and of bare Pods that ran to their end, with the rollouts of their workloads. It does not grow
// with the flock. Of the other slots the documents tell again what matters, their timers aside.
func (s State) Memory() Memory {
	if s.index == nil {
		return s.memory
	}
	return s.index.remembered(s.index.kept, s.index.keeps)
}

// MarshalJSON writes the memory.
func (s State) MarshalJSON() ([]byte, error) { return json.Marshal(s.Memory()) }

// UnmarshalJSON resumes from a memory that MarshalJSON has written.
func (s *State) UnmarshalJSON(data []byte) error {
	*s = State{}
	return json.Unmarshal(data, &s.memory)
}

// SlotState is what is remembered of one slot.
type SlotState struct {
	App   string `json:"app"`
	Epoch int64  `json:"epoch"` // the highest seen anywhere
	// Revision is the last that was available here: a slot that is lost during a rollout returns
	// to it. Node and Boot ran the slot last.
	Revision string `json:"revision,omitempty"`
	Node     string `json:"node,omitempty"`
	Boot     int64  `json:"boot,omitempty"`
	// Released is the epoch that this node gave up for a commit; a slot whose last epoch was given up
	// was not lost.
	Released int64 `json:"released,omitempty"`

	Open         time.Time `json:"open,omitzero"` // first seen open at OpenRevision
	OpenRevision string    `json:"openRevision,omitempty"`
	OpenBeside   bool      `json:"openBeside,omitempty"` // beside an old pod, for a surge
	// Unready is since when the slot is to run UnreadyRevision and has no available pod.
	Unready         time.Time `json:"unready,omitzero"`
	UnreadyRevision string    `json:"unreadyRevision,omitempty"`

	// Failures counts pods that ended; Ended is the last of them, Retry when the next may start.
	Failures int32           `json:"failures,omitempty"`
	Ended    types.UID       `json:"ended,omitempty"`
	Retry    time.Time       `json:"retry,omitzero"`
	Finished corev1.PodPhase `json:"finished,omitempty"` // of a bare Pod that ran to its end
}

// RolloutState is what is remembered of a workload's rollout.
type RolloutState struct {
	App        string             `json:"app"`
	Revision   string             `json:"revision"`
	Since      time.Time          `json:"since"` // of the last progress
	Updated    int32              `json:"updated"`
	Available  int32              `json:"available"` // of the updated
	Old        int32              `json:"old"`
	Complete   bool               `json:"complete"`
	Paused     bool               `json:"paused,omitempty"`
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// keeps reports whether the memory of a slot outlives a restart.
func (x *index) keeps(t *seat) bool {
	return t.node == x.self || t.rest != nil && (t.rest.Finished != "" || t.rest.Released > 0 && t.rest.Released >= t.epoch)
}

// remembered is the memory of the workloads of a set, as far as keep wants it.
func (x *index) remembered(set map[*tracked]bool, keep func(*seat) bool) Memory {
	m := Memory{Version: StateVersion, Slots: map[string]SlotState{}, Workloads: map[types.UID]RolloutState{}}
	for g := range set {
		for i := range g.seats {
			if t := &g.seats[i]; keep(t) {
				m.Slots[t.key] = t.state()
			}
		}
		if g.rollout != nil {
			m.Workloads[g.uid] = *g.rollout
		}
	}
	return m
}

// store puts away what a pass remembers of a workload.
func (x *index) store(g *tracked) {
	if g.w != nil {
		for _, s := range g.w.slots {
			g.seat(s.id).set(s.memory)
		}
	} else {
		x.forget(g)
	}
	g.records, g.seats = fitted(g.records), fitted(g.seats)
	put(x.kept, g, slices.ContainsFunc(g.seats, func(t seat) bool { return x.keeps(&t) }))
	if g.w == nil && len(g.records)+len(g.releases)+len(g.seats) == 0 && g.rollout == nil {
		for _, set := range []map[*tracked]bool{x.timed, x.wanting, x.listening, x.fresh} {
			delete(set, g)
		}
		delete(x.tracked, g.uid)
	}
}

// forget drops what is remembered of a workload that is neither wanted nor seen. What belongs to an
// app without an accepted version is kept: its objects are unknown, not deleted. Slots that were
// scaled away are kept for their epochs.
func (x *index) forget(g *tracked) {
	if slices.ContainsFunc(g.records, func(r record) bool { return !x.isGone(r.from) }) {
		return
	}
	g.seats = slices.DeleteFunc(g.seats, func(t seat) bool {
		app := t.base.Value().app
		_, known := x.accepted[app]
		return known || app == ""
	})
	if g.rollout != nil {
		if _, known := x.accepted[g.rollout.App]; known {
			g.rollout = nil
		}
	}
}

// slotOf reads the end of a slot's key.
func slotOf(uid types.UID, end string) Slot {
	if i, err := strconv.ParseInt(end, 10, 32); err == nil && strconv.FormatInt(i, 10) == end {
		return Slot{Workload: uid, Ordinal: int32(i)}
	}
	return Slot{Workload: uid, Node: end}
}

// fitted gives back room that a list does not need.
func fitted[T any](list []T) []T {
	if cap(list)-len(list) > len(list)/8+1 {
		return slices.Clone(list)
	}
	return list
}

func put[K comparable](set map[K]bool, k K, in bool) {
	if in {
		set[k] = true
	} else {
		delete(set, k)
	}
}

func sortedByRank(sets ...map[*tracked]bool) []*tracked {
	all := map[*tracked]bool{}
	for _, s := range sets {
		maps.Copy(all, s)
	}
	return slices.SortedFunc(maps.Keys(all), byRank)
}
