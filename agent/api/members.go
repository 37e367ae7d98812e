package api

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pleachdev/pleach/state"
)

// What is shown of nodes that do not answer: how this node holds them counts more than what they last
// said of themselves.

// hold adds what membership knows: it counts more than what the node last said of itself.
func (s *NodeSummary) hold(m *state.Member) {
	if m == nil {
		return
	}
	s.Standing, s.Since, s.Heard = m.Standing, m.Since, m.Heard
	if m.Standing != state.Alive {
		s.Ready, s.Reason = false, standing(m)
	}
}

// standing says how a node that is not alive is held: "gone since 2026-05-01T12:00:00Z: its slots …".
func standing(m *state.Member) string {
	text := strings.ToLower(string(m.Standing))
	if !m.Since.IsZero() {
		text += " since " + m.Since.UTC().Format(time.RFC3339)
	}
	if m.Reason != "" {
		text += ": " + m.Reason
	}
	return text
}

// unknown returns conditions with Ready as Kubernetes has it of a node that does not answer. The list that
// is given belongs to a document.
func unknown(conditions []corev1.NodeCondition, m *state.Member) []corev1.NodeCondition {
	out := slices.DeleteFunc(slices.Clone(conditions), func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady })
	return append(out, corev1.NodeCondition{
		Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Reason: "NodeStatusUnknown",
		Message: standing(m), LastTransitionTime: metav1.NewTime(m.Since),
	})
}

// lose marks a pod of a node that is gone: what its document said of it holds no more.
func lose(p *corev1.Pod, m *state.Member) {
	p.Status.Reason, p.Status.Message = "NodeLost", "node "+m.Node+" is "+standing(m)
	for i := range p.Status.Conditions {
		p.Status.Conditions[i].Status = corev1.ConditionUnknown
	}
	for i := range p.Status.ContainerStatuses {
		p.Status.ContainerStatuses[i].Ready = false
	}
}
