package pods

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/agent/images"
	"github.com/pleachdev/pleach/agent/podlogs"
)

// How often logs and images are looked at.
const (
	rotateEvery  = 10 * time.Second
	collectEvery = 5 * time.Minute
)

// rotateLogs keeps the logs of running containers within bounds.
func (m *Manager) rotateLogs(ctx context.Context) {
	ticker := time.NewTicker(rotateEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for _, pod := range m.Pods() {
			for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
				if c.State.Running == nil {
					continue
				}
				_, id, _ := strings.Cut(c.ContainerID, "://")
				path := podlogs.Path(m.LogDirOf(pod), c.Name, uint32(c.RestartCount))
				err := podlogs.Rotate(path, func() error { return m.Runtime.ReopenContainerLog(ctx, id) })
				if err != nil && ctx.Err() == nil {
					m.Log.Warn("rotate a container's log", "pod", pod.Namespace+"/"+pod.Name, "container", c.Name, "err", err)
				}
			}
		}
	}
}

// Logs writes the log of a pod's container. In options it sets what the manager knows better: the
// directory, the instance (the one before the last with previous), and when a followed one ends.
func (m *Manager) Logs(ctx context.Context, out io.Writer, uid types.UID, previous bool, options podlogs.Options) error {
	m.mu.Lock()
	w := m.workers[uid]
	m.mu.Unlock()
	if w == nil {
		return fmt.Errorf("logs: no pod with uid %s on this node", uid)
	}
	pod := w.snapshot.Load()
	status := statusOf(pod, options.Container)
	switch {
	case status == nil:
		return fmt.Errorf("logs: pod %s/%s has no container %q", pod.Namespace, pod.Name, options.Container)
	case status.ContainerID == "":
		return fmt.Errorf("logs: container %q of pod %s/%s has not started yet", options.Container, pod.Namespace, pod.Name)
	case previous && status.RestartCount == 0:
		return fmt.Errorf("logs: container %q of pod %s/%s has no previous instance", options.Container, pod.Namespace, pod.Name)
	}
	options.Dir, options.Attempt = m.LogDirOf(pod), uint32(status.RestartCount)
	if previous {
		options.Attempt--
	}
	id := status.ContainerID
	options.Ended = func() bool {
		now := statusOf(w.snapshot.Load(), options.Container)
		return previous || now == nil || now.ContainerID != id || now.State.Running == nil && now.State.Waiting == nil ||
			now.State.Waiting != nil && now.LastTerminationState.Terminated != nil && now.LastTerminationState.Terminated.ContainerID == id
	}
	return podlogs.Stream(ctx, out, options)
}

func statusOf(pod *corev1.Pod, container string) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range list {
			if list[i].Name == container {
				return &list[i]
			}
		}
	}
	return nil
}

// collectImages frees the disk of images that no container uses.
func (m *Manager) collectImages(ctx context.Context) {
	collector := images.Collector{Images: m.Images, Runtime: m.Runtime, Pinned: m.PinnedImages}
	ticker := time.NewTicker(collectEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		removed, err := collector.Collect(ctx)
		if err != nil && ctx.Err() == nil {
			m.Log.Warn("free the disk of unused images", "err", err)
		}
		if len(removed) > 0 {
			m.Log.Info("removed unused images because the disk is nearly full", "images", removed)
		}
	}
}
