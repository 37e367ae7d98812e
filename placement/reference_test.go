package placement

import (
	"fmt"
	"math/rand"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	scheduling "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// cluster is what the reference reads: Kubernetes' own objects. It counts pods again for every question.
type cluster struct {
	nodes      []*corev1.Node
	pods       []*corev1.Pod // spec.nodeName is set; deletionTimestamp where they are terminating
	namespaces map[string]map[string]string
}

func (c *cluster) podsOn(node string) (out []*corev1.Pod) {
	for _, p := range c.pods {
		if p.Spec.NodeName == node {
			out = append(out, p)
		}
	}
	return out
}

// filter says why the scheduler's default filters refuse the node, in their order, written down from
// their documentation as plainly as can be.
func (c *cluster) filter(pod *corev1.Pod, node *corev1.Node) []string {
	if node.Spec.Unschedulable && !scheduling.TolerationsTolerateTaint(klog.Logger{}, pod.Spec.Tolerations, &cordon, true) {
		return []string{"node(s) were unschedulable"}
	}
	if t, bad := untoleratedBy(pod, node); bad {
		return []string{fmt.Sprintf("node(s) had untolerated taint {%s: %s}", t.Key, t.Value)}
	}
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); err != nil || !ok {
		return []string{"node(s) didn't match Pod's node affinity/selector"}
	}
	for _, want := range pod.Spec.Containers[0].Ports {
		for _, other := range c.podsOn(node.Name) {
			for _, has := range other.Spec.Containers[0].Ports {
				if want.HostPort == has.HostPort && want.Protocol == has.Protocol &&
					(want.HostIP == has.HostIP || want.HostIP == "0.0.0.0" || has.HostIP == "0.0.0.0") {
					return []string{reasonPorts}
				}
			}
		}
	}
	if why := c.resources(pod, node); why != nil {
		return why
	}
	for i := range pod.Spec.TopologySpreadConstraints {
		if s := &pod.Spec.TopologySpreadConstraints[i]; s.WhenUnsatisfiable == corev1.DoNotSchedule {
			if why := c.spread(pod, node, s); why != "" {
				return []string{why}
			}
		}
	}
	return c.affinity(pod, node)
}

func untoleratedBy(pod *corev1.Pod, node *corev1.Node) (corev1.Taint, bool) {
	return scheduling.FindMatchingUntoleratedTaint(klog.Logger{}, node.Spec.Taints, pod.Spec.Tolerations, func(t *corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
	}, true)
}

func (c *cluster) resources(pod *corev1.Pod, node *corev1.Node) (why []string) {
	here := c.podsOn(node.Name)
	if int64(len(here))+1 > node.Status.Allocatable.Pods().Value() {
		why = append(why, "Too many pods")
	}
	for _, name := range []corev1.ResourceName{"cpu", "memory", "example.com/gpu"} {
		free := node.Status.Allocatable[name].DeepCopy()
		for _, p := range here {
			free.Sub(p.Spec.Containers[0].Resources.Requests[name])
		}
		if want := pod.Spec.Containers[0].Resources.Requests[name]; !want.IsZero() && want.Cmp(free) > 0 {
			why = append(why, "Insufficient "+string(name))
		}
	}
	return why
}

func (c *cluster) spread(pod *corev1.Pod, node *corev1.Node, s *corev1.TopologySpreadConstraint) string {
	if _, ok := node.Labels[s.TopologyKey]; !ok {
		return reasonSpreadLabel
	}
	selector := merged(pod, s.LabelSelector, s.MatchLabelKeys, nil)
	count := map[string]int32{}
	for _, n := range c.nodes {
		if !c.counts(pod, n, s) {
			continue
		}
		count[n.Labels[s.TopologyKey]] += 0
		for _, p := range c.podsOn(n.Name) {
			if p.Namespace == pod.Namespace && p.DeletionTimestamp == nil && !selector.Empty() && selector.Matches(labels.Set(p.Labels)) {
				count[n.Labels[s.TopologyKey]]++
			}
		}
	}
	lowest := int32(0)
	if len(count) > 0 && (s.MinDomains == nil || len(count) >= int(*s.MinDomains)) {
		lowest = 1 << 30
		for _, v := range count {
			lowest = min(lowest, v)
		}
	}
	self := int32(0)
	if selector.Matches(labels.Set(pod.Labels)) {
		self = 1
	}
	if count[node.Labels[s.TopologyKey]]+self-lowest > s.MaxSkew {
		return reasonSpread
	}
	return ""
}

