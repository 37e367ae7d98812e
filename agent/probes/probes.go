// Package probes runs the startup, readiness and liveness probes of containers.
//
// It keeps Kubernetes' meaning of every field with one addition: before its first success a
// startup or readiness probe is retried soon, ever later up to periodSeconds, so that a container
// that starts fast is ready fast. Those early retries never count as failures: failureThreshold
// still means that many misses, periodSeconds apart.
package probes

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Kind tells the three probes of a container apart.
type Kind string

// The kinds, in Kubernetes' words for events ("Readiness probe failed: …").
const (
	Startup   Kind = "Startup"
	Readiness Kind = "Readiness"
	Liveness  Kind = "Liveness"
)

// The first check comes when the program had some time to listen, and each early retry waits twice as long
// as the one before: so a program is seen ready after at most about twice the time that it needed.
const (
	settle     = 20 * time.Millisecond
	execSettle = 100 * time.Millisecond // of retries of a command, which costs more than most programs' start
)

// Result is what a check found.
type Result struct {
	OK      bool
	Message string // why not, for the event
}

// Check runs one check. It must return when ctx ends.
type Check func(ctx context.Context) Result

// Prober runs one probe of one running container.
type Prober struct {
	Kind  Kind
	Probe *corev1.Probe
	Check Check
	// Started is when the container started: initialDelaySeconds counts from it.
	Started time.Time
	// Offset delays the first check; it spreads the probes of an agent that adopts many
	// containers at once.
	Offset time.Duration
	// Passed says that the probe succeeded before this Prober began (the container was adopted):
	// its standing is kept until checks say otherwise.
	Passed bool
	// Changed is called when the standing turns: true after successThreshold successes, false after
	// failureThreshold failures. Calls do not overlap.
	Changed func(ok bool, message string)
	// Failed is called for each check that counts as a failure. May be nil.
	Failed func(message string)
}

// Run probes until ctx ends; a startup probe also ends with its first standing, and a liveness
// probe once it has failed for good.
func (p *Prober) Run(ctx context.Context) {
	period := seconds(p.Probe.PeriodSeconds, 10)
	failureThreshold := max(p.Probe.FailureThreshold, 1)
	if p.Probe.FailureThreshold == 0 {
		failureThreshold = 3
	}
	successThreshold := max(p.Probe.SuccessThreshold, 1)

	delay := max(time.Duration(p.Probe.InitialDelaySeconds)*time.Second, settle)
	wait := max(time.Until(p.Started.Add(delay)), 0) + p.Offset
	retry, early := settle, p.Kind != Liveness && !p.Passed
	if p.Probe.Exec != nil {
		retry = execSettle
	}
	standing, known := p.Passed, p.Passed
	var successes, failures int32
	var countFrom time.Time // the next failure counts from here on; zero: at once
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		began := time.Now()
		result := p.once(ctx)
		if ctx.Err() != nil {
			return
		}
		next := period
		if result.OK {
			successes, failures, early = successes+1, 0, false
			if successes >= successThreshold && (!known || !standing) {
				standing, known = true, true
				p.Changed(true, "")
				if p.Kind == Startup {
					return
				}
			}
		} else {
			successes = 0
			if !began.Before(countFrom) {
				failures++
				countFrom = began.Add(period)
				if p.Failed != nil {
					p.Failed(result.Message)
				}
			}
			if failures >= failureThreshold && (!known || standing) {
				standing, known = false, true
				p.Changed(false, result.Message)
				if p.Kind != Readiness {
					return
				}
			}
			if early {
				next, retry = min(retry, period), min(2*retry, period)
				// A check that would count must not come late because of a long early delay.
				if until := time.Until(countFrom); until > 0 && until < next {
					next = until
				}
			}
		}
		// periodSeconds is from start to start, as the kubelet's ticker has it.
		timer.Reset(max(next-time.Since(began), 0))
	}
}

func (p *Prober) once(ctx context.Context) Result {
	ctx, cancel := context.WithTimeout(ctx, seconds(p.Probe.TimeoutSeconds, 1))
	defer cancel()
	return p.Check(ctx)
}

func seconds(n, otherwise int32) time.Duration {
	if n <= 0 {
		n = otherwise
	}
	return time.Duration(n) * time.Second
}
