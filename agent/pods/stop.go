package pods

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pleachdev/pleach/agent/volumes"
)

// leastGrace is what a container gets after its preStop hook used the grace period up.
const leastGrace = 2 // seconds

// halt stops the pod's containers and sandboxes with the full grace period, and removes nothing.
func (w *worker) halt(ctx context.Context) error {
	_, err := w.haltWithin(ctx, w.graceSeconds())
	return err
}

func (w *worker) haltWithin(ctx context.Context, grace int64) (*observation, error) {
	obs, err := w.look(ctx, &observation{})
	if err != nil {
		return nil, err
	}
	if err := w.stopContainers(ctx, obs, grace); err != nil {
		return nil, err
	}
	for _, id := range obs.sandboxes() {
		if err := w.m.Runtime.StopPodSandbox(ctx, id); err != nil {
			return nil, fmt.Errorf("stop sandbox %s: %w", id, err)
		}
	}
	return obs, nil
}

func (o *observation) sandboxes() []string {
	ids := slices.Clone(o.old)
	if o.sandbox != nil {
		ids = append(ids, o.sandbox.GetId())
	}
	return ids
}

// stopContainers stops what runs: first side by side all but the sidecars, then the sidecars, last
// started first, within what is left of the grace period.
func (w *worker) stopContainers(ctx context.Context, obs *observation, grace int64) error {
	began := time.Now()
	var sidecars []running
	var others []running
	for name, all := range obs.containers {
		for _, c := range all {
			if c.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING && c.GetState() != runtimeapi.ContainerState_CONTAINER_UNKNOWN {
				continue
			}
			known := w.containers[name]
			switch {
			case known == nil:
				others = append(others, running{&corev1.Container{Name: name}, c.GetId()})
			case known.sidecar:
				sidecars = append(sidecars, running{known.spec, c.GetId()})
			default:
				others = append(others, running{known.spec, c.GetId()})
			}
		}
	}
	failures := make(chan error, len(others))
	for _, c := range others {
		go func() { failures <- w.stopContainer(ctx, c.spec, c.id, grace) }()
	}
	var errs []error
	for range others {
		errs = append(errs, <-failures)
	}
	order := map[string]int{}
	for i := range w.pod().Spec.InitContainers {
		order[w.pod().Spec.InitContainers[i].Name] = i
	}
	slices.SortFunc(sidecars, func(a, b running) int { return order[b.spec.Name] - order[a.spec.Name] })
	for _, c := range sidecars {
		errs = append(errs, w.stopContainer(ctx, c.spec, c.id, left(grace, began)))
	}
	return errors.Join(errs...)
}

type running struct {
	spec *corev1.Container
	id   string
}

// left is what remains of a grace period, never less than leastGrace unless it began as less.
func left(grace int64, began time.Time) int64 {
	return max(grace-int64(time.Since(began)/time.Second), min(grace, leastGrace))
}

// stopContainer runs the preStop hook, then has the runtime send the stop signal and, when grace
// (seconds, hook included) is over, SIGKILL.
func (w *worker) stopContainer(ctx context.Context, c *corev1.Container, id string, grace int64) error {
	w.eventf(corev1.EventTypeNormal, "Killing", "Stopping container %s", c.Name)
	began := time.Now()
	if c.Lifecycle != nil && c.Lifecycle.PreStop != nil && grace > 0 {
		hookCtx, cancel := context.WithTimeout(ctx, time.Duration(grace)*time.Second)
		err := w.hook(hookCtx, c, id, c.Lifecycle.PreStop)
		cancel()
		if err != nil && ctx.Err() == nil {
			w.eventf(corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed: %v", err)
		}
	}
	if err := w.m.Runtime.StopContainer(ctx, id, left(grace, began)); err != nil {
		return fmt.Errorf("stop container %s: %w", c.Name, err)
	}
	return nil
}

// remove ends the pod and removes everything of it but its record. It starts anywhere: what is gone
// already is no error.
func (w *worker) remove(ctx context.Context, stop *stopIntent) error {
	obs, err := w.haltWithin(ctx, left(stop.GraceSeconds, stop.At))
	if err != nil {
		return err
	}
	for _, id := range obs.sandboxes() {
		if err := w.m.Runtime.RemovePodSandbox(ctx, id); err != nil {
			return fmt.Errorf("remove sandbox %s: %w", id, err)
		}
	}
	// A lost sandbox may leave containers behind.
	for name, all := range obs.containers {
		for _, c := range all {
			if !slices.Contains(obs.sandboxes(), obs.sandboxOf(c)) {
				if err := w.m.Runtime.RemoveContainer(ctx, c.GetId()); err != nil {
					return fmt.Errorf("remove container %s: %w", name, err)
				}
			}
		}
	}
	if err := w.volumeRemover().Remove(); err != nil {
		return err
	}
	if w.m.groups != nil {
		if err := w.m.groups.Remove(w.m.groups.Path(w.uid, QOSClass(w.pod()))); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(w.m.LogDirOf(w.pod())); err != nil {
		return fmt.Errorf("remove logs: %w", err)
	}
	return nil
}

// volumeRemover is volumeSet for tasks that only remove.
func (w *worker) volumeRemover() *volumes.Set {
	return &volumes.Set{Dir: w.dir, Pod: w.pod(), Mounts: w.m.Mounts}
}
