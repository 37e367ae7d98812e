package main

import (
	"runtime"
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

// each returns the work of each of n rounds, sorted: the processor time of the thread, so that it does not
// matter who else is on the machine. prepare and undo are not counted.
func each(n int, prepare, measured, undo func(i int)) []time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var took []time.Duration
	for i := range n {
		prepare(i)
		start := threadTime()
		measured(i)
		took = append(took, threadTime()-start)
		undo(i)
	}
	slices.Sort(took)
	return took
}

// threadTime is what this thread has used of the processors.
func threadTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic(err) // every Linux has this clock
	}
	return time.Duration(t.Nano())
}
