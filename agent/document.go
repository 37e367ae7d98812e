package agent

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pleachdev/pleach/reconcile"
)

// specVersions are the values of the cluster's spec.version that this agent can do.
var specVersions = []int32{1}

// author writes this node's document: it numbers a version only when it says something new.
type author struct {
	document reconcile.Document
	content  []byte // of document, without its number
}

// write returns the document for what is known now.
func (a *author) write(next reconcile.Document) (reconcile.Document, error) {
	next.Seq = 0
	content, err := json.Marshal(next)
	if err != nil {
		return a.document, fmt.Errorf("write the node document: %w", err)
	}
	if !bytes.Equal(content, a.content) {
		next.Seq = a.document.Seq + 1
		a.document, a.content = next, content
	}
	return a.document, nil
}

// instances says what each pod of this node is doing, sorted by namespace and name.
func instances(pods []*corev1.Pod) ([]reconcile.Instance, error) {
	out := make([]reconcile.Instance, 0, len(pods))
	for _, pod := range pods {
		i, err := reconcile.ObservedInstance(pod)
		if err != nil {
			return nil, err
		}
		out = append(out, i)
	}
	slices.SortFunc(out, func(x, y reconcile.Instance) int {
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name), cmp.Compare(x.UID, y.UID))
	})
	return out, nil
}

// nodeReady is the node's Ready condition. Heartbeats are left out: a document that changes each
// second would be a commit each second.
func nodeReady(reason, message string, since time.Time) corev1.NodeCondition {
	status := corev1.ConditionTrue
	if reason != "" {
		status = corev1.ConditionFalse
	}
	return corev1.NodeCondition{
		Type: corev1.NodeReady, Status: status, LastTransitionTime: metav1.NewTime(since.UTC().Truncate(time.Second)),
		Reason: cmp.Or(reason, "AgentReady"), Message: cmp.Or(message, "the runtime and the pod network are ready"),
	}
}
