package placement

import (
	"fmt"
	"math/rand"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	scheduling "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// TestConstraintsAgreeWithKubernetes compares Admits with the scheduler's own helpers over generated
// pods and nodes.
func TestConstraintsAgreeWithKubernetes(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	pick := func(from ...string) string { return from[r.Intn(len(from))] }
	effects := []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute, corev1.TaintEffectPreferNoSchedule}
	admitted, pods := 0, 20000
	if testing.Short() {
		pods = 5000
	}
	for range pods {
		n := Node{Name: pick("n1", "n2"), Labels: map[string]string{}}
		for range r.Intn(3) {
			n.Labels[pick("disk", "zone", "gen")] = pick("ssd", "hdd", "1", "5", "10")
		}
		for range r.Intn(3) {
			n.Taints = append(n.Taints, corev1.Taint{Key: pick("a", "b"), Value: pick("", "x", "3", "7"), Effect: effects[r.Intn(3)]})
		}
		pod := &corev1.Pod{}
		if r.Intn(3) == 0 {
			pod.Spec.NodeSelector = map[string]string{pick("disk", "zone"): pick("ssd", "hdd")}
		}
		if r.Intn(2) == 0 {
			sel := &corev1.NodeSelector{}
			for range r.Intn(3) {
				var term corev1.NodeSelectorTerm
				for range r.Intn(3) {
					op := []corev1.NodeSelectorOperator{corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn, corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist, corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt}[r.Intn(6)]
					req := corev1.NodeSelectorRequirement{Key: pick("disk", "zone", "gen"), Operator: op}
					switch op {
					case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
						req.Values = []string{pick("ssd", "hdd"), pick("1", "5")}
					case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
						req.Values = []string{pick("3", "7")}
					}
					term.MatchExpressions = append(term.MatchExpressions, req)
				}
				if r.Intn(3) == 0 {
					term.MatchFields = []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{pick("n1", "n2")}}}
				}
				sel.NodeSelectorTerms = append(sel.NodeSelectorTerms, term)
			}
			pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: sel}}
		}
		for range r.Intn(3) {
			tol := corev1.Toleration{
				Key: pick("", "a", "b"), Value: pick("", "x", "5"), Effect: append(effects, "")[r.Intn(4)],
				Operator: []corev1.TolerationOperator{"", corev1.TolerationOpEqual, corev1.TolerationOpExists, corev1.TolerationOpGt, corev1.TolerationOpLt}[r.Intn(5)],
			}
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, tol)
		}

		kn := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: n.Labels}, Spec: corev1.NodeSpec{Taints: n.Taints}}
		want := ""
		taint, untolerated := scheduling.FindMatchingUntoleratedTaint(klog.Logger{}, n.Taints, pod.Spec.Tolerations, func(t *corev1.Taint) bool {
			return t.Effect != corev1.TaintEffectPreferNoSchedule
		}, true)
		match, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(kn)
		switch {
		case untolerated:
			want = fmt.Sprintf("node(s) had untolerated taint {%s: %s}", taint.Key, taint.Value)
		case err != nil || !match:
			want = "node(s) didn't match Pod's node affinity/selector"
		default:
			admitted++
		}
		if got := ConstraintsOf(&pod.ObjectMeta, &pod.Spec).Admits(&n); got != want {
			t.Fatalf("node %+v, pod %+v: got %q, want %q", n, pod.Spec, got, want)
		}
	}
	if admitted < pods/20 || admitted > pods-pods/20 {
		t.Errorf("%d of %d were admitted: the generator tests little", admitted, pods)
	}
}
