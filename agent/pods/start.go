package pods

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pleachdev/pleach/agent/images"
	"github.com/pleachdev/pleach/agent/podlogs"
	"github.com/pleachdev/pleach/agent/volumes"
)

// Reasons of containers that wait, in the kubelet's words.
const (
	reasonCreating     = "ContainerCreating"
	reasonInitializing = "PodInitializing"
	reasonConfigError  = "CreateContainerConfigError"
	reasonCreateError  = "CreateContainerError"
	reasonRunError     = "RunContainerError"
	reasonHookError    = "PostStartHookError"
	reasonCrashLoop    = "CrashLoopBackOff"
)

// A waitError is a failure that becomes the reason of a waiting container.
type waitError struct {
	reason string
	err    error
}

func (e *waitError) Error() string { return e.err.Error() }
func (e *waitError) Unwrap() error { return e.err }

// startContainer creates and starts the next instance of a container, or starts one that was
// created before the agent ended.
func (w *worker) startContainer(ctx context.Context, c *container) {
	name := c.spec.Name
	image := c.image
	c.imageReady = false
	created, attempt := "", w.attempts(name)
	if current := w.obs.current(name); current != nil && current.GetState() == runtimeapi.ContainerState_CONTAINER_CREATED {
		created, attempt = current.GetId(), current.GetMetadata().GetAttempt()
	}
	exit, restart := w.ended(name)
	hasOld := w.obs.current(name) != nil
	remove := w.surplus(name)
	in := creation{
		c: c.spec, image: image, attempt: attempt, sandbox: w.obs.sandbox,
		fields: w.fields(name), volumes: w.volumeSet(), ips: w.podIPs(),
	}
	w.spawn(ctx, name, func(taskCtx context.Context) func() {
		id, err := created, error(nil)
		if id == "" {
			id, err = w.create(taskCtx, in)
		}
		if err == nil {
			err = w.launch(taskCtx, c, id)
		}
		for _, old := range remove {
			if err := w.removeContainer(taskCtx, name, old); err != nil {
				w.log.Warn("remove an old container", "container", name, "err", err)
			}
		}
		return func() {
			w.dirty.Store(true)
			if taskCtx.Err() != nil && err != nil && ctx.Err() == nil && w.ending() {
				return
			}
			if restart && hasOld && created == "" && id != "" {
				w.state.BackOffs[name] = w.state.BackOffs[name].next(exit.at)
				w.stateUnsaved = true
			}
			w.startOutcome(c, id, err)
		}
	})
}

// ending tells whether the pod is being ended, and failures of what was cancelled mean nothing.
func (w *worker) ending() bool { return w.stopIntent() != nil || w.state.Failing != nil }

func (w *worker) startOutcome(c *container, id string, err error) {
	if err == nil {
		c.retry.reset()
		c.reason, c.message = "", ""
		return
	}
	reason := reasonRunError
	if wait, ok := errors.AsType[*waitError](err); ok {
		reason = wait.reason
	}
	c.reason, c.message = reason, err.Error()
	if id == "" {
		c.retry.failed(time.Now())
	}
	w.event(corev1.EventTypeWarning, "Failed", "Error: "+err.Error())
}

// A creation is what a container is made from, as the loop saw it.
type creation struct {
	c       *corev1.Container
	image   images.Image
	attempt uint32
	sandbox *runtimeapi.PodSandboxStatus
	fields  fields
	volumes *volumes.Set
	ips     []string
}

// launch starts a created container and runs its postStart hook.
func (w *worker) launch(ctx context.Context, c *container, id string) error {
	hooked := c.spec.Lifecycle != nil && c.spec.Lifecycle.PostStart != nil
	if hooked {
		// Before it starts: nobody shall see it run and take it for ready.
		w.post(ctx, func() { c.hooking = id })
	}
	if err := w.startCreated(ctx, id); err != nil {
		return &waitError{reasonRunError, fmt.Errorf("start container %s: %w", c.spec.Name, err)}
	}
	w.eventf(corev1.EventTypeNormal, "Started", "Container started: %s", c.spec.Name)
	if !hooked {
		return nil
	}
	err := w.hook(ctx, c.spec, id, c.spec.Lifecycle.PostStart)
	w.post(ctx, func() { c.hooking = "" })
	if err == nil {
		return nil
	}
	w.eventf(corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed: %v", err)
	if stopErr := w.m.Runtime.StopContainer(ctx, id, w.graceSeconds()); stopErr != nil {
		err = errors.Join(err, stopErr)
	}
	return &waitError{reasonHookError, fmt.Errorf("postStart hook of container %s: %w", c.spec.Name, err)}
}

const (
	// startUnderWay is what containerd says of a container whose start goes on.
	startUnderWay = "already in starting state"
	startPoll     = 50 * time.Millisecond
)

// startCreated has the runtime start a container that was created. A start goes on when the agent that has
// asked for it dies: then it is waited for. And once it was asked for, not even the pod's end calls it
// off: what may have run already is ended as any container is, and not by SIGKILL.
func (w *worker) startCreated(ctx context.Context, id string) error {
	for {
		err := w.m.Runtime.StartContainer(w.ctx, id)
		if err == nil || !strings.Contains(err.Error(), startUnderWay) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(startPoll):
		}
		answer, err := w.m.Runtime.ContainerStatus(ctx, id, false)
		if err != nil {
			return err
		}
		if answer.GetStatus().GetState() != runtimeapi.ContainerState_CONTAINER_CREATED {
			return nil // what it is now, the next look tells
		}
	}
}

