package fakecri

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	cri "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"
)

// A Client is one connection to the runtime. It implements the calls that agents make; others,
// which come from the embedded nil interface, panic.
type Client struct {
	cri.RuntimeService
	r   *Runtime
	cut chan struct{}
}

var _ cri.RuntimeService = (*Client)(nil)

// Connect opens a connection.
func (r *Runtime) Connect() *Client { return &Client{r: r, cut: make(chan struct{})} }

// Cut ends the connection: no later call of it reaches the runtime.
func (c *Client) Cut() { close(c.cut) }

// call carries one call out: the hooks, the latency, and the cut connection.
func (c *Client) call(ctx context.Context, name string, changes bool, do func() error) error {
	if err := c.alive(ctx); err != nil {
		return err
	}
	if c.r.Call != nil {
		c.r.Call(name)
		// The hook may have been the end of the connection.
		if err := c.alive(ctx); err != nil {
			return err
		}
	}
	if changes && c.r.Latency > 0 {
		select {
		case <-time.After(c.r.Latency):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	err := do()
	if c.r.Call != nil {
		c.r.Call("after " + name)
	}
	if cut := c.alive(ctx); cut != nil {
		return cut
	}
	return err
}

func (c *Client) alive(ctx context.Context) error {
	select {
	case <-c.cut:
		return errCut
	case <-ctx.Done():
		return ctx.Err()
	default:
		return nil
	}
}

// RunPodSandbox implements cri.RuntimeService.
func (c *Client) RunPodSandbox(ctx context.Context, config *runtimeapi.PodSandboxConfig, handler string) (id string, err error) {
	err = c.call(ctx, "RunPodSandbox", true, func() error {
		r, m := c.r, config.GetMetadata()
		if r.SandboxErr != nil {
			if err := r.SandboxErr(m.GetName()); err != nil {
				return err
			}
		}
		host := config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork() == runtimeapi.NamespaceMode_NODE
		if host && config.GetHostname() != "" {
			return errors.New("unable to set hostname without a private UTS namespace")
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, s := range r.sandboxes {
			have := s.config.GetMetadata()
			if have.GetUid() == m.GetUid() && have.GetAttempt() == m.GetAttempt() {
				return fmt.Errorf("failed to reserve sandbox name: %s_%s_%s_%d is reserved for %s", m.GetName(), m.GetNamespace(), m.GetUid(), m.GetAttempt(), s.status.Id)
			}
		}
		id = r.id("sandbox")
		status := &runtimeapi.PodSandboxStatus{
			Id: id, Metadata: m, State: runtimeapi.PodSandboxState_SANDBOX_READY, CreatedAt: time.Now().UnixNano(),
			Network: &runtimeapi.PodSandboxNetworkStatus{}, Labels: config.GetLabels(), Annotations: config.GetAnnotations(),
			RuntimeHandler: handler,
		}
		if !host {
			status.Network.Ip = fmt.Sprintf("10.0.%d.%d", r.serial/250, r.serial%250+1)
		}
		r.sandboxes[id] = &sandbox{status: status, config: config}
		r.note("run sandbox %s/%d", m.GetName(), m.GetAttempt())
		r.emitLocked(id, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, id)
		r.emitLocked(id, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, id)
		return nil
	})
	return id, err
}

// StopPodSandbox implements cri.RuntimeService.
func (c *Client) StopPodSandbox(ctx context.Context, id string) error {
	return c.call(ctx, "StopPodSandbox", true, func() error {
		r := c.r
		r.mu.Lock()
		defer r.mu.Unlock()
		s := r.sandboxes[id]
		if s == nil {
			return nil
		}
		for _, one := range r.containers {
			if one.sandbox == id {
				r.exitLocked(one, 137, "")
			}
		}
		if s.status.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			s.status.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
			r.note("stop sandbox %s/%d", s.config.GetMetadata().GetName(), s.config.GetMetadata().GetAttempt())
			r.emitLocked(id, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, id)
		}
		return nil
	})
}

// RemovePodSandbox implements cri.RuntimeService.
func (c *Client) RemovePodSandbox(ctx context.Context, id string) error {
	return c.call(ctx, "RemovePodSandbox", true, func() error {
		r := c.r
		r.mu.Lock()
		defer r.mu.Unlock()
		s := r.sandboxes[id]
		if s == nil {
			return nil
		}
		if s.status.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			return fmt.Errorf("sandbox container %q is not fully stopped", id)
		}
		for cid, one := range r.containers {
			if one.sandbox == id && one.starting {
				return fmt.Errorf("container %s is in starting state, can't be removed", cid)
			}
		}
		for cid, one := range r.containers {
			if one.sandbox == id {
				delete(r.containers, cid)
			}
		}
		r.emitLocked(id, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT, id)
		delete(r.sandboxes, id)
		r.note("remove sandbox %s/%d", s.config.GetMetadata().GetName(), s.config.GetMetadata().GetAttempt())
		return nil
	})
}

// PodSandboxStatus implements cri.RuntimeService.
func (c *Client) PodSandboxStatus(ctx context.Context, id string, _ bool) (answer *runtimeapi.PodSandboxStatusResponse, err error) {
	err = c.call(ctx, "PodSandboxStatus", false, func() error {
		c.r.mu.Lock()
		defer c.r.mu.Unlock()
		s := c.r.sandboxes[id]
		if s == nil {
			return notFound("sandbox", id)
		}
		answer = &runtimeapi.PodSandboxStatusResponse{Status: cloneSandbox(s.status)}
		return nil
	})
	return answer, err
}

// ListPodSandbox implements cri.RuntimeService.
func (c *Client) ListPodSandbox(ctx context.Context, filter *runtimeapi.PodSandboxFilter) (list []*runtimeapi.PodSandbox, err error) {
	err = c.call(ctx, "ListPodSandbox", false, func() error {
		c.r.mu.Lock()
		defer c.r.mu.Unlock()
		for _, s := range c.r.sandboxes {
			if matches(filter.GetLabelSelector(), s.config.GetLabels()) && (filter.GetId() == "" || filter.GetId() == s.status.Id) {
				list = append(list, &runtimeapi.PodSandbox{
					Id: s.status.Id, Metadata: s.status.Metadata, State: s.status.State, CreatedAt: s.status.CreatedAt,
					Labels: s.status.Labels, Annotations: s.status.Annotations,
				})
			}
		}
		slices.SortFunc(list, func(a, b *runtimeapi.PodSandbox) int { return cmp.Compare(a.Id, b.Id) })
		return nil
	})
	return list, err
}

func matches(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

// CreateContainer implements cri.RuntimeService.
func (c *Client) CreateContainer(ctx context.Context, sandboxID string, config *runtimeapi.ContainerConfig, _ *runtimeapi.PodSandboxConfig) (id string, err error) {
	err = c.call(ctx, "CreateContainer", true, func() error {
		r, m := c.r, config.GetMetadata()
		r.mu.Lock()
		defer r.mu.Unlock()
		s := r.sandboxes[sandboxID]
		if s == nil {
			return notFound("sandbox", sandboxID)
		}
		if s.status.State != runtimeapi.PodSandboxState_SANDBOX_READY {
			return fmt.Errorf("sandbox %s is not running", sandboxID)
		}
		if r.imageLocked(config.GetImage().GetImage()) == nil {
			return notFound("image", config.GetImage().GetImage())
		}
		for _, have := range r.containers {
			if have.sandbox == sandboxID && have.config.GetMetadata().GetName() == m.GetName() && have.config.GetMetadata().GetAttempt() == m.GetAttempt() {
				return fmt.Errorf("failed to reserve container name: %s_%d is reserved for %s", m.GetName(), m.GetAttempt(), have.status.Id)
			}
		}
		id = r.id("container")
		one := &container{
			config: config, sandbox: sandboxID, exited: make(chan struct{}),
			status: &runtimeapi.ContainerStatus{
				Id: id, Metadata: m, State: runtimeapi.ContainerState_CONTAINER_CREATED, CreatedAt: time.Now().UnixNano(),
				Image: &runtimeapi.ImageSpec{Image: config.GetImage().GetUserSpecifiedImage()}, ImageRef: config.GetImage().GetImage(),
				Labels: config.GetLabels(), Annotations: config.GetAnnotations(), Mounts: config.GetMounts(),
			},
		}
		if r.Program != nil {
			one.program = r.Program(s.config.GetMetadata().GetName(), config)
		}
		r.containers[id] = one
		r.note("create %s/%d", m.GetName(), m.GetAttempt())
		r.emitLocked(id, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, sandboxID)
		return nil
	})
	return id, err
}

// StartContainer implements cri.RuntimeService. The start goes on when its caller goes away.
func (c *Client) StartContainer(ctx context.Context, id string) error {
	return c.call(ctx, "StartContainer", false, func() error {
		one, err := c.r.beginStart(id)
		if err != nil {
			return err
		}
		if c.r.Latency == 0 {
			return c.r.finishStart(one)
		}
		started := make(chan error, 1)
		time.AfterFunc(c.r.Latency, func() { started <- c.r.finishStart(one) })
		select {
		case err := <-started:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-c.cut:
			return errCut
		}
	})
}

// StopContainer implements cri.RuntimeService.
func (c *Client) StopContainer(ctx context.Context, id string, timeout int64) error {
	return c.call(ctx, "StopContainer", true, func() error {
		return c.r.stop(ctx, id, time.Duration(timeout)*time.Second)
	})
}

// RemoveContainer implements cri.RuntimeService.
func (c *Client) RemoveContainer(ctx context.Context, id string) error {
	return c.call(ctx, "RemoveContainer", true, func() error {
		r := c.r
		r.mu.Lock()
		defer r.mu.Unlock()
		one := r.containers[id]
		if one == nil {
			return nil
		}
		if one.starting {
			return fmt.Errorf("container %s is in starting state, can't be removed", id)
		}
		r.exitLocked(one, 137, "")
		delete(r.containers, id)
		r.note("remove %s/%d", one.config.GetMetadata().GetName(), one.config.GetMetadata().GetAttempt())
		r.emitLocked(id, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT, one.sandbox)
		return nil
	})
}

// ListContainers implements cri.RuntimeService.
func (c *Client) ListContainers(ctx context.Context, filter *runtimeapi.ContainerFilter) (list []*runtimeapi.Container, err error) {
	err = c.call(ctx, "ListContainers", false, func() error {
		c.r.mu.Lock()
		defer c.r.mu.Unlock()
		for _, one := range c.r.containers {
			if !matches(filter.GetLabelSelector(), one.config.GetLabels()) || filter.GetPodSandboxId() != "" && filter.GetPodSandboxId() != one.sandbox {
				continue
			}
			s := one.status
			list = append(list, &runtimeapi.Container{
				Id: s.Id, PodSandboxId: one.sandbox, Metadata: s.Metadata, Image: s.Image, ImageRef: s.ImageRef,
				State: s.State, CreatedAt: s.CreatedAt, Labels: s.Labels, Annotations: s.Annotations,
			})
		}
		slices.SortFunc(list, func(a, b *runtimeapi.Container) int { return cmp.Compare(a.Id, b.Id) })
		return nil
	})
	return list, err
}

// ContainerStatus implements cri.RuntimeService.
func (c *Client) ContainerStatus(ctx context.Context, id string, _ bool) (answer *runtimeapi.ContainerStatusResponse, err error) {
	err = c.call(ctx, "ContainerStatus", false, func() error {
		c.r.mu.Lock()
		defer c.r.mu.Unlock()
		one := c.r.containers[id]
		if one == nil {
			return notFound("container", id)
		}
		answer = &runtimeapi.ContainerStatusResponse{Status: cloneContainer(one.status)}
		return nil
	})
	return answer, err
}

// ExecSync implements cri.RuntimeService.
func (c *Client) ExecSync(ctx context.Context, id string, command []string, timeout time.Duration) (stdout, stderr []byte, err error) {
	err = c.call(ctx, "ExecSync", false, func() error {
		c.r.mu.Lock()
		one := c.r.containers[id]
		if one == nil || one.status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			c.r.mu.Unlock()
			return fmt.Errorf("container %s is not running", id)
		}
		m := one.config.GetMetadata()
		c.r.note("exec %s/%d %s", m.GetName(), m.GetAttempt(), strings.Join(command, " "))
		exec := one.program.Exec
		c.r.mu.Unlock()
		if exec == nil {
			return nil
		}
		if timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
		output, code, err := exec(ctx, command)
		stdout = []byte(output)
		if err == nil && code != 0 {
			err = utilexec.CodeExitError{Err: fmt.Errorf("command exited with %d", code), Code: int(code)}
		}
		return err
	})
	return stdout, nil, err
}

// ReopenContainerLog implements cri.RuntimeService. The fake writes no logs.
func (c *Client) ReopenContainerLog(ctx context.Context, id string) error {
	return c.call(ctx, "ReopenContainerLog", false, func() error { return nil })
}

// GetContainerEvents implements cri.RuntimeService.
func (c *Client) GetContainerEvents(ctx context.Context, events chan *runtimeapi.ContainerEventResponse, established func(runtimeapi.RuntimeService_GetContainerEventsClient)) error {
	if err := c.alive(ctx); err != nil {
		return err
	}
	listener := make(chan *runtimeapi.ContainerEventResponse, 1000)
	c.r.mu.Lock()
	c.r.listeners[listener] = true
	c.r.mu.Unlock()
	defer func() {
		c.r.mu.Lock()
		delete(c.r.listeners, listener)
		c.r.mu.Unlock()
	}()
	if established != nil {
		established(nil)
	}
	for {
		select {
		case <-c.cut:
			return errCut
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-listener:
			if !ok {
				return io.EOF
			}
			select {
			case events <- e:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}
