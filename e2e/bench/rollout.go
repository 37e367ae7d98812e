package main

import (
	"fmt"
	"time"
)

const rolled = 10 // replicas of the rolling update

// rollout measures a rolling update against what it is made of: the starts of its pods, one after
// another.
func (f *flock) rollout() error {
	var single, update []time.Duration
	for i := range f.count(3, 1) {
		one := deployment{fmt.Sprintf("single-%d", i), 1, "1"}
		for range f.count(3, 1) {
			took, err := f.rolls(one)
			if err != nil {
				return err
			}
			single = append(single, took)
			if err := f.remove(one); err != nil {
				return err
			}
		}
		d := deployment{fmt.Sprintf("rolled-%d", i), rolled, "1"}
		if err := f.deploy(d); err != nil {
			return err
		}
		if err := f.settle(); err != nil {
			return err
		}
		d.version = "2"
		took, err := f.rolls(d)
		if err != nil {
			return err
		}
		update = append(update, took)
		if err := f.remove(d); err != nil {
			return err
		}
	}
	pod, all := quantile(single, .5), quantile(update, .5)
	bound := rolled * pod * 6 / 5
	f.table.add("rollout", "one pod, decided → Ready, p50", seconds(pod))
	f.table.judge("rollout", "update of 10 pods, maxSurge 1, maxUnavailable 0: first decided → all Ready, p50", seconds(all),
		"≤ "+seconds(bound)+" (10 pods + 20 %)", all <= bound)
	return nil
}

// rolls pushes a deployment and returns the time from the first pod that the agent decided to start
// to the last one seen ready, so that both figures leave out the way of the commit.
func (f *flock) rolls(d deployment) (time.Duration, error) {
	began, last, err := f.release(d)
	if err != nil {
		return 0, err
	}
	first, err := f.firstStart(d, began)
	return last.Sub(first), err
}
