package pods

import (
	"context"
	"hash/fnv"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pleachdev/pleach/agent/probes"
)

// A prober is the probes of one instance of a container.
type prober struct {
	id      string
	started bool // the startup probe has passed, or there is none
	ready   bool // the readiness probe passes, or there is none
	running bool // readiness and liveness are under way
	killing bool // a probe has condemned the instance
	cancel  context.CancelFunc
	ctx     context.Context
}

// startProbes begins the probes of instances that run, and ends those of instances that do not.
func (w *worker) startProbes(ctx context.Context) {
	for name, c := range w.containers {
		current := w.obs.current(name)
		if current != nil && current.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING {
			current = nil
		}
		if c.prober != nil && (current == nil || current.GetId() != c.prober.id) {
			c.prober.cancel()
			c.prober = nil
		}
		if current == nil || c.hooking == current.GetId() || c.init && !c.sidecar {
			continue
		}
		if c.prober == nil {
			w.beginProbes(ctx, c, current)
		}
		if c.prober.started && !c.prober.running {
			c.prober.running = true
			w.probe(c, current, probes.Readiness, c.spec.ReadinessProbe, c.prober.ready)
			w.probe(c, current, probes.Liveness, c.spec.LivenessProbe, true)
		}
	}
}

func (w *worker) beginProbes(ctx context.Context, c *container, current *runtimeapi.ContainerStatus) {
	p := &prober{id: current.GetId(), started: c.spec.StartupProbe == nil, ready: c.spec.ReadinessProbe == nil}
	// What was known of this very instance holds until a probe says otherwise: a new agent must not
	// take a healthy container out of service.
	if s := w.remembered(c.spec.Name); s != nil && s.ContainerID == containerID(current.GetId()) {
		p.started = p.started || isTrue(s.Started)
		p.ready = p.ready || p.started && s.Ready
	}
	p.ctx, p.cancel = context.WithCancel(ctx)
	c.prober = p
	if !p.started {
		w.probe(c, current, probes.Startup, c.spec.StartupProbe, false)
	}
}

// probe runs one probe beside the loop; its findings come back into the loop.
func (w *worker) probe(c *container, current *runtimeapi.ContainerStatus, kind probes.Kind, spec *corev1.Probe, passed bool) {
	if spec == nil {
		return
	}
	p := c.prober
	started := time.Unix(0, current.GetStartedAt())
	target := probes.Target{
		PodIP: firstOf(w.podAddresses()), Container: c.spec,
		Exec: func(ctx context.Context, command []string, timeout time.Duration) ([]byte, error) {
			return w.exec(ctx, p.id, command, timeout)
		},
	}
	run := &probes.Prober{
		Kind: kind, Probe: spec, Check: target.For(spec), Started: started, Passed: passed,
		Offset: offset(p.id, spec.PeriodSeconds, started),
		Changed: func(ok bool, message string) {
			w.post(p.ctx, func() { w.probed(c, p, kind, spec, ok, message) })
		},
		Failed: func(message string) {
			w.eventf(corev1.EventTypeWarning, "Unhealthy", "%s probe failed: %s", kind, message)
		},
	}
	w.wg.Go(func() { run.Run(p.ctx) })
}

// offset spreads the probes of containers that an agent adopts; a fresh container is probed at once.
func offset(id string, periodSeconds int32, started time.Time) time.Duration {
	if time.Since(started) < 10*time.Second {
		return 0
	}
	hash := fnv.New32a()
	hash.Write([]byte(id))
	period := time.Duration(max(periodSeconds, 1)) * time.Second
	return time.Duration(hash.Sum32()) * time.Microsecond % period
}

func (w *worker) probed(c *container, p *prober, kind probes.Kind, spec *corev1.Probe, ok bool, message string) {
	if c.prober != p {
		return
	}
	switch {
	case kind == probes.Readiness:
		p.ready = ok
	case kind == probes.Startup && ok:
		p.started = true
	case !ok && !p.killing:
		p.killing = true
		w.condemn(p, c, kind, spec, message)
	}
}

// condemn ends an instance that failed its liveness or startup probe; what follows is up to the
// restart policy.
func (w *worker) condemn(p *prober, c *container, kind probes.Kind, spec *corev1.Probe, message string) {
	grace := w.graceSeconds()
	if spec.TerminationGracePeriodSeconds != nil {
		grace = *spec.TerminationGracePeriodSeconds
	}
	what := "liveness"
	if kind == probes.Startup {
		what = "startup"
	}
	w.log.Info("container failed a probe", "container", c.spec.Name, "probe", what, "message", message)
	w.eventf(corev1.EventTypeNormal, "Killing", "Container %s failed %s probe, will be restarted", c.spec.Name, what)
	// Under the loop's context: the prober's own ends with the instance, before the stopping is done.
	w.spawn(w.ctx, c.spec.Name, func(ctx context.Context) func() {
		err := w.stopContainer(ctx, c.spec, p.id, grace)
		return func() {
			w.dirty.Store(true)
			if err != nil && c.prober == p {
				w.log.Warn("stop a container that failed its probe", "container", c.spec.Name, "err", err)
				p.cancel()
				c.prober = nil // probed afresh, and condemned again if it still fails
			}
		}
	})
}

// stopProbes ends all probes; the standing of containers is kept for the status.
func (w *worker) stopProbes() {
	for _, c := range w.containers {
		if c.prober != nil {
			c.prober.cancel()
		}
	}
}

// started tells whether a container runs and has passed its startup probe and postStart hook.
func (w *worker) started(c *container) bool {
	current := w.obs.current(c.spec.Name)
	return current != nil && current.GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING &&
		c.prober != nil && c.prober.id == current.GetId() && c.prober.started
}

func (w *worker) ready(c *container) bool { return w.started(c) && c.prober.ready }
