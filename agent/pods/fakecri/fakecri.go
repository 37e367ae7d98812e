// Package fakecri is a CRI runtime in memory that behaves like containerd where pods can tell: the
// states, the names it refuses to give twice, the events, what stopping and removing take along.
// What programs in containers do is scripted.
//
// The state outlives its clients, as a runtime outlives an agent: [Runtime.Connect] gives a
// connection, and cutting it loses what is in flight but nothing that was done.
package fakecri

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A Program is what a container does when it runs. The zero value runs until it is stopped and
// then exits at once with 0.
type Program struct {
	RunFor     time.Duration // how long it runs; 0 for ever
	ExitCode   int32
	OOM        bool          // the end is an out-of-memory kill
	StopTakes  time.Duration // from the stop signal to the exit
	IgnoreTERM bool          // exits by SIGKILL only
	StartErr   error         // the program cannot be started
	// Exec answers commands; nil makes each succeed at once.
	Exec func(ctx context.Context, command []string) (output string, exitCode int32, err error)
}

// Runtime is the state of the runtime. Its fields are set before it is used.
type Runtime struct {
	// Program says what an instance of a container does; nil makes every one run for ever. pod is its
	// pod's name.
	Program func(pod string, config *runtimeapi.ContainerConfig) Program
	// Pull answers pulls of images that are not there; nil makes every one succeed at once.
	Pull func(ctx context.Context, image string, auth *runtimeapi.AuthConfig) error
	// SandboxErr fails the making of sandboxes when it returns an error.
	SandboxErr func(pod string) error
	// Call is told of every call before it is carried out and after ("after <name>").
	Call func(name string)
	// Latency is how long each call that changes something takes.
	Latency time.Duration

	mu         sync.Mutex
	serial     int
	sandboxes  map[string]*sandbox
	containers map[string]*container
	images     map[string]*runtimeapi.Image
	listeners  map[chan *runtimeapi.ContainerEventResponse]bool
	starts     map[string]int // per "<uid>/<container>/<attempt>"
	log        []string
}

type sandbox struct {
	status *runtimeapi.PodSandboxStatus
	config *runtimeapi.PodSandboxConfig
}

type container struct {
	status  *runtimeapi.ContainerStatus
	config  *runtimeapi.ContainerConfig
	sandbox string
	program Program
	exited  chan struct{} // closed at the exit
	// starting says that a start is under way.
	starting bool
	timer    *time.Timer
}

// New returns a runtime without pods that has the named images.
func New(images ...string) *Runtime {
	r := &Runtime{
		sandboxes: map[string]*sandbox{}, containers: map[string]*container{},
		images: map[string]*runtimeapi.Image{}, listeners: map[chan *runtimeapi.ContainerEventResponse]bool{},
		starts: map[string]int{},
	}
	for _, name := range images {
		r.images[name] = image(name)
	}
	return r
}

func image(name string) *runtimeapi.Image {
	return &runtimeapi.Image{
		Id: "sha256:" + fmt.Sprintf("%064x", len(name)) + name, RepoTags: []string{name}, Size: 1000,
		Spec: &runtimeapi.ImageSpec{Image: name},
	}
}

// SetImage puts an image there, for instance one with a user.
func (r *Runtime) SetImage(name string, i *runtimeapi.Image) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images[name] = i
}

// Starts is how often instances were started, per "<uid>/<container>/<attempt>".
func (r *Runtime) Starts() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.starts)
}

// Log is what was done, in order: "run sandbox web", "start app/0", "stop app/0 30" …
func (r *Runtime) Log() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.log)
}

// Configs are the configurations of all containers by name, the newest of each.
func (r *Runtime) Configs() map[string]*runtimeapi.ContainerConfig {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := map[string]*runtimeapi.ContainerConfig{}
	for _, c := range r.containers {
		name := c.config.GetMetadata().GetName()
		if have := all[name]; have == nil || have.GetMetadata().GetAttempt() < c.config.GetMetadata().GetAttempt() {
			all[name] = c.config
		}
	}
	return all
}

// Count is how many sandboxes and containers there are.
func (r *Runtime) Count() (sandboxes, containers int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sandboxes), len(r.containers)
}

// Exit makes a running container exit by itself.
func (r *Runtime) Exit(pod, name string, code int32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.containers {
		if c.config.GetMetadata().GetName() == name && r.podOf(c) == pod && c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			r.exitLocked(c, code, "")
		}
	}
}

// PowerOff ends everything at once, as a machine does: containers are found exited with an unknown
// end, sandboxes not ready. With forget the runtime's own disk is lost too.
func (r *Runtime) PowerOff(forget bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.containers {
		if c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			r.exitLocked(c, 255, "Unknown")
		}
	}
	for _, s := range r.sandboxes {
		s.status.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	}
	if forget {
		clear(r.sandboxes)
		clear(r.containers)
	}
}

// DropEvents ends all event streams, as a restart of the runtime does.
func (r *Runtime) DropEvents() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for l := range r.listeners {
		close(l)
		delete(r.listeners, l)
	}
}

