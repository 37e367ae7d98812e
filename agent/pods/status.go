package pods

import (
	"cmp"
	"errors"
	"io"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pleachdev/pleach/agent/podlogs"
	"github.com/pleachdev/pleach/agent/wake"
)

func containerID(id string) string { return "containerd://" + id }

// publish makes the present status visible, and keeps it on disk, when it has changed.
func (w *worker) publish(now time.Time) {
	status := w.status(now)
	if !equality.Semantic.DeepEqual(status, w.state.Status) {
		w.state.Status = status
		w.stateUnsaved = true
	}
	next := w.decorated(&w.state.Status)
	if last := w.snapshot.Load(); !equality.Semantic.DeepEqual(last.Status, next.Status) || (last.DeletionTimestamp == nil) != (next.DeletionTimestamp == nil) {
		w.snapshot.Store(next)
		wake.Poke(w.m.changed)
	}
	if w.stateUnsaved {
		if err := w.m.store.putState(w.uid, w.state); err != nil {
			w.log.Error("keep the pod's state; it will be observed anew after a restart", "err", err)
			return
		}
		w.stateUnsaved = false
	}
}

// decorated is the pod with a status, for the outside.
func (w *worker) decorated(status *corev1.PodStatus) *corev1.Pod {
	pod := *w.pod() // spec and metadata are shared and never changed
	pod.Status = *status.DeepCopy()
	return withDeletion(&pod, w.stopIntent())
}

func withDeletion(pod *corev1.Pod, stop *stopIntent) *corev1.Pod {
	if stop != nil {
		end := metav1.NewTime(stop.At.Add(time.Duration(stop.GraceSeconds) * time.Second))
		pod.DeletionTimestamp = &end
		pod.DeletionGracePeriodSeconds = &stop.GraceSeconds
	}
	return pod
}

func (w *worker) status(now time.Time) corev1.PodStatus {
	pod := w.pod()
	started := metav1.NewTime(w.record.Accepted)
	s := corev1.PodStatus{StartTime: &started, QOSClass: QOSClass(pod), ObservedGeneration: pod.Generation}
	for i, ip := range w.m.NodeIPs {
		if i == 0 {
			s.HostIP = ip.String()
		}
		s.HostIPs = append(s.HostIPs, corev1.HostIP{IP: ip.String()})
	}
	for i, ip := range w.podIPs() {
		if i == 0 {
			s.PodIP = ip
		}
		s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: ip})
	}
	for i := range pod.Spec.InitContainers {
		s.InitContainerStatuses = append(s.InitContainerStatuses, w.containerStatus(w.containers[pod.Spec.InitContainers[i].Name]))
	}
	for i := range pod.Spec.Containers {
		s.ContainerStatuses = append(s.ContainerStatuses, w.containerStatus(w.containers[pod.Spec.Containers[i].Name]))
	}
	s.Phase = w.phase(&s)
	if w.state.Failing != nil {
		s.Reason, s.Message = w.state.Failing.Reason, w.state.Failing.Message
	}
	s.Conditions = w.conditions(&s, now)
	return s
}

// podIPs are the pod's addresses, the main one first.
func (w *worker) podIPs() []string {
	if w.pod().Spec.HostNetwork {
		var ips []string
		for _, ip := range w.m.NodeIPs {
			ips = append(ips, ip.String())
		}
		return ips
	}
	if !w.obs.ready() || w.obs.sandbox.GetNetwork().GetIp() == "" {
		return nil
	}
	ips := []string{w.obs.sandbox.GetNetwork().GetIp()}
	for _, more := range w.obs.sandbox.GetNetwork().GetAdditionalIps() {
		ips = append(ips, more.GetIp())
	}
	return ips
}

// podAddresses is podIPs for tasks: what was last published.
func (w *worker) podAddresses() []string {
	var ips []string
	for _, ip := range w.snapshot.Load().Status.PodIPs {
		ips = append(ips, ip.IP)
	}
	return ips
}

func (w *worker) containerStatus(c *container) corev1.ContainerStatus {
	name := c.spec.Name
	s := corev1.ContainerStatus{Name: name, Image: c.spec.Image, Started: new(false)}
	remembered := w.remembered(name)
	newest := w.obs.newest(name)
	if newest == nil {
		if remembered == nil || remembered.ContainerID == "" {
			s.State.Waiting = w.waiting(c)
			return s
		}
		return w.lost(c, remembered)
	}
	s.ContainerID = containerID(newest.GetId())
	s.ImageID = cmp.Or(newest.GetImageRef(), newest.GetImageId())
	s.RestartCount = int32(newest.GetMetadata().GetAttempt())
	s.LastTerminationState.Terminated = w.lastTermination(name, remembered)
	switch newest.GetState() {
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(time.Unix(0, newest.GetStartedAt()))}
		s.Started = new(w.started(c))
		s.Ready = w.ready(c)
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		s.State.Waiting = w.waiting(c)
	default:
		t := w.terminated(c, newest)
		switch {
		case c.reason != "" && !w.staysEnded(c, t.ExitCode):
			s.State.Waiting, s.LastTerminationState.Terminated = w.waiting(c), t
		default:
			s.State.Terminated = t
			s.Ready = c.init && !c.sidecar && t.ExitCode == 0
		}
	}
	return s
}

// staysEnded tells whether a container that ended with exitCode stays ended.
func (w *worker) staysEnded(c *container, exitCode int32) bool {
	return w.ending() || w.state.Final || !restarts(restartPolicy(w.pod(), c), exitCode)
}

