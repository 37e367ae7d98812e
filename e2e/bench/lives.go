package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/pleachdev/pleach/e2e/sim"
)

// sim measures the simulator, and counts starts of what ran already, in lives without and with faults
// of every kind; of those only starts outside of partitions count.
func (b *bench) sim() error {
	var took []time.Duration
	for seed := range b.count(3, 1) {
		start := cpuTime()
		life := sim.Generate(uint64(seed+1), 20, 10*time.Minute)
		r, _ := sim.Run(life)
		spent := cpuTime() - start
		if v := sim.Check(r); v != nil {
			return fmt.Errorf("seed %d, 20 nodes: %w", seed+1, v)
		}
		// A life goes on after its faults until the flock is whole.
		took = append(took, time.Duration(float64(spent)*float64(10*time.Minute)/float64(r.End)))
	}
	p50 := quantile(took, .5)
	b.table.judge("sim", "20 nodes, all faults, 10 simulated minutes: processor time", seconds(p50), "≤ 5.00 s", p50 <= 5*time.Second)
	lives, all, second := 0, 0, 0
	for _, nodes := range []int{3, 5} {
		for seed := range b.count(40, 2) {
			if b.ctx.Err() != nil {
				return b.ctx.Err()
			}
			r, _ := sim.Run(sim.Generate(uint64(seed+1), nodes, 6*time.Minute))
			if v := sim.Check(r); v != nil {
				return fmt.Errorf("seed %d, %d nodes: %w", seed+1, nodes, v)
			}
			a, s := r.Starts()
			lives, all, second = lives+1, all+a, second+s
		}
	}
	if all == 0 {
		return errors.New("nothing was started in any life")
	}
	share := float64(second) / float64(all)
	b.table.judge("sim", fmt.Sprintf("second starts ÷ starts without a partition, %d lives", lives), fmt.Sprintf("%.2f %% (%d of %d)", 100*share, second, all), "≤ 0.1 %", share <= .001)
	return nil
}
