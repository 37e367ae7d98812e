package pods

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pleachdev/pleach/agent/images"
	"github.com/pleachdev/pleach/agent/volumes"
)

// advance does what can be done next for a pod that should run, side by side where no order is
// promised. It returns when something is due that no event will announce; zero for nothing.
func (w *worker) advance(ctx context.Context, now time.Time) (next time.Time) {
	due := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	if seconds := w.pod().Spec.ActiveDeadlineSeconds; seconds != nil {
		deadline := w.record.Accepted.Add(time.Duration(*seconds) * time.Second)
		if !now.Before(deadline) {
			w.fail("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
			return now
		}
		due(deadline)
	}
	if why := Unsupported(w.pod()); why != "" {
		for _, c := range w.containers {
			c.reason, c.message = reasonConfigError, why
		}
		return next
	}
	w.startProbes(ctx)
	wanted, done := w.wanted(now, due)
	if done {
		return w.end(ctx, now, w.halt, w.finish)
	}
	changed := w.config.Swap(false)
	if changed {
		w.retryConfig()
	}
	if len(wanted) == 0 {
		if changed && volumes.Filled(w.pod()) {
			w.updateVolumes(ctx)
		}
		return next
	}
	if !w.volumes.done {
		w.makeVolumes(ctx, now, due)
	} else if changed {
		w.updateVolumes(ctx)
	}
	if !w.obs.ready() {
		w.makeSandbox(ctx, now, due)
	}
	for _, c := range w.ahead(wanted) {
		w.getImage(ctx, c, now, due)
	}
	if !w.obs.ready() || !w.volumes.done {
		return next
	}
	for _, c := range wanted {
		if c.imageReady && !w.busy(c.spec.Name) {
			if now.Before(c.retry.at) {
				due(c.retry.at)
				continue
			}
			w.startContainer(ctx, c)
		}
	}
	return next
}

// wanted lists the containers that should be started now, or once their image is there; done says
// that the pod has ended by itself.
func (w *worker) wanted(now time.Time, due func(time.Time)) (list []*container, done bool) {
	spec := &w.pod().Spec
	main, done := w.wantedMain(now, due)
	if done {
		return nil, true
	}
	initialized := w.mainStarted()
	for i := range spec.InitContainers {
		c := w.containers[spec.InitContainers[i].Name]
		current := w.obs.current(c.spec.Name)
		running := current != nil && current.GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING
		switch {
		case c.sidecar:
			if !running && w.mayStart(c, now, due) {
				list = append(list, c)
			}
			// What comes after a sidecar waits for its first start only.
			if !initialized && !w.started(c) && !w.initStartedAfter(i) {
				return list, false
			}
		case initialized, w.initStartedAfter(i):
		case running:
			return list, false
		case current != nil && current.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED && current.GetExitCode() == 0:
		default:
			e, ended := w.ended(c.spec.Name)
			if ended && e.exitCode != 0 && restartPolicy(w.pod(), c) == corev1.RestartPolicyNever {
				return nil, true
			}
			if w.mayStart(c, now, due) {
				list = append(list, c)
			}
			return list, false
		}
	}
	return append(list, main...), false
}

// wantedMain is wanted for the containers after the init containers; done when all of them have
// ended for good.
func (w *worker) wantedMain(now time.Time, due func(time.Time)) (list []*container, done bool) {
	done = true
	for i := range w.pod().Spec.Containers {
		c := w.containers[w.pod().Spec.Containers[i].Name]
		current := w.obs.current(c.spec.Name)
		if current != nil && current.GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING || w.busy(c.spec.Name) {
			done = false
			continue
		}
		if e, ended := w.ended(c.spec.Name); ended && !restarts(restartPolicy(w.pod(), c), e.exitCode) {
			continue
		}
		done = false
		if w.mayStart(c, now, due) {
			list = append(list, c)
		}
	}
	return list, done
}

// initStartedAfter tells whether a later init container exists in the present sandbox: then the
// one at i has had its turn.
func (w *worker) initStartedAfter(i int) bool {
	for _, later := range w.pod().Spec.InitContainers[i+1:] {
		if w.obs.current(later.Name) != nil {
			return true
		}
	}
	return false
}

// mainStarted tells whether a container after the init containers exists in the present sandbox:
// then the init containers are done, also where their remains are gone.
func (w *worker) mainStarted() bool {
	for i := range w.pod().Spec.Containers {
		if w.obs.current(w.pod().Spec.Containers[i].Name) != nil {
			return true
		}
	}
	return false
}

// mayStart tells whether a container that should run may start now: its back-off is over and no
// task works on it.
func (w *worker) mayStart(c *container, now time.Time, due func(time.Time)) bool {
	name := c.spec.Name
	if w.busy(name) {
		return false
	}
	// A new sandbox starts afresh: the back-off is about the program, and not it ended the last.
	if w.obs.current(name) == nil {
		return true
	}
	e, ended := w.ended(name)
	if !ended {
		return true // created, never started
	}
	b := w.state.BackOffs[name]
	if until := b.until(e.at); now.Before(until) {
		if c.reason != reasonCrashLoop {
			c.reason = reasonCrashLoop
			w.eventf(corev1.EventTypeWarning, "BackOff", "Back-off restarting failed container %s in pod %s", name, w.pod().Name)
		}
		c.message = fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)",
			b.Delay, name, w.pod().Name, w.pod().Namespace, w.uid)
		due(until)
		return false
	}
	return true
}