// create makes a container in the sandbox.
func (w *worker) create(ctx context.Context, in creation) (string, error) {
	config, err := w.containerConfig(in)
	if err != nil {
		return "", &waitError{reasonConfigError, err}
	}
	sandboxConfig, err := w.sandboxConfig(in.sandbox.GetMetadata().GetAttempt())
	if err != nil {
		return "", &waitError{reasonConfigError, err}
	}
	if err := os.MkdirAll(filepath.Join(w.m.LogDirOf(w.pod()), in.c.Name), 0o755); err != nil {
		return "", &waitError{reasonCreateError, err}
	}
	id, err := w.m.Runtime.CreateContainer(ctx, in.sandbox.GetId(), config, sandboxConfig)
	if err != nil {
		return "", &waitError{reasonCreateError, fmt.Errorf("create container %s: %w", in.c.Name, err)}
	}
	w.eventf(corev1.EventTypeNormal, "Created", "Container created: %s", in.c.Name)
	return id, nil
}

func (w *worker) containerConfig(in creation) (*runtimeapi.ContainerConfig, error) {
	pod, spec, image, attempt := w.pod(), in.c, in.image, in.attempt
	names, values, skipped, err := environment(spec, pod.Namespace, w.m.Lookup, in.fields)
	if err != nil {
		return nil, err
	}
	if len(skipped) > 0 {
		w.eventf(corev1.EventTypeWarning, "InvalidEnvironmentVariableNames", "Keys %v of envFrom were skipped since they are not environment variable names", skipped)
	}
	security, err := containerSecurity(pod, spec, image, filepath.Join(w.m.Dir, "seccomp"))
	if err != nil {
		return nil, err
	}
	mounts, err := w.mounts(in, values)
	if err != nil {
		return nil, err
	}
	labels := w.labels()
	for k := range pod.Labels {
		delete(labels, k) // a container carries what identifies it; the pod's own are on the sandbox
	}
	labels[LabelPodName], labels[LabelNamespace], labels[LabelUID] = pod.Name, pod.Namespace, string(pod.UID)
	labels[LabelNode], labels[LabelContainer] = w.m.NodeName, spec.Name
	config := &runtimeapi.ContainerConfig{
		Metadata:   &runtimeapi.ContainerMetadata{Name: spec.Name, Attempt: attempt},
		Image:      &runtimeapi.ImageSpec{Image: image.Ref, UserSpecifiedImage: spec.Image},
		Command:    expandAll(spec.Command, values),
		Args:       expandAll(spec.Args, values),
		WorkingDir: spec.WorkingDir,
		Mounts:     mounts,
		Labels:     labels,
		Annotations: map[string]string{
			sandboxAnnotation:                          in.sandbox.GetId(),
			"io.kubernetes.container.restartCount":     strconv.FormatUint(uint64(attempt), 10),
			"io.kubernetes.pod.terminationGracePeriod": strconv.FormatInt(w.graceSeconds(), 10),
		},
		LogPath:   podlogs.Path("", spec.Name, attempt),
		Stdin:     spec.Stdin,
		StdinOnce: spec.StdinOnce,
		Tty:       spec.TTY,
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources:       containerResources(pod, spec, w.m.Capacity.Memory().Value()),
			SecurityContext: security,
		},
	}
	if w.m.groups != nil && w.m.groups.Unified() {
		// As under the kubelet, a container that runs out of memory ends as a whole.
		config.Linux.Resources.Unified = map[string]string{"memory.oom.group": "1"}
		// And none swaps: what a machine swaps out, no request for memory accounts for.
		if w.m.groups.SwapLimits() {
			config.Linux.Resources.Unified["memory.swap.max"] = "0"
		}
	}
	for _, name := range names {
		config.Envs = append(config.Envs, &runtimeapi.KeyValue{Key: name, Value: []byte(values[name])})
	}
	if spec.Lifecycle != nil && spec.Lifecycle.StopSignal != nil {
		config.StopSignal = runtimeapi.Signal(runtimeapi.Signal_value["SIGNAL_"+signalName(string(*spec.Lifecycle.StopSignal))])
	}
	return config, nil
}

