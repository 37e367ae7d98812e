package main

import (
	"errors"
	"fmt"
	"math"
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
	if err := b.largeFlock(); err != nil {
		return err
	}
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

// largeFlock finds the largest flock whose simulated hour takes no more than ten minutes of a processor: it tries
// larger ones as long as what the last one took lets it expect that.
func (b *bench) largeFlock() error {
	const limit = 10 * time.Minute
	length := time.Duration(b.count(60, 15)) * time.Minute
	sizes := []int{20, 50, 100, 300, 1000}[:b.count(5, 1)]
	largest, took := 0, time.Duration(0)
	for _, nodes := range sizes {
		// What is simulated grows faster than by the square: documents times readers, and longer plans.
		if growth := math.Pow(float64(nodes)/float64(max(largest, 1)), 2.3); largest > 0 && time.Duration(float64(took)*growth) > limit {
			break
		}
		if b.ctx.Err() != nil {
			return b.ctx.Err()
		}
		start := cpuTime()
		r, _ := sim.Run(sim.Large(1, nodes, 20*nodes, length))
		spent := cpuTime() - start
		if v := sim.Check(r); v != nil {
			return fmt.Errorf("large flock of %d nodes: %w", nodes, v)
		}
		took = time.Duration(float64(spent) * float64(time.Hour) / float64(r.End))
		b.table.add("sim", fmt.Sprintf("%d nodes, %d slots, a simulated hour: processor time", nodes, 20*nodes), seconds(took))
		if took > limit {
			break
		}
		largest = nodes
	}
	b.table.judge("sim", "largest flock whose simulated hour takes at most 10 minutes", fmt.Sprintf("%d nodes, %d slots", largest, 20*largest), "1000 nodes, 20000 slots", largest >= 1000)
	return nil
}
