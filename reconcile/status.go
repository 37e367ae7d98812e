package reconcile

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Condition types and reasons are Kubernetes' own, so that tools that read Deployments read these.
const (
	conditionAvailable   = "Available"
	conditionProgressing = "Progressing"
)

// report makes the status of one workload from the documents and the pods that this step starts.
func (p *pass) report(w *workload) {
	st := WorkloadStatus{
		Source: w.object.Source, Kind: w.kind, Namespace: w.namespace, Name: w.name, UID: w.uid,
		Generation: w.object.Object.GetGeneration(), Commit: w.object.Commit, Revision: w.revision, Desired: w.desired,
	}
	count := func(m *Instance) {
		if w.strategy.once && m.ended() && !m.Terminating {
			st.Current++
			if m.Revision == w.revision {
				st.Updated++
			}
		}
		if !m.live() {
			return
		}
		st.Current++
		if m.Revision == w.revision {
			st.Updated++
		}
		if m.Ready {
			st.Ready++
		}
		if m.available(w, p.in.Now) {
			st.Available++
		}
	}
	current := int32(0) // available at the wanted revision
	for _, s := range w.slots {
		for _, list := range [][]Instance{s.now, s.old, s.leaving, s.ended} {
			for i := range list {
				count(&list[i])
			}
		}
		if len(s.now) > 0 && s.now[0].available(w, p.in.Now) {
			current++
		}
		if r, ok := p.waiting(w, s); ok {
			st.Waiting = append(st.Waiting, r)
		}
	}
	for i := range w.surplus {
		count(&w.surplus[i])
	}
	st.Conditions = p.conditions(w, st, current)
	p.statuses = append(p.statuses, st)
}

// waiting says why a slot is not at its revision and ready.
func (p *pass) waiting(w *workload, s *slot) (SlotReason, bool) {
	e := s.said
	if e == nil || e.Rule == RuleFinished || len(s.now) > 0 && s.now[0].available(w, p.in.Now) {
		return SlotReason{}, false
	}
	r := SlotReason{Slot: s.id, Node: e.Node, Pod: e.Pod, Reason: e.Reason}
	if e.Rule == RuleStart {
		r.Reason = "starts"
	}
	return r, true
}

// conditions keeps the time of a condition whose status did not change, as Kubernetes does.
func (p *pass) conditions(w *workload, st WorkloadStatus, current int32) []metav1.Condition {
	memory := p.progress(w, st, current)
	var next []metav1.Condition
	add := func(kind string, status metav1.ConditionStatus, reason, message string) {
		c := metav1.Condition{
			Type: kind, Status: status, Reason: reason, Message: message,
			ObservedGeneration: st.Generation, LastTransitionTime: metav1.NewTime(p.in.Now.UTC().Truncate(time.Second)),
		}
		for _, old := range memory.Conditions {
			if old.Type == kind && old.Status == status {
				c.LastTransitionTime = old.LastTransitionTime
			}
		}
		next = append(next, c)
	}
	switch w.kind {
	case kindDeployment:
		if st.Available >= w.desired-int32(w.strategy.unavailable) {
			add(conditionAvailable, metav1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability.")
		} else {
			add(conditionAvailable, metav1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
		}
		name := w.name + "-" + w.revision
		overdue := w.strategy.deadline > 0 && !memory.Complete && !p.in.Now.Before(memory.Since.Add(w.strategy.deadline))
		switch {
		case w.strategy.paused:
			add(conditionProgressing, metav1.ConditionUnknown, "DeploymentPaused", "Deployment is paused")
		case memory.Complete:
			add(conditionProgressing, metav1.ConditionTrue, "NewReplicaSetAvailable", fmt.Sprintf("Revision %q has successfully progressed.", name))
		case overdue:
			add(conditionProgressing, metav1.ConditionFalse, "ProgressDeadlineExceeded", fmt.Sprintf("Revision %q has timed out progressing.", name))
		default:
			add(conditionProgressing, metav1.ConditionTrue, "ReplicaSetUpdated", fmt.Sprintf("Revision %q is progressing.", name))
			if w.strategy.deadline > 0 {
				p.wakeAt(memory.Since.Add(w.strategy.deadline))
			}
		}
	case kindPod:
		status, reason := metav1.ConditionFalse, "ContainersNotReady"
		if st.Ready > 0 {
			status, reason = metav1.ConditionTrue, ""
		}
		if f := w.slots[0].memory.Finished; f != "" {
			reason = "PodCompleted"
			if f == corev1.PodFailed {
				reason = "PodFailed"
			}
		}
		add("Ready", status, reason, "")
	}
	memory.Conditions = next
	w.at.rollout = &memory
	return next
}

// progress remembers when the rollout last moved: a pod more of the wanted revision, one more
// available, or one less of the others.
func (p *pass) progress(w *workload, st WorkloadStatus, current int32) RolloutState {
	old := st.Current - st.Updated
	var m RolloutState
	seen := w.at.rollout != nil
	if seen {
		m = *w.at.rollout
	}
	moved := !seen || m.Revision != w.revision || st.Updated > m.Updated || current > m.Available || old < m.Old
	if moved || m.Paused != w.strategy.paused {
		m.Since = p.in.Now.UTC() // time stands still while it is paused
	}
	m.Paused = w.strategy.paused
	// A rollout that was complete stays so while pods come and go, until the next.
	m.Complete = seen && m.Complete && m.Revision == w.revision && old == 0 ||
		current == w.desired && st.Updated == w.desired && old == 0
	m.App, m.Revision, m.Updated, m.Available, m.Old = w.object.Source.App, w.revision, st.Updated, current, old
	return m
}
