// Package cricontract is what package pods relies on in a CRI runtime, as tests. They run against
// the fake runtime and against the real containerd, so that the fake stays honest.
package cricontract

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"
)

// Subject is a runtime to test.
type Subject struct {
	Runtime cri.RuntimeService
	Images  cri.ImageManagerService
	// Image names an image of the program in directory app that can be pulled and is not there yet.
	Image string
	// NoImage names an image that cannot be pulled.
	NoImage string
	LogDir  string
	// CgroupParent is where pods go; "" leaves it to the runtime.
	CgroupParent string
}

const deadline = 30 * time.Second

// Run runs the suite. It leaves the runtime as it found it, but for the image.
func Run(t *testing.T, s Subject) {
	t.Run("images", s.images)
	t.Run("sandbox", s.sandbox)
	t.Run("container", s.container)
	t.Run("a start outlives its caller", s.startOutlives)
	t.Run("exits", s.exits)
	t.Run("stopping", s.stopping)
	t.Run("exec", s.exec)
	t.Run("events", s.events)
	t.Run("sandbox takes containers along", s.takesAlong)
}

func (s Subject) images(t *testing.T) {
	ctx := t.Context()
	spec := &runtimeapi.ImageSpec{Image: s.Image}
	if got, err := s.Images.ImageStatus(ctx, spec, false); err != nil || got.GetImage() != nil {
		t.Fatalf("status of an absent image: %v, %v; want none and no error", got, err)
	}
	if _, err := s.Images.PullImage(ctx, &runtimeapi.ImageSpec{Image: s.NoImage}, nil, nil); err == nil {
		t.Error("pulled an image that does not exist")
	}
	if _, err := s.Images.PullImage(ctx, spec, nil, nil); err != nil {
		t.Fatalf("pull: %v", err)
	}
	got, err := s.Images.ImageStatus(ctx, spec, false)
	if err != nil || got.GetImage().GetId() == "" {
		t.Fatalf("status of a pulled image: %v, %v", got, err)
	}
	byID, err := s.Images.ImageStatus(ctx, &runtimeapi.ImageSpec{Image: got.GetImage().GetId()}, false)
	if err != nil || byID.GetImage().GetId() != got.GetImage().GetId() {
		t.Errorf("status by id: %v, %v", byID, err)
	}
}

// A pod is a sandbox under test.
type pod struct {
	Subject
	t      *testing.T
	config *runtimeapi.PodSandboxConfig
	id     string
}

func (s Subject) pod(t *testing.T, name string) *pod {
	t.Helper()
	uid := fmt.Sprintf("uid-%s-%d", name, time.Now().UnixNano())
	p := &pod{Subject: s, t: t, config: &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "contract", Uid: uid},
		Hostname:     name,
		LogDirectory: s.LogDir + "/" + uid,
		Labels:       map[string]string{"io.kubernetes.pod.uid": uid},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: s.CgroupParent,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
			},
		},
	}}
	id, err := s.Runtime.RunPodSandbox(t.Context(), p.config, "")
	if err != nil {
		t.Fatalf("run sandbox: %v", err)
	}
	p.id = id
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		if err := errors.Join(s.Runtime.StopPodSandbox(ctx, id), s.Runtime.RemovePodSandbox(ctx, id)); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return p
}

func (p *pod) spec(name string, args ...string) *runtimeapi.ContainerConfig {
	image, err := p.Images.ImageStatus(p.t.Context(), &runtimeapi.ImageSpec{Image: p.Image}, false)
	if err != nil {
		p.t.Fatal(err)
	}
	return &runtimeapi.ContainerConfig{
		Metadata:    &runtimeapi.ContainerMetadata{Name: name},
		Image:       &runtimeapi.ImageSpec{Image: image.GetImage().GetId(), UserSpecifiedImage: p.Image},
		Args:        args,
		Labels:      map[string]string{"io.kubernetes.pod.uid": p.config.GetMetadata().GetUid(), "io.kubernetes.container.name": name},
		Annotations: map[string]string{"pleach.dev/sandbox": p.id},
		LogPath:     name + "/0.log",
		Linux:       &runtimeapi.LinuxContainerConfig{},
	}
}

func (p *pod) create(name string, args ...string) string {
	p.t.Helper()
	id, err := p.Runtime.CreateContainer(p.t.Context(), p.id, p.spec(name, args...), p.config)
	if err != nil {
		p.t.Fatalf("create %s: %v", name, err)
	}
	return id
}

func (p *pod) start(name string, args ...string) string {
	p.t.Helper()
	id := p.create(name, args...)
	if err := p.Runtime.StartContainer(p.t.Context(), id); err != nil {
		p.t.Fatalf("start %s: %v", name, err)
	}
	return id
}

func (p *pod) status(id string) *runtimeapi.ContainerStatus {
	p.t.Helper()
	answer, err := p.Runtime.ContainerStatus(p.t.Context(), id, false)
	if err != nil {
		p.t.Fatalf("status: %v", err)
	}
	return answer.GetStatus()
}

