package pods

import "time"

// The kubelet's restart back-off: 10 s doubling to 5 min, forgotten after 10 min of running.
const (
	minBackOff   = 10 * time.Second
	maxBackOff   = 5 * time.Minute
	resetBackOff = 10 * time.Minute
)

// backOff delays the restarts of one container. The first restart is immediate.
type backOff struct {
	Delay time.Duration `json:"delay,omitempty"` // before the next restart; 0 before the first
	Last  time.Time     `json:"last,omitzero"`   // the exit that the last restart followed
}

// until is when a container that exited at the given time may start again.
func (b backOff) until(exited time.Time) time.Time {
	if b.Delay == 0 || exited.Sub(b.Last) > resetBackOff {
		return exited
	}
	return exited.Add(b.Delay)
}

// next is the back-off after a restart that followed an exit.
func (b backOff) next(exited time.Time) backOff {
	if b.Delay == 0 || exited.Sub(b.Last) > resetBackOff {
		return backOff{Delay: minBackOff, Last: exited}
	}
	return backOff{Delay: min(2*b.Delay, maxBackOff), Last: exited}
}

// retry delays the repeats of a step that failed for a reason outside of the pod's own program.
type retry struct {
	delay time.Duration
	at    time.Time
}

const (
	minRetry = 500 * time.Millisecond
	maxRetry = 30 * time.Second
)

// failed counts a failure.
func (r *retry) failed(now time.Time) {
	r.delay = min(max(2*r.delay, minRetry), maxRetry)
	r.at = now.Add(r.delay)
}

func (r *retry) reset() { *r = retry{} }
