// Package sim runs a flock of simulated nodes under faults, and checks what the nodes said of themselves.
//
// The decisions are those of [reconcile.Step], the very function that agents run. Around it everything
// is simulated: the clock of every node, the network, the Git remote, disks, the container runtime and
// the power. A life is written down before it is lived: [Generate] turns a seed into a [Life], a list of
// events (commits and faults), and [Run] lives it, one event after the other in one goroutine, so that
// the same life gives the same bytes.
//
//	seed ─ Generate ─▶ Life ─ Run ─▶ Recording ─ Check ─▶ nil, or a Violation
//	                    ▲                                     │
//	                    └───────────── Shrink ◀───────────────┘
//
// [Check] reads documents, the history and what was done to the nodes, and nothing of the simulation:
// it judges the documents of a real flock as well.
package sim