func (p *pod) exited(id string) *runtimeapi.ContainerStatus {
	p.t.Helper()
	for end := time.Now().Add(deadline); ; time.Sleep(10 * time.Millisecond) {
		s := p.status(id)
		if s.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED {
			return s
		}
		if time.Now().After(end) {
			p.t.Fatalf("still %s after %s", s.GetState(), deadline)
		}
	}
}

func (s Subject) sandbox(t *testing.T) {
	ctx := t.Context()
	p := s.pod(t, "sandbox")
	got, err := s.Runtime.PodSandboxStatus(ctx, p.id, false)
	if err != nil || got.GetStatus().GetState() != runtimeapi.PodSandboxState_SANDBOX_READY || got.GetStatus().GetNetwork().GetIp() == "" {
		t.Errorf("status: %v, %v; want ready with an address", got, err)
	}
	list, err := s.Runtime.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{LabelSelector: p.config.Labels})
	if err != nil || len(list) != 1 || list[0].GetId() != p.id || list[0].GetMetadata().GetUid() != p.config.GetMetadata().GetUid() {
		t.Errorf("list by label: %v, %v", list, err)
	}
	if _, err := s.Runtime.RunPodSandbox(ctx, p.config, ""); err == nil {
		t.Error("the same name, uid and attempt was given twice")
	}
	for range 2 {
		if err := s.Runtime.StopPodSandbox(ctx, p.id); err != nil {
			t.Errorf("stop: %v", err)
		}
	}
	got, err = s.Runtime.PodSandboxStatus(ctx, p.id, false)
	if err != nil || got.GetStatus().GetState() != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("status after stop: %v, %v", got, err)
	}
	if _, err := s.Runtime.CreateContainer(ctx, p.id, p.spec("late"), p.config); err == nil {
		t.Error("created a container in a stopped sandbox")
	}
	for range 2 {
		if err := s.Runtime.RemovePodSandbox(ctx, p.id); err != nil {
			t.Errorf("remove: %v", err)
		}
	}
	if _, err := s.Runtime.PodSandboxStatus(ctx, p.id, false); status.Code(err) != codes.NotFound {
		t.Errorf("status of a removed sandbox: %v; want NotFound", err)
	}
	if err := s.Runtime.StopPodSandbox(ctx, "no-such-sandbox"); err != nil {
		t.Errorf("stop an unknown sandbox: %v; want no error", err)
	}
}

func (s Subject) container(t *testing.T) {
	ctx := t.Context()
	p := s.pod(t, "container")
	id := p.create("app")
	if c := p.status(id); c.GetState() != runtimeapi.ContainerState_CONTAINER_CREATED || c.GetAnnotations()["pleach.dev/sandbox"] != p.id {
		t.Errorf("status after create: %v", c)
	}
	if _, err := s.Runtime.CreateContainer(ctx, p.id, p.spec("app"), p.config); err == nil {
		t.Error("the same name and attempt was given twice")
	}
	if err := s.Runtime.StartContainer(ctx, id); err != nil {
		t.Fatalf("start: %v", err)
	}
	c := p.status(id)
	if c.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING || c.GetStartedAt() == 0 {
		t.Errorf("status after start: %v", c)
	}
	if err := s.Runtime.StartContainer(ctx, id); err == nil {
		t.Error("a running container was started again")
	}
	list, err := s.Runtime.ListContainers(ctx, &runtimeapi.ContainerFilter{LabelSelector: p.config.Labels})
	if err != nil || len(list) != 1 || list[0].GetId() != id || list[0].GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING ||
		list[0].GetPodSandboxId() != p.id {
		t.Errorf("list by label: %v, %v", list, err)
	}
	for range 2 {
		if err := s.Runtime.RemoveContainer(ctx, id); err != nil {
			t.Errorf("remove: %v", err)
		}
	}
	if _, err := s.Runtime.ContainerStatus(ctx, id, false); status.Code(err) != codes.NotFound {
		t.Errorf("status of a removed container: %v; want NotFound", err)
	}
}

// startOutlives cuts callers off at some moment of a start. The start goes on, or had not begun and can
// be asked for again: what may have run already is not taken back.
func (s Subject) startOutlives(t *testing.T) {
	ctx := t.Context()
	p := s.pod(t, "outlives")
	id := p.create("whole")
	began := time.Now()
	if err := s.Runtime.StartContainer(ctx, id); err != nil {
		t.Fatalf("start: %v", err)
	}
	took := time.Since(began)
	const cuts = 20
	for i := range cuts {
		id := p.create(fmt.Sprintf("cut-%d", i))
		calling, hangUp := context.WithCancel(ctx)
		timer := time.AfterFunc(took*time.Duration(i)/cuts, hangUp)
		err := s.Runtime.StartContainer(calling, id)
		timer.Stop()
		hangUp()
		for end := time.Now().Add(deadline); ; time.Sleep(5 * time.Millisecond) {
			c := p.status(id)
			if c.GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING {
				break
			}
			if c.GetState() != runtimeapi.ContainerState_CONTAINER_CREATED || time.Now().After(end) {
				t.Fatalf("cut %d of %d of a start that takes %s: %v; the caller got %v", i, cuts, took, c, err)
			}
			// Refused while the first one is under way.
			_ = s.Runtime.StartContainer(ctx, id)
		}
	}
}

