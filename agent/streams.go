package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	criclient "k8s.io/cri-client/pkg"

	"github.com/pleachdev/pleach/agent/podlogs"
	"github.com/pleachdev/pleach/agent/pods"
)

// callTimeout bounds a call to the runtime that should answer at once.
const callTimeout = 2 * time.Minute

// runtimeClient speaks CRI.
type runtimeClient struct {
	runtime cri.RuntimeService
	images  cri.ImageManagerService
}

func dial(ctx context.Context, endpoint string) (*runtimeClient, error) {
	runtime, err := criclient.NewRemoteRuntimeServiceBuilder().WithEndpoint(endpoint).WithConnectionTimeout(callTimeout).Build(ctx)
	if err != nil {
		return nil, fmt.Errorf("runtime at %s: %w", endpoint, err)
	}
	images, err := criclient.NewRemoteImageServiceBuilder().WithEndpoint(endpoint).WithConnectionTimeout(callTimeout).Build(ctx)
	if err != nil {
		return nil, fmt.Errorf("images at %s: %w", endpoint, err)
	}
	return &runtimeClient{runtime: runtime, images: images}, nil
}

// streams serves logs and exec of this node's pods once the runtime is there.
type streams struct {
	mu      sync.Mutex
	manager *pods.Manager
	runtime cri.RuntimeService
}

var errStarting = errors.New("this node's runtime is not ready yet; \"pleach status\" says what it waits for")

func (s *streams) set(manager *pods.Manager, runtime cri.RuntimeService) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.manager, s.runtime = manager, runtime
}

func (s *streams) get() (*pods.Manager, cri.RuntimeService, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.manager == nil {
		return nil, nil, errStarting
	}
	return s.manager, s.runtime, nil
}

// logs writes a container's log.
func (s *streams) logs(ctx context.Context, pod *corev1.Pod, opts *corev1.PodLogOptions, w io.Writer) error {
	manager, _, err := s.get()
	if err != nil {
		return err
	}
	options := podlogs.Options{
		Container: opts.Container, TailLines: opts.TailLines, Timestamps: opts.Timestamps, Follow: opts.Follow,
	}
	switch {
	case opts.SinceTime != nil:
		options.Since = opts.SinceTime.Time
	case opts.SinceSeconds != nil:
		options.Since = time.Now().Add(-time.Duration(*opts.SinceSeconds) * time.Second)
	}
	return manager.Logs(ctx, w, pod.UID, opts.Previous, options)
}

// exec returns where the streams of a command in a running container are.
func (s *streams) exec(ctx context.Context, pod *corev1.Pod, opts *corev1.PodExecOptions) (string, error) {
	_, runtime, err := s.get()
	if err != nil {
		return "", err
	}
	for _, c := range pod.Status.ContainerStatuses {
		if c.Name != opts.Container {
			continue
		}
		_, id, _ := strings.Cut(c.ContainerID, "://")
		if c.State.Running == nil || id == "" {
			return "", fmt.Errorf("container %q of pod %s/%s does not run", opts.Container, pod.Namespace, pod.Name)
		}
		answer, err := runtime.Exec(ctx, &runtimeapi.ExecRequest{
			ContainerId: id, Cmd: opts.Command, Stdin: opts.Stdin, Stdout: opts.Stdout, Stderr: opts.Stderr, Tty: opts.TTY,
		})
		if err != nil {
			return "", err
		}
		return answer.Url, nil
	}
	return "", fmt.Errorf("pod %s/%s has no container %q", pod.Namespace, pod.Name, opts.Container)
}
