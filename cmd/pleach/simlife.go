package main

import (
	"github.com/pleachdev/pleach/e2e/sim"
)

// life is the simulated life of the flock that a prospect describes, without events: its pushes bring what
// is accepted at the base, when there is one, and what is at the head.
func (p *prospect) life(seed uint64) sim.Life {
	given := &sim.Given{Apps: p.foresight.After.AppNames()}
	for _, n := range p.foresight.After.Nodes {
		n = n.DeepCopy() // what was accepted is not changed
		for _, d := range p.documents {
			if d.Node == n.Name && len(d.Allocatable) > 0 {
				n.Status.Allocatable = d.Allocatable
			}
		}
		given.Machines = append(given.Machines, n)
	}
	for _, a := range p.states() {
		given.Commits = append(given.Commits, a.Objects())
	}
	return sim.Life{Seed: seed, Nodes: len(given.Machines), Given: given}
}