// ahead adds the containers whose images are fetched before their turn: while a pod makes its
// first start, all of them.
func (w *worker) ahead(wanted []*container) []*container {
	if w.mainStarted() {
		return wanted
	}
	all := wanted
	for i := range w.pod().Spec.Containers {
		c := w.containers[w.pod().Spec.Containers[i].Name]
		seen := false
		for _, other := range wanted {
			seen = seen || other == c
		}
		if !seen {
			all = append(all, c)
		}
	}
	return all
}

func restartPolicy(pod *corev1.Pod, c *container) corev1.RestartPolicy {
	switch {
	case c.spec.RestartPolicy != nil:
		return corev1.RestartPolicy(*c.spec.RestartPolicy)
	case c.init && pod.Spec.RestartPolicy == corev1.RestartPolicyAlways:
		return corev1.RestartPolicyOnFailure
	case pod.Spec.RestartPolicy == "":
		return corev1.RestartPolicyAlways
	}
	return pod.Spec.RestartPolicy
}

func restarts(policy corev1.RestartPolicy, exitCode int32) bool {
	return policy == corev1.RestartPolicyAlways || policy == corev1.RestartPolicyOnFailure && exitCode != 0
}

// retryConfig lets what waits for a missing object try at once.
func (w *worker) retryConfig() {
	w.volumes.retry.at = time.Time{}
	for _, c := range w.containers {
		if c.reason == reasonConfigError {
			c.retry.reset()
		}
	}
}

func (w *worker) makeVolumes(ctx context.Context, now time.Time, due func(time.Time)) {
	if w.busy(taskVolumes) {
		return
	}
	if now.Before(w.volumes.retry.at) {
		due(w.volumes.retry.at)
		return
	}
	set := w.volumeSet()
	w.spawn(ctx, taskVolumes, func(context.Context) func() {
		err := set.Ensure()
		return func() {
			if err == nil {
				w.volumes = step{done: true}
				return
			}
			w.volumes.retry.failed(time.Now())
			w.volumes.reason, w.volumes.err = "FailedMount", err.Error()
			w.eventf(corev1.EventTypeWarning, "FailedMount", "MountVolume.SetUp failed: %v", err)
		}
	})
}

func (w *worker) updateVolumes(ctx context.Context) {
	if w.busy(taskVolumes) {
		w.config.Store(true) // once more when the task is done
		return
	}
	set := w.volumeSet()
	w.spawn(ctx, taskVolumes, func(context.Context) func() {
		err := set.Update()
		return func() {
			if err != nil {
				w.eventf(corev1.EventTypeWarning, "FailedMount", "MountVolume.SetUp failed, the volume keeps its content: %v", err)
			}
		}
	})
}

// getImage has a container's image fetched. What is fetched serves one start: with the policy
// Always the next start asks the registry again.
func (w *worker) getImage(ctx context.Context, c *container, now time.Time, due func(time.Time)) {
	key := taskImage + c.spec.Name
	if c.imageReady || w.busy(key) || w.busy(c.spec.Name) {
		return
	}
	if now.Before(c.retry.at) {
		if c.reason == images.ErrImagePull {
			c.reason = images.ImagePullBackOff
			c.message = fmt.Sprintf("Back-off pulling image %q: %s: %s", c.spec.Image, images.ErrImagePull, c.message)
			w.eventf(corev1.EventTypeNormal, "BackOff", "Back-off pulling image %q", c.spec.Image)
		}
		due(c.retry.at)
		return
	}
	w.spawn(ctx, key, func(taskCtx context.Context) func() {
		keys, err := w.keyring()
		if err != nil {
			w.eventf(corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret", "%v", err)
		}
		image, err := w.m.puller.Ensure(taskCtx, c.spec.Image, c.spec.ImagePullPolicy, keys, nil, func() {
			w.eventf(corev1.EventTypeNormal, "Pulling", "Pulling image %q", c.spec.Image)
		})
		return func() { w.imageOutcome(c, image, err) }
	})
}

func (w *worker) imageOutcome(c *container, image images.Image, err error) {
	if err == nil {
		c.image, c.imageReady = image, true
		if isImageReason(c.reason) {
			c.reason, c.message = "", ""
			c.retry.at = time.Time{}
		}
		if image.Pulled {
			w.eventf(corev1.EventTypeNormal, "Pulled", "Successfully pulled image %q in %s", c.spec.Image, image.Took.Round(time.Millisecond))
		} else {
			w.eventf(corev1.EventTypeNormal, "Pulled", "Container image %q already present on machine", c.spec.Image)
		}
		return
	}
	failed, ok := errors.AsType[*images.Error](err)
	if !ok {
		return // cancelled
	}
	c.reason, c.message = failed.Reason, failed.Error()
	c.retry.at = failed.Retry
	if failed.Retry.IsZero() {
		c.retry.at = time.Now().Add(never)
	}
	w.eventf(corev1.EventTypeWarning, "Failed", "Failed to pull image %q: %v", c.spec.Image, err)
}

func isImageReason(reason string) bool {
	switch reason {
	case images.ErrImagePull, images.ImagePullBackOff, images.ErrImageNeverPull, images.InvalidImageName:
		return true
	}
	return false
}

// keyring holds the pod's imagePullSecrets. A missing one is reported, and the pull goes on without.
func (w *worker) keyring() (images.Keyring, error) {
	var found []*corev1.Secret
	var errs []error
	for _, ref := range w.pod().Spec.ImagePullSecrets {
		secret := w.m.Lookup.Secret(w.pod().Namespace, ref.Name)
		if secret == nil {
			errs = append(errs, fmt.Errorf("imagePullSecrets: secret %q not found", ref.Name))
			continue
		}
		found = append(found, secret)
	}
	keys, err := images.NewKeyring(found...)
	return keys, errors.Join(append(errs, err)...)
}
