package main

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pleachdev/pleach/agent/api"
)

func (s sheet) deployment(o *appsv1.Deployment, d api.Description) {
	s.head(o, d)
	s.line(0, "Selector:\t%s", metav1.FormatLabelSelector(o.Spec.Selector))
	desired := int32(1)
	if o.Spec.Replicas != nil {
		desired = *o.Spec.Replicas
	}
	st := o.Status
	s.line(0, "Replicas:\t%d desired | %d updated | %d total | %d available | %d unavailable",
		desired, st.UpdatedReplicas, st.Replicas, st.AvailableReplicas, st.UnavailableReplicas)
	s.line(0, "StrategyType:\t%s", o.Spec.Strategy.Type)
	s.line(0, "MinReadySeconds:\t%d", o.Spec.MinReadySeconds)
	if ru := o.Spec.Strategy.RollingUpdate; ru != nil {
		s.line(0, "RollingUpdateStrategy:\t%s max unavailable, %s max surge", ru.MaxUnavailable.String(), ru.MaxSurge.String())
	}
	if o.Spec.Paused {
		s.line(0, "Paused:\tTrue")
	}
	s.template(o.Spec.Template)
	var rows []condition
	for _, c := range st.Conditions {
		rows = append(rows, condition{string(c.Type), string(c.Status), c.Reason, c.Message})
	}
	s.conditions(rows)
}

func (s sheet) replicaSet(o *appsv1.ReplicaSet, d api.Description) {
	s.head(o, d)
	s.line(0, "Selector:\t%s", metav1.FormatLabelSelector(o.Spec.Selector))
	if owner := metav1.GetControllerOf(o); owner != nil {
		s.line(0, "Controlled By:\t%s/%s", owner.Kind, owner.Name)
	}
	desired := int32(1)
	if o.Spec.Replicas != nil {
		desired = *o.Spec.Replicas
	}
	s.line(0, "Replicas:\t%d current / %d desired, %d ready", o.Status.Replicas, desired, o.Status.ReadyReplicas)
	s.template(o.Spec.Template)
	var rows []condition
	for _, c := range o.Status.Conditions {
		rows = append(rows, condition{string(c.Type), string(c.Status), c.Reason, c.Message})
	}
	s.conditions(rows)
}

func (s sheet) daemonSet(o *appsv1.DaemonSet, d api.Description) {
	s.head(o, d)
	s.line(0, "Selector:\t%s", metav1.FormatLabelSelector(o.Spec.Selector))
	s.line(0, "Node-Selector:\t%s", orNone(metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: o.Spec.Template.Spec.NodeSelector})))
	st := o.Status
	s.line(0, "Desired Number of Nodes Scheduled: %d", st.DesiredNumberScheduled)
	s.line(0, "Current Number of Nodes Scheduled: %d", st.CurrentNumberScheduled)
	s.line(0, "Number of Nodes Scheduled with Up-to-date Pods: %d", st.UpdatedNumberScheduled)
	s.line(0, "Number of Nodes Scheduled with Available Pods: %d", st.NumberAvailable)
	s.template(o.Spec.Template)
	var rows []condition
	for _, c := range st.Conditions {
		rows = append(rows, condition{string(c.Type), string(c.Status), c.Reason, c.Message})
	}
	s.conditions(rows)
}

type condition struct{ kind, status, reason, message string }

func (s sheet) conditions(rows []condition) {
	if len(rows) == 0 {
		return
	}
	s.line(0, "Conditions:")
	s.line(1, "Type\tStatus\tReason\tMessage")
	s.line(1, "----\t------\t------\t-------")
	for _, c := range rows {
		s.line(1, "%s\t%s\t%s\t%s", c.kind, c.status, c.reason, c.message)
	}
}

func (s sheet) template(t corev1.PodTemplateSpec) {
	s.line(0, "Pod Template:")
	s.pairs(1, "Labels", t.Labels)
	if len(t.Annotations) > 0 {
		s.pairs(1, "Annotations", t.Annotations)
	}
	if t.Spec.ServiceAccountName != "" {
		s.line(1, "Service Account:\t%s", t.Spec.ServiceAccountName)
	}
	if len(t.Spec.InitContainers) > 0 {
		s.containers(1, "Init Containers", t.Spec.InitContainers, nil)
	}
	s.containers(1, "Containers", t.Spec.Containers, nil)
	s.volumes(1, t.Spec.Volumes)
	s.placementRules(1, t.Spec)
}

// rollout says how far the workload is, and why something waits.
func (s sheet) rollout(d api.Description) {
	w := d.Workload
	s.line(0, "Rollout:")
	s.line(1, "Revision:\t%s", w.Revision)
	s.line(1, "Commit:\t%s", short(w.Commit))
	s.line(1, "Progress:\t%d of %d updated, %d ready, %d available", w.Updated, w.Desired, w.Ready, w.Available)
	if len(w.Waiting) == 0 {
		s.line(1, "Waiting:\t<none>")
	} else {
		s.line(1, "Waiting:")
		s.line(2, "Slot\tNode\tPod\tReason")
		s.line(2, "----\t----\t---\t------")
		for _, r := range w.Waiting {
			slot := r.Slot.Node
			if slot == "" {
				slot = fmt.Sprint(r.Slot.Ordinal)
			}
			s.line(2, "%s\t%s\t%s\t%s", slot, orNone(r.Node), orNone(r.Pod), r.Reason)
		}
	}
	if len(d.Pods) > 0 {
		s.line(0, "Pods:")
		s.line(1, "Name\tNode\tPhase\tReady\tRestarts")
		s.line(1, "----\t----\t-----\t-----\t--------")
		for _, p := range d.Pods {
			ready, restarts := "False", int32(0)
			for _, c := range p.Status.Conditions {
				if c.Type == corev1.PodReady {
					ready = string(c.Status)
				}
			}
			for _, c := range p.Status.ContainerStatuses {
				restarts += c.RestartCount
			}
			phase := string(p.Status.Phase)
			if p.DeletionTimestamp != nil {
				phase = "Terminating"
			}
			s.line(1, "%s\t%s\t%s\t%s\t%d", p.Name, p.Spec.NodeName, phase, ready, restarts)
		}
	}
}

func orNone(s string) string {
	if s == "" {
		return "<none>"
	}
	return s
}