// counts reports whether a node is a domain's for a hard constraint.
func (c *cluster) counts(pod *corev1.Pod, n *corev1.Node, s *corev1.TopologySpreadConstraint) bool {
	for _, o := range pod.Spec.TopologySpreadConstraints {
		if _, ok := n.Labels[o.TopologyKey]; !ok && o.WhenUnsatisfiable == corev1.DoNotSchedule {
			return false
		}
	}
	if s.NodeAffinityPolicy == nil || *s.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor {
		if ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(n); err != nil || !ok {
			return false
		}
	}
	if s.NodeTaintsPolicy != nil && *s.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor {
		if _, bad := untoleratedBy(pod, n); bad {
			return false
		}
		// A cordoned node has the taint as well, on a cluster with the node lifecycle controller.
		if n.Spec.Unschedulable && !scheduling.TolerationsTolerateTaint(klog.Logger{}, pod.Spec.Tolerations, &cordon, true) {
			return false
		}
	}
	return true
}

// merged is a selector with the owner's own values for some keys, as the API server writes it.
func merged(owner *corev1.Pod, s *metav1.LabelSelector, match, mismatch []string) labels.Selector {
	if s == nil {
		return labels.Nothing()
	}
	s = s.DeepCopy()
	for op, keys := range map[metav1.LabelSelectorOperator][]string{metav1.LabelSelectorOpIn: match, metav1.LabelSelectorOpNotIn: mismatch} {
		for _, k := range keys {
			if v, ok := owner.Labels[k]; ok {
				s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: k, Operator: op, Values: []string{v}})
			}
		}
	}
	out, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		panic(err)
	}
	return out
}

// selects reports whether a term of owner selects a pod.
func (c *cluster) selects(owner *corev1.Pod, t corev1.PodAffinityTerm, pod *corev1.Pod) bool {
	inside := slices.Contains(t.Namespaces, pod.Namespace) || len(t.Namespaces) == 0 && t.NamespaceSelector == nil && owner.Namespace == pod.Namespace
	if t.NamespaceSelector != nil {
		s, err := metav1.LabelSelectorAsSelector(t.NamespaceSelector)
		if err != nil {
			panic(err)
		}
		inside = inside || s.Matches(labels.Set(c.namespaces[pod.Namespace]))
	}
	return inside && merged(owner, t.LabelSelector, t.MatchLabelKeys, t.MismatchLabelKeys).Matches(labels.Set(pod.Labels))
}

func (c *cluster) label(node, key string) (string, bool) {
	for _, n := range c.nodes {
		if n.Name == node {
			v, ok := n.Labels[key]
			return v, ok
		}
	}
	return "", false
}

// together reports whether two nodes are in one domain of a key.
func (c *cluster) together(a, b, key string) bool {
	x, ok1 := c.label(a, key)
	y, ok2 := c.label(b, key)
	return ok1 && ok2 && x == y
}

func (c *cluster) affinity(pod *corev1.Pod, node *corev1.Node) []string {
	near, apart := required(pod)
	all := func(p *corev1.Pod) bool {
		return !slices.ContainsFunc(near, func(t corev1.PodAffinityTerm) bool { return !c.selects(pod, t, p) })
	}
	met, anywhere := true, false
	for _, t := range near {
		if _, ok := node.Labels[t.TopologyKey]; !ok {
			return []string{reasonAffinity}
		}
		here := false
		for _, p := range c.pods {
			if all(p) {
				_, labelled := c.label(p.Spec.NodeName, t.TopologyKey)
				anywhere = anywhere || labelled
				here = here || c.together(p.Spec.NodeName, node.Name, t.TopologyKey)
			}
		}
		met = met && here
	}
	if !met && (anywhere || !all(pod)) {
		return []string{reasonAffinity}
	}
	for _, t := range apart {
		for _, p := range c.pods {
			if c.selects(pod, t, p) && c.together(p.Spec.NodeName, node.Name, t.TopologyKey) {
				return []string{reasonAntiAffinity}
			}
		}
	}
	for _, p := range c.pods {
		_, others := required(p)
		for _, t := range others {
			if c.selects(p, t, pod) && c.together(p.Spec.NodeName, node.Name, t.TopologyKey) {
				return []string{reasonShunned}
			}
		}
	}
	return nil
}

func required(pod *corev1.Pod) (near, apart []corev1.PodAffinityTerm) {
	if a := pod.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			near = a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		}
		if a.PodAntiAffinity != nil {
			apart = a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		}
	}
	return near, apart
}