// lost is the status of a container that the runtime has forgotten.
func (w *worker) lost(c *container, remembered *corev1.ContainerStatus) corev1.ContainerStatus {
	s := *remembered.DeepCopy()
	s.Ready = c.init && !c.sidecar && s.State.Terminated != nil && s.State.Terminated.ExitCode == 0
	s.Started = new(false)
	if neverRan(&s) {
		s.State.Waiting = w.waiting(c)
		return s
	}
	if s.State.Terminated == nil {
		t := s.LastTerminationState.Terminated
		if t == nil || t.ContainerID != s.ContainerID {
			t = &corev1.ContainerStateTerminated{
				ExitCode: lostExitCode, Reason: lostReason, ContainerID: s.ContainerID,
				Message: "The container could not be located when the pod was looked at",
			}
		}
		s.State = corev1.ContainerState{Terminated: t}
	}
	if t := s.State.Terminated; c.reason != "" && !w.staysEnded(c, t.ExitCode) {
		s.LastTerminationState.Terminated = t
		s.State = corev1.ContainerState{Waiting: w.waiting(c)}
	}
	return s
}

func (w *worker) waiting(c *container) *corev1.ContainerStateWaiting {
	if c.reason != "" {
		return &corev1.ContainerStateWaiting{Reason: c.reason, Message: c.message}
	}
	waiting := &corev1.ContainerStateWaiting{Reason: reasonCreating, Message: cmp.Or(w.sandbox.err, w.volumes.err)}
	if len(w.pod().Spec.InitContainers) > 0 && !c.init {
		waiting.Reason = reasonInitializing
	}
	return waiting
}

// lastTermination is how the instance before the newest ended.
func (w *worker) lastTermination(name string, remembered *corev1.ContainerStatus) *corev1.ContainerStateTerminated {
	all := w.obs.containers[name]
	for _, c := range all[1:] {
		if c.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED {
			return w.terminated(w.containers[name], c)
		}
	}
	switch {
	case remembered == nil || remembered.ContainerID == "":
		return nil
	case remembered.ContainerID == containerID(all[0].GetId()):
		if t := remembered.LastTerminationState.Terminated; t != nil && t.ContainerID != remembered.ContainerID {
			return t
		}
		return nil
	case remembered.State.Terminated != nil:
		return remembered.State.Terminated
	}
	return remembered.LastTerminationState.Terminated
}

func (w *worker) terminated(c *container, status *runtimeapi.ContainerStatus) *corev1.ContainerStateTerminated {
	t := &corev1.ContainerStateTerminated{
		ExitCode:    status.GetExitCode(),
		Reason:      status.GetReason(),
		ContainerID: containerID(status.GetId()),
		StartedAt:   metav1.NewTime(time.Unix(0, status.GetStartedAt())),
		FinishedAt:  metav1.NewTime(time.Unix(0, status.GetFinishedAt())),
	}
	if status.GetState() == runtimeapi.ContainerState_CONTAINER_UNKNOWN {
		t.ExitCode, t.Reason = lostExitCode, lostReason
	}
	switch {
	case t.Reason != "":
	case t.ExitCode == 0:
		t.Reason = "Completed"
	default:
		t.Reason = "Error"
	}
	words, ok := w.lastWords[status.GetId()]
	if !ok {
		words = w.readLastWords(c, status)
		w.lastWords[status.GetId()] = words
	}
	t.Message = cmp.Or(words, status.GetMessage())
	return t
}

// Bounds of a termination message, as the kubelet's.
const (
	maxLastWords     = 4096 // bytes, of the file
	maxLastLogs      = 2048 // bytes, of the log
	maxLastLogsLines = 80
)

// readLastWords reads what a container left at its terminationMessagePath, or where its policy asks
// for it the end of its log.
func (w *worker) readLastWords(c *container, status *runtimeapi.ContainerStatus) string {
	attempt := status.GetMetadata().GetAttempt()
	file, err := os.Open(w.lastWordsFile(c.spec.Name, attempt))
	if err == nil {
		defer file.Close()
		words, err := io.ReadAll(io.LimitReader(file, maxLastWords))
		if err == nil && len(words) > 0 {
			return string(words)
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return "cannot read the termination message: " + err.Error()
	}
	if c.spec.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError || status.GetExitCode() == 0 {
		return ""
	}
	text, err := podlogs.Tail(w.m.LogDirOf(w.pod()), c.spec.Name, attempt, maxLastLogsLines, maxLastLogs)
	if err != nil {
		return "cannot read the log: " + err.Error()
	}
	return text
}

// phase is the pod's phase by the kubelet's rules.
func (w *worker) phase(s *corev1.PodStatus) corev1.PodPhase {
	if w.state.Final {
		if w.state.Failing != nil {
			return corev1.PodFailed
		}
		for i := range s.ContainerStatuses {
			if t := s.ContainerStatuses[i].State.Terminated; t == nil || t.ExitCode != 0 {
				return corev1.PodFailed
			}
		}
		return corev1.PodSucceeded
	}
	begun := func(c *corev1.ContainerStatus) bool {
		return c.State.Running != nil || c.State.Terminated != nil || c.LastTerminationState.Terminated != nil
	}
	for i := range s.ContainerStatuses {
		if !begun(&s.ContainerStatuses[i]) {
			return corev1.PodPending
		}
	}
	return corev1.PodRunning
}
