package pods

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// conditions are the pod's conditions. A condition that stays the same keeps its
// lastTransitionTime.
func (w *worker) conditions(s *corev1.PodStatus, now time.Time) []corev1.PodCondition {
	scheduled := corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionTrue,
		LastTransitionTime: metav1.NewTime(w.record.Accepted),
	}
	list := []corev1.PodCondition{
		condition(corev1.PodReadyToStartContainers, w.obs.ready(), "", ""),
		w.initialized(s),
		w.containersReady(s, corev1.ContainersReady),
		w.containersReady(s, corev1.PodReady),
	}
	for i := range list {
		list[i].ObservedGeneration = w.pod().Generation
		list[i].LastTransitionTime = metav1.NewTime(now)
		for _, last := range w.state.Status.Conditions {
			if last.Type == list[i].Type && last.Status == list[i].Status {
				list[i].LastTransitionTime = last.LastTransitionTime
			}
		}
	}
	return append([]corev1.PodCondition{scheduled}, list...)
}

func condition(kind corev1.PodConditionType, ok bool, reason, message string) corev1.PodCondition {
	c := corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue}
	if !ok {
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, reason, message
	}
	return c
}

func (w *worker) initialized(s *corev1.PodStatus) corev1.PodCondition {
	if s.Phase == corev1.PodSucceeded {
		c := condition(corev1.PodInitialized, true, "", "")
		c.Reason = "PodCompleted"
		return c
	}
	var incomplete []string
	mainBegun := w.mainStarted()
	for i := range s.InitContainerStatuses {
		c := &s.InitContainerStatuses[i]
		done := c.Ready
		if w.containers[c.Name].sidecar {
			done = isTrue(c.Started)
		}
		if !done && !mainBegun {
			incomplete = append(incomplete, c.Name)
		}
	}
	return condition(corev1.PodInitialized, len(incomplete) == 0, "ContainersNotInitialized",
		fmt.Sprintf("containers with incomplete status: [%s]", strings.Join(incomplete, " ")))
}

func (w *worker) containersReady(s *corev1.PodStatus, kind corev1.PodConditionType) corev1.PodCondition {
	switch s.Phase {
	case corev1.PodSucceeded:
		return condition(kind, false, "PodCompleted", "")
	case corev1.PodFailed:
		return condition(kind, false, "PodFailed", "")
	case corev1.PodPending, corev1.PodRunning, corev1.PodUnknown:
	}
	var unready []string
	for i := range s.InitContainerStatuses {
		if c := &s.InitContainerStatuses[i]; w.containers[c.Name].sidecar && !c.Ready {
			unready = append(unready, c.Name)
		}
	}
	for i := range s.ContainerStatuses {
		if !s.ContainerStatuses[i].Ready {
			unready = append(unready, s.ContainerStatuses[i].Name)
		}
	}
	return condition(kind, len(unready) == 0, "ContainersNotReady",
		fmt.Sprintf("containers with unready status: [%s]", strings.Join(unready, " ")))
}