func (s Subject) exits(t *testing.T) {
	p := s.pod(t, "exits")
	if c := p.exited(p.start("well", "exit", "0")); c.GetExitCode() != 0 || c.GetReason() != "Completed" || c.GetFinishedAt() < c.GetStartedAt() {
		t.Errorf("exit with 0: %v", c)
	}
	if c := p.exited(p.start("badly", "exit", "3")); c.GetExitCode() != 3 || c.GetReason() != "Error" {
		t.Errorf("exit with 3: %v", c)
	}
	config := p.spec("missing")
	config.Command = []string{"/no-such-program"}
	id, err := s.Runtime.CreateContainer(t.Context(), p.id, config, p.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Runtime.StartContainer(t.Context(), id); err == nil {
		t.Error("started a program that does not exist")
	}
	if c := p.exited(id); c.GetExitCode() != 128 || c.GetReason() != "StartError" {
		t.Errorf("a start that failed: %v", c)
	}
}

func (s Subject) stopping(t *testing.T) {
	ctx := t.Context()
	p := s.pod(t, "stopping")
	id := p.start("obeys")
	for range 2 {
		if err := s.Runtime.StopContainer(ctx, id, 20); err != nil {
			t.Errorf("stop: %v", err)
		}
	}
	if c := p.exited(id); c.GetExitCode() != 0 {
		t.Errorf("a container that obeys SIGTERM: %v", c)
	}
	id = p.start("stubborn", "stubborn")
	time.Sleep(200 * time.Millisecond) // until it ignores the signal, it obeys
	if err := s.Runtime.StopContainer(ctx, id, 1); err != nil {
		t.Errorf("stop: %v", err)
	}
	if c := p.exited(id); c.GetExitCode() != 137 {
		t.Errorf("a container that ignores SIGTERM: %v", c)
	}
}

func (s Subject) exec(t *testing.T) {
	ctx := t.Context()
	p := s.pod(t, "exec")
	id := p.start("app")
	if _, _, err := s.Runtime.ExecSync(ctx, id, []string{"/app", "exit", "0"}, 10*time.Second); err != nil {
		t.Errorf("a command that succeeds: %v", err)
	}
	_, _, err := s.Runtime.ExecSync(ctx, id, []string{"/app", "exit", "2"}, 10*time.Second)
	if coded, ok := errors.AsType[utilexec.ExitError](err); !ok || coded.ExitStatus() != 2 {
		t.Errorf("a command that exits with 2: %v", err)
	}
	began := time.Now()
	if _, _, err := s.Runtime.ExecSync(ctx, id, []string{"/app", "sleep", "60"}, time.Second); err == nil || time.Since(began) > deadline {
		t.Errorf("a command beyond its time-out: %v after %s", err, time.Since(began))
	}
}

func (s Subject) events(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := make(chan *runtimeapi.ContainerEventResponse, 100)
	connected := make(chan struct{}, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.Runtime.GetContainerEvents(ctx, events, func(runtimeapi.RuntimeService_GetContainerEventsClient) { connected <- struct{}{} })
	}()
	<-connected
	time.Sleep(100 * time.Millisecond) // the stream is there when the runtime has taken the request
	p := s.pod(t, "events")
	id := p.start("app", "exit", "4")
	want := map[runtimeapi.ContainerEventType]bool{
		runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT: true,
		runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT: true,
		runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT: true,
	}
	timeout := time.After(deadline)
	for len(want) > 0 {
		select {
		case e := <-events:
			if e.GetContainerId() != id {
				continue
			}
			if uid := e.GetPodSandboxStatus().GetMetadata().GetUid(); uid != p.config.GetMetadata().GetUid() {
				t.Errorf("event %s names pod %q", e.GetContainerEventType(), uid)
			}
			delete(want, e.GetContainerEventType())
		case <-timeout:
			t.Fatalf("events that did not come: %v", want)
		}
	}
	cancel()
	select {
	case <-ended:
	case <-time.After(deadline):
		t.Error("the stream did not end with its context")
	}
}

func (s Subject) takesAlong(t *testing.T) {
	ctx := t.Context()
	p := s.pod(t, "along")
	id := p.start("app", "stubborn")
	if err := s.Runtime.StopPodSandbox(ctx, p.id); err != nil {
		t.Fatal(err)
	}
	if c := p.exited(id); c.GetExitCode() != 137 {
		t.Errorf("a container of a stopped sandbox: %v", c)
	}
	if err := s.Runtime.RemovePodSandbox(ctx, p.id); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Runtime.ContainerStatus(ctx, id, false); status.Code(err) != codes.NotFound {
		t.Errorf("a container of a removed sandbox: %v; want NotFound", err)
	}
}
