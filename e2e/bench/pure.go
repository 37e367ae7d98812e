package main

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime is what this process has used of the processors, whoever else is on the machine.
func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err) // with these arguments it cannot fail
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// processor returns the median of the processor time that f takes, of n times.
func processor(n int, f func()) time.Duration {
	var took []time.Duration
	for range n {
		start := cpuTime()
		f()
		took = append(took, cpuTime()-start)
	}
	return quantile(took, .5)
}

// each returns how long each of n rounds took, in order of time; prepare and undo are not counted.
func each(n int, prepare, measured, undo func(i int)) []time.Duration {
	var took []time.Duration
	for i := range n {
		prepare(i)
		start := time.Now()
		measured(i)
		took = append(took, time.Since(start))
		undo(i)
	}
	slices.Sort(took)
	return took
}