func (r *Runtime) podOf(c *container) string {
	if s := r.sandboxes[c.sandbox]; s != nil {
		return s.config.GetMetadata().GetName()
	}
	return ""
}

func (r *Runtime) id(kind string) string {
	r.serial++
	return fmt.Sprintf("%s%d", kind, r.serial)
}

func (r *Runtime) note(format string, args ...any) {
	r.log = append(r.log, fmt.Sprintf(format, args...))
}

// exitLocked is the end of a running container.
func (r *Runtime) exitLocked(c *container, code int32, reason string) {
	if c.status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	c.status.State = runtimeapi.ContainerState_CONTAINER_EXITED
	c.status.ExitCode = code
	c.status.FinishedAt = time.Now().UnixNano()
	switch {
	case reason != "":
		c.status.Reason = reason
	case code == 0:
		c.status.Reason = "Completed"
	default:
		c.status.Reason = "Error"
	}
	close(c.exited)
	r.note("exit %s/%d %d", c.config.GetMetadata().GetName(), c.config.GetMetadata().GetAttempt(), code)
	r.emitLocked(c.status.Id, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, c.sandbox)
}

func (r *Runtime) emitLocked(id string, kind runtimeapi.ContainerEventType, sandboxID string) {
	event := &runtimeapi.ContainerEventResponse{ContainerId: id, ContainerEventType: kind, CreatedAt: time.Now().UnixNano()}
	if s := r.sandboxes[sandboxID]; s != nil {
		event.PodSandboxStatus = cloneSandbox(s.status)
	}
	for l := range r.listeners {
		select {
		case l <- event:
		default: // as with containerd, a listener that does not listen misses events
		}
	}
}

func cloneSandbox(s *runtimeapi.PodSandboxStatus) *runtimeapi.PodSandboxStatus {
	c := &runtimeapi.PodSandboxStatus{
		Id: s.Id, Metadata: s.Metadata, State: s.State, CreatedAt: s.CreatedAt, Network: s.Network, Linux: s.Linux,
		Labels: s.Labels, Annotations: s.Annotations, RuntimeHandler: s.RuntimeHandler,
	}
	return c
}

func cloneContainer(s *runtimeapi.ContainerStatus) *runtimeapi.ContainerStatus {
	return &runtimeapi.ContainerStatus{
		Id: s.Id, Metadata: s.Metadata, State: s.State, CreatedAt: s.CreatedAt, StartedAt: s.StartedAt,
		FinishedAt: s.FinishedAt, ExitCode: s.ExitCode, Image: s.Image, ImageRef: s.ImageRef, Reason: s.Reason,
		Message: s.Message, Labels: s.Labels, Annotations: s.Annotations, Mounts: s.Mounts, LogPath: s.LogPath, ImageId: s.ImageId,
	}
}

// beginStart takes a container for its start.
func (r *Runtime) beginStart(id string) (*container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	one := r.containers[id]
	switch {
	case one == nil:
		return nil, notFound("container", id)
	case one.status.State != runtimeapi.ContainerState_CONTAINER_CREATED:
		return nil, fmt.Errorf("container is in %s state", one.status.State)
	case one.starting:
		return nil, errors.New("container is already in starting state")
	}
	one.starting = true
	return one, nil
}

// finishStart runs what a container was started for.
func (r *Runtime) finishStart(one *container) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	one.starting = false
	m := one.config.GetMetadata()
	one.status.State = runtimeapi.ContainerState_CONTAINER_RUNNING
	if err := one.program.StartErr; err != nil {
		one.status.Message = err.Error()
		r.exitLocked(one, 128, "StartError")
		return err
	}
	one.status.StartedAt = time.Now().UnixNano()
	r.starts[one.config.GetLabels()["io.kubernetes.pod.uid"]+"/"+m.GetName()+"/"+fmt.Sprint(m.GetAttempt())]++
	r.note("start %s/%d", m.GetName(), m.GetAttempt())
	r.emitLocked(one.status.Id, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, one.sandbox)
	if p := one.program; p.RunFor > 0 {
		reason := ""
		if p.OOM {
			reason = "OOMKilled"
		}
		one.timer = time.AfterFunc(p.RunFor, func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.exitLocked(one, p.ExitCode, reason)
		})
	}
	return nil
}

func notFound(kind, id string) error {
	return status.Errorf(codes.NotFound, "%s %q: not found", kind, id)
}

// stop stops a container as the runtime does: the stop signal, the time-out, SIGKILL.
func (r *Runtime) stop(ctx context.Context, id string, timeout time.Duration) error {
	r.mu.Lock()
	c := r.containers[id]
	if c == nil || c.status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		r.mu.Unlock()
		return nil
	}
	r.note("stop %s/%d %d", c.config.GetMetadata().GetName(), c.config.GetMetadata().GetAttempt(), int(timeout/time.Second))
	p := c.program
	r.mu.Unlock()
	code, takes := int32(0), p.StopTakes
	if p.IgnoreTERM || takes > timeout {
		code, takes = 137, timeout
	}
	select {
	case <-time.After(takes):
	case <-c.exited:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.exitLocked(c, code, "")
	return nil
}

var errCut = errors.New("rpc error: code = Unavailable desc = the connection was cut")