// podOf writes a slot as the pod that it stands for.
func podOf(s *Slot) *corev1.Pod {
	c := s.Constraints
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: s.Key, Namespace: c.Namespace, Labels: c.Labels}}
	pod.Spec = corev1.PodSpec{
		NodeName: s.Incumbent, NodeSelector: c.NodeSelector, Tolerations: c.Tolerations, TopologySpreadConstraints: c.Spread,
		Affinity: &corev1.Affinity{PodAffinity: c.Affinity, PodAntiAffinity: c.AntiAffinity},
		Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			"cpu": *resource.NewMilliQuantity(s.Requests.MilliCPU, resource.DecimalSI), "memory": *resource.NewQuantity(s.Requests.Memory, resource.BinarySI),
		}}}},
	}
	for name, v := range s.Requests.Extended {
		pod.Spec.Containers[0].Resources.Requests[name] = *resource.NewQuantity(v, resource.DecimalSI)
	}
	for _, h := range c.HostPorts {
		pod.Spec.Containers[0].Ports = append(pod.Spec.Containers[0].Ports, corev1.ContainerPort{HostIP: h.IP, HostPort: h.Port, Protocol: h.Protocol})
	}
	if c.Required != nil {
		pod.Spec.Affinity.NodeAffinity = &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: c.Required}
	}
	return pod
}

func nodeOf(n *Node) *corev1.Node {
	out := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: n.Labels}, Spec: corev1.NodeSpec{Taints: n.Taints, Unschedulable: n.Unschedulable}}
	out.Status.Allocatable = corev1.ResourceList{
		"cpu": *resource.NewMilliQuantity(n.Allocatable.MilliCPU, resource.DecimalSI), "memory": *resource.NewQuantity(n.Allocatable.Memory, resource.BinarySI),
		"pods": *resource.NewQuantity(n.Allocatable.Pods, resource.DecimalSI),
	}
	for name, v := range n.Allocatable.Extended {
		out.Status.Allocatable[name] = *resource.NewQuantity(v, resource.DecimalSI)
	}
	return out
}

// TestFiltersAgreeWithTheReference asks, for generated flocks with pods that run and pods that are
// ending, where each further pod may go and why not.
func TestFiltersAgreeWithTheReference(t *testing.T) {
	pods, seen := 0, map[string]int{}
	for seed := int64(0); pods < 6000; seed++ {
		r := rand.New(rand.NewSource(seed))
		in := crowd(r, 3+r.Intn(8), 12)
		for i := range in.Nodes {
			in.Nodes[i].Allocatable.MilliCPU *= 2
		}
		ref := cluster{namespaces: in.Namespaces}
		for i := range in.Nodes {
			if n := &in.Nodes[i]; !n.Gone {
				ref.nodes = append(ref.nodes, nodeOf(n))
			}
		}
		var open []Slot
		running := in.Slots[:0:0]
		for _, s := range in.Slots {
			n := in.Nodes[r.Intn(len(in.Nodes))]
			s.Incumbent = n.Name
			switch r.Intn(4) {
			case 0:
				s.Incumbent = ""
				open = append(open, s)
				continue
			case 1:
				h := Held{Node: n.Name, Requests: s.Requests, Constraints: s.Constraints, Leaving: r.Intn(2) == 0}
				in.Held = append(in.Held, h)
				if !n.Gone {
					pod := podOf(&s)
					if h.Leaving {
						pod.DeletionTimestamp = &metav1.Time{}
					}
					ref.pods = append(ref.pods, pod)
				}
			default:
				s.Wave, s.Claimed = 0, true
				if s.Constraints.Keeps(&n) {
					ref.pods = append(ref.pods, podOf(&s))
					running = append(running, s)
				}
			}
		}
		in.Slots = running
		for _, s := range open {
			pods++
			one := in
			one.Slots = append(slices.Clip(running), s)
			p := NewPlanner(one)
			x := &p.slots[p.byKey[s.Key]]
			pod := podOf(&s)
			for _, n := range ref.nodes {
				want := ref.filter(pod, n)
				got := p.reasonsOn(x, p.byName[n.Name])
				// Of two constraints on a node without the label of one, the other may come first.
				if len(got) == 1 && got[0] == reasonSpreadLabel && slices.Equal(want, []string{reasonSpread}) {
					got = want
				}
				if !slices.Equal(sorted(got), sorted(want)) {
					t.Fatalf("seed %d: %s on %s: got %q, want %q\n%s", seed, s.Key, n.Name, got, want, text(s.Constraints))
				}
				if p.admits(x, p.byName[n.Name]) != (want == nil) {
					t.Fatalf("seed %d: %s on %s: admitted %v, want %q", seed, s.Key, n.Name, want != nil, want)
				}
				if want == nil {
					seen["feasible"]++
				}
				for _, why := range want {
					seen[why]++
				}
			}
		}
	}
	for _, why := range []string{"feasible", reasonPorts, reasonSpread, reasonSpreadLabel, reasonAffinity, reasonAntiAffinity, reasonShunned, "Insufficient cpu", "Insufficient example.com/gpu"} {
		if seen[why] < 50 {
			t.Errorf("%q came up %d times: the generator tests little", why, seen[why])
		}
	}
	t.Logf("%d pods: %v", pods, seen)
}

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }
