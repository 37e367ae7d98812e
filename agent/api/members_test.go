package api

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/state"
)

// What a node that is gone said last of itself and of its pods does not hold any more.
func TestNodesThatAreGone(t *testing.T) {
	store := state.New()
	a := accepted()
	a.ClusterCommit = reconcile.Commit{ID: "new"}
	store.SetAccepted(a)
	ready := []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	store.SetDocument(&reconcile.Document{
		Node: "n2", Conditions: ready, Accepted: map[string]reconcile.Commit{gitsync.ClusterUnit: {ID: "old"}, "web": {}},
		Instances: []reconcile.Instance{{Namespace: "default", Name: "b", UID: "u", Node: "n2", Phase: corev1.PodRunning, Ready: true, Kind: "Deployment", Owner: "web"}},
	})
	client := start(t, &Server{Node: "n1", Store: store})
	for _, tt := range []struct {
		member            state.Member
		ready             bool
		says, pod, podMsg string
		condition         corev1.ConditionStatus
	}{
		{state.Member{Node: "n2", Standing: state.Alive}, true, "", "", "", corev1.ConditionTrue},
		{state.Member{Node: "n2", Standing: state.Failed, Since: time.Unix(60, 0), Reason: "lost"}, false, "failed since 1970-01-01T00:01:00Z: lost", "", "", corev1.ConditionUnknown},
		{state.Member{Node: "n2", Standing: state.Gone, Since: time.Unix(60, 0)}, false, "gone since 1970-01-01T00:01:00Z", "NodeLost", "node n2 is gone since 1970-01-01T00:01:00Z", corev1.ConditionUnknown},
	} {
		store.SetMembers([]state.Member{tt.member})
		st, err := client.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if n := st.Nodes[1]; n.Ready != tt.ready || n.Reason != tt.says || !slices.Equal(n.Behind, []string{gitsync.ClusterUnit}) {
			t.Errorf("%s: %+v", tt.member.Standing, n)
		}
		pods, err := client.List(t.Context(), kind(t, "pods"), ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if p := pods[0].(*corev1.Pod).Status; p.Reason != tt.pod || p.Message != tt.podMsg {
			t.Errorf("%s: pod %+v", tt.member.Standing, p)
		}
		nodes, err := client.List(t.Context(), kind(t, "nodes"), ListOptions{Name: "n2"})
		if err != nil {
			t.Fatal(err)
		}
		if c := nodes[0].(*corev1.Node).Status.Conditions; len(c) != 1 || c[0].Status != tt.condition || c[0].Message != tt.says {
			t.Errorf("%s: conditions %+v", tt.member.Standing, c)
		}
		found, err := client.Explain(t.Context(), kind(t, "pods"), "default", "b", "")
		if err != nil || len(found) != 1 || found[0].Standings["n2"] != tt.says {
			t.Errorf("%s: %+v, %v", tt.member.Standing, found, err)
		}
	}
	if ready[0].Status != corev1.ConditionTrue {
		t.Error("the document itself was changed")
	}
}
