package reconcile

import (
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// StateVersion is the version of State's form.
const StateVersion = 1

// State is what a node remembers between steps: timers and the last that was seen of slots. It is
// not needed for safety. A node that lost it starts its timers again, and reads the rest from the
// documents. The zero value is the state of a new node.
type State struct {
	Version   int                        `json:"version"`
	Slots     map[string]SlotState       `json:"slots,omitempty"` // by "<workload uid>/<ordinal or node>"
	Workloads map[types.UID]RolloutState `json:"workloads,omitempty"`
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
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

func (s State) clone() State {
	s.Version = StateVersion
	s.Slots, s.Workloads = maps.Clone(s.Slots), maps.Clone(s.Workloads)
	if s.Slots == nil {
		s.Slots = map[string]SlotState{}
	}
	if s.Workloads == nil {
		s.Workloads = map[types.UID]RolloutState{}
	}
	return s
}

// forget drops what is remembered of workloads that are neither wanted nor seen. What belongs to an
// app without an accepted version is kept: its objects are unknown, not deleted. Slots that were
// scaled away are kept for their epochs.
func (p *pass) forget() {
	seen := map[types.UID]bool{}
	for _, w := range p.workloads {
		seen[w.uid] = true
	}
	for _, m := range p.strays {
		seen[m.Slot.Workload] = true
	}
	maps.DeleteFunc(p.state.Slots, func(key string, s SlotState) bool {
		uid, _, _ := strings.Cut(key, "/")
		_, known := p.in.Accepted[s.App]
		return !seen[types.UID(uid)] && (known || s.App == "")
	})
	maps.DeleteFunc(p.state.Workloads, func(uid types.UID, s RolloutState) bool {
		_, known := p.in.Accepted[s.App]
		return !seen[uid] && known
	})
}
