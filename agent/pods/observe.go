package pods

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// observation is what the runtime says of one pod.
type observation struct {
	sandbox    *runtimeapi.PodSandboxStatus // the newest; nil when there is none
	old        []string                     // ids of older sandboxes
	containers map[string][]*runtimeapi.ContainerStatus
}

// ready tells whether containers can be created in the sandbox.
func (o *observation) ready() bool {
	return o.sandbox != nil && o.sandbox.GetState() == runtimeapi.PodSandboxState_SANDBOX_READY
}

// current is the newest instance of a container in the present sandbox; nil when there is none, or
// when the sandbox has ended and takes everything in it along.
func (o *observation) current(name string) *runtimeapi.ContainerStatus {
	if c := o.newest(name); c != nil && o.ready() && o.sandboxOf(c) == o.sandbox.GetId() {
		return c
	}
	return nil
}

// newest is the newest instance of a container in any sandbox; nil when the runtime knows none.
func (o *observation) newest(name string) *runtimeapi.ContainerStatus {
	if all := o.containers[name]; len(all) > 0 {
		return all[0]
	}
	return nil
}

// sandboxAnnotation holds the sandbox of a container: a container's status does not name it.
const sandboxAnnotation = "pleach.dev/sandbox"

func (o *observation) sandboxOf(c *runtimeapi.ContainerStatus) string {
	return c.GetAnnotations()[sandboxAnnotation]
}

// observe brings the worker's observation up to date.
func (w *worker) observe(ctx context.Context) error {
	next, err := w.look(ctx, &w.obs)
	if err != nil {
		return err
	}
	w.obs, w.observed = *next, true
	return nil
}

// look asks the runtime for the pod's sandboxes and containers. Statuses that cannot have changed
// since the last observation, because the state has not, are taken from there.
func (w *worker) look(ctx context.Context, before *observation) (*observation, error) {
	selector := map[string]string{LabelUID: string(w.uid)}
	sandboxes, err := w.m.Runtime.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{LabelSelector: selector})
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	containers, err := w.m.Runtime.ListContainers(ctx, &runtimeapi.ContainerFilter{LabelSelector: selector})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	next := observation{containers: map[string][]*runtimeapi.ContainerStatus{}}
	slices.SortFunc(sandboxes, func(a, b *runtimeapi.PodSandbox) int {
		return cmp.Or(cmp.Compare(b.GetMetadata().GetAttempt(), a.GetMetadata().GetAttempt()), cmp.Compare(b.GetCreatedAt(), a.GetCreatedAt()))
	})
	for i, s := range sandboxes {
		if i > 0 {
			next.old = append(next.old, s.GetId())
			continue
		}
		if last := before.sandbox; last != nil && last.GetId() == s.GetId() && last.GetState() == s.GetState() {
			next.sandbox = last
			continue
		}
		status, err := w.m.Runtime.PodSandboxStatus(ctx, s.GetId(), false)
		if err != nil {
			return nil, fmt.Errorf("status of sandbox %s: %w", s.GetId(), err)
		}
		next.sandbox = status.GetStatus()
	}
	known := map[string]*runtimeapi.ContainerStatus{}
	for _, all := range before.containers {
		for _, c := range all {
			known[c.GetId()] = c
		}
	}
	for _, c := range containers {
		status := known[c.GetId()]
		if status == nil || status.GetState() != c.GetState() || c.GetState() == runtimeapi.ContainerState_CONTAINER_UNKNOWN {
			answer, err := w.m.Runtime.ContainerStatus(ctx, c.GetId(), false)
			if grpcstatus.Code(err) == codes.NotFound {
				continue // removed since it was listed
			}
			if err != nil {
				return nil, fmt.Errorf("status of container %s: %w", c.GetId(), err)
			}
			status = answer.GetStatus()
		}
		name := c.GetLabels()[LabelContainer]
		next.containers[name] = append(next.containers[name], status)
	}
	for _, all := range next.containers {
		slices.SortFunc(all, func(a, b *runtimeapi.ContainerStatus) int {
			return cmp.Or(cmp.Compare(b.GetMetadata().GetAttempt(), a.GetMetadata().GetAttempt()), cmp.Compare(b.GetCreatedAt(), a.GetCreatedAt()))
		})
	}
	return &next, nil
}

// An ending is how the last instance of a container ended.
type ending struct {
	exitCode int32
	at       time.Time
}

// attempts is how often a container was created so far, also in a runtime that has forgotten it.
func (w *worker) attempts(name string) uint32 {
	var n uint32
	if c := w.obs.newest(name); c != nil {
		n = c.GetMetadata().GetAttempt() + 1
	}
	if s := w.remembered(name); s != nil && s.ContainerID != "" {
		created := uint32(s.RestartCount) + 1
		if neverRan(s) {
			created-- // the same instance is made again
		}
		n = max(n, created)
	}
	return n
}

// neverRan tells whether the container of a status was created and not started. Once the runtime
// has forgotten it, it is as if it had never been.
func neverRan(s *corev1.ContainerStatus) bool {
	last := s.LastTerminationState.Terminated
	return s.State.Waiting != nil && (last == nil || last.ContainerID != s.ContainerID)
}

// remembered is the last published status of a container; nil when there was none.
func (w *worker) remembered(name string) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{w.state.Status.ContainerStatuses, w.state.Status.InitContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// ended is how a container's last instance ended; ok is false when it has not ended or never was.
func (w *worker) ended(name string) (e ending, ok bool) {
	if c := w.obs.newest(name); c != nil {
		switch c.GetState() {
		case runtimeapi.ContainerState_CONTAINER_EXITED:
			return ending{c.GetExitCode(), time.Unix(0, c.GetFinishedAt())}, true
		case runtimeapi.ContainerState_CONTAINER_UNKNOWN:
			return ending{lostExitCode, time.Unix(0, c.GetCreatedAt())}, true
		case runtimeapi.ContainerState_CONTAINER_CREATED, runtimeapi.ContainerState_CONTAINER_RUNNING:
		}
		// What ran in a sandbox that is gone has ended with it.
		if w.obs.current(name) == nil {
			return ending{lostExitCode, time.Unix(0, c.GetCreatedAt())}, true
		}
		return ending{}, false
	}
	s := w.remembered(name)
	if s == nil || s.ContainerID == "" {
		return ending{}, false
	}
	for _, t := range []*corev1.ContainerStateTerminated{s.State.Terminated, s.LastTerminationState.Terminated} {
		if t != nil && t.ContainerID == s.ContainerID {
			return ending{t.ExitCode, t.FinishedAt.Time}, true
		}
	}
	if neverRan(s) {
		if t := s.LastTerminationState.Terminated; t != nil {
			return ending{t.ExitCode, t.FinishedAt.Time}, true
		}
		return ending{}, false
	}
	return ending{lostExitCode, w.record.Accepted}, true
}

// lostExitCode and lostReason describe a container whose end nobody saw, as the kubelet does.
const (
	lostExitCode = 137
	lostReason   = "ContainerStatusUnknown"
)