func expandAll(list []string, values map[string]string) []string {
	out := make([]string, 0, len(list))
	for _, s := range list {
		out = append(out, expand(s, values))
	}
	return out
}

// mounts are the container's volumes, /etc/hosts and the file for its last words.
func (w *worker) mounts(in creation, env map[string]string) ([]*runtimeapi.Mount, error) {
	c := in.c
	var mounts []*runtimeapi.Mount
	hosts := true
	for i, m := range c.VolumeMounts {
		sub := m.SubPath
		if m.SubPathExpr != "" {
			sub = expand(m.SubPathExpr, env)
		}
		source, err := in.volumes.HostPath(m.Name, sub, c.Name+"/"+strconv.Itoa(i))
		if err != nil {
			return nil, fmt.Errorf("volumeMounts[%d]: %w", i, err)
		}
		mount := &runtimeapi.Mount{
			ContainerPath: m.MountPath, HostPath: source,
			// What is filled from objects would be changed in vain: the next update replaces it.
			Readonly:    m.ReadOnly || filled(w.pod(), m.Name),
			Propagation: propagation(m.MountPropagation),
		}
		if !filepath.IsAbs(mount.ContainerPath) {
			mount.ContainerPath = "/" + mount.ContainerPath
		}
		if m.RecursiveReadOnly != nil && *m.RecursiveReadOnly == corev1.RecursiveReadOnlyEnabled {
			mount.RecursiveReadOnly = true
		}
		hosts = hosts && filepath.Clean(mount.ContainerPath) != "/etc/hosts"
		mounts = append(mounts, mount)
	}
	if hosts {
		file, err := w.hostsFile(in.ips)
		if err != nil {
			return nil, fmt.Errorf("write /etc/hosts: %w", err)
		}
		mounts = append(mounts, &runtimeapi.Mount{ContainerPath: "/etc/hosts", HostPath: file})
	}
	if path := cmp.Or(c.TerminationMessagePath, corev1.TerminationMessagePathDefault); path != "" {
		file := w.lastWordsFile(c.Name, in.attempt)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(file, nil, 0o666); err != nil {
			return nil, err
		}
		// The umask must not keep a container of another user from writing.
		if err := os.Chmod(file, 0o666); err != nil {
			return nil, err
		}
		mounts = append(mounts, &runtimeapi.Mount{ContainerPath: path, HostPath: file})
	}
	return mounts, nil
}

// lastWordsFile is mounted at a container's terminationMessagePath.
func (w *worker) lastWordsFile(name string, attempt uint32) string {
	return filepath.Join(w.dir, "containers", name, strconv.FormatUint(uint64(attempt), 10))
}

func filled(pod *corev1.Pod, volume string) bool {
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.Name == volume {
			return v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil
		}
	}
	return false
}

func propagation(p *corev1.MountPropagationMode) runtimeapi.MountPropagation {
	if p != nil {
		switch *p {
		case corev1.MountPropagationHostToContainer:
			return runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		case corev1.MountPropagationBidirectional:
			return runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
		case corev1.MountPropagationNone:
		}
	}
	return runtimeapi.MountPropagation_PROPAGATION_PRIVATE
}

// surplus lists the ended instances that nobody asks for any more once another has started: all but
// the last one.
func (w *worker) surplus(name string) []*runtimeapi.ContainerStatus {
	var old []*runtimeapi.ContainerStatus
	for i, c := range w.obs.containers[name] {
		if i > 0 && c.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED {
			old = append(old, c)
		}
	}
	return old
}

// removeContainer removes an ended instance with its log and last words.
func (w *worker) removeContainer(ctx context.Context, name string, c *runtimeapi.ContainerStatus) error {
	if err := w.m.Runtime.RemoveContainer(ctx, c.GetId()); err != nil {
		return err
	}
	attempt := c.GetMetadata().GetAttempt()
	logs, err := filepath.Glob(podlogs.Path(w.m.LogDirOf(w.pod()), name, attempt) + "*")
	errs := []error{err}
	for _, path := range append(logs, w.lastWordsFile(name, attempt)) {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
