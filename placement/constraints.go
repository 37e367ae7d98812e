package placement

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// Constraints are the rules of a pod about nodes and about other pods, resources aside.
type Constraints struct {
	NodeSelector map[string]string
	Required     *corev1.NodeSelector
	Preferred    []corev1.PreferredSchedulingTerm
	Tolerations  []corev1.Toleration

	// Namespace and Labels are the pod's own: what the rules of other pods select it by.
	Namespace    string
	Labels       map[string]string
	Affinity     *corev1.PodAffinity
	AntiAffinity *corev1.PodAntiAffinity
	Spread       []corev1.TopologySpreadConstraint
	HostPorts    []HostPort
	// NeverPreempts is preemptionPolicy Never.
	NeverPreempts bool
}

// HostPort is a port of the node that a pod opens.
type HostPort struct {
	IP       string // "0.0.0.0" is every address
	Protocol corev1.Protocol
	Port     int32
}

// ConstraintsOf returns the constraints of a pod; they share memory with meta and spec. Of meta,
// namespace and labels are read, the latter as the running pod has them.
func ConstraintsOf(meta *metav1.ObjectMeta, spec *corev1.PodSpec) *Constraints {
	c := &Constraints{
		NodeSelector: spec.NodeSelector, Tolerations: spec.Tolerations, Namespace: meta.Namespace, Labels: meta.Labels,
		Spread: spec.TopologySpreadConstraints, HostPorts: hostPorts(spec),
		NeverPreempts: spec.PreemptionPolicy != nil && *spec.PreemptionPolicy == corev1.PreemptNever,
	}
	if a := spec.Affinity; a != nil {
		c.Affinity, c.AntiAffinity = a.PodAffinity, a.PodAntiAffinity
		if a.NodeAffinity != nil {
			c.Required = a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
			c.Preferred = a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution
		}
	}
	return c
}

// hostPorts lists the host ports of the containers that run as long as the pod does. On the host's
// network every port is one.
func hostPorts(spec *corev1.PodSpec) []HostPort {
	var out []HostPort
	add := func(c *corev1.Container) {
		for _, p := range c.Ports {
			h := HostPort{cmp.Or(p.HostIP, "0.0.0.0"), cmp.Or(p.Protocol, corev1.ProtocolTCP), p.HostPort}
			if spec.HostNetwork {
				h.Port = cmp.Or(h.Port, p.ContainerPort)
			}
			if h.Port > 0 {
				out = append(out, h)
			}
		}
	}
	for i := range spec.InitContainers {
		if r := spec.InitContainers[i].RestartPolicy; r != nil && *r == corev1.ContainerRestartPolicyAlways {
			add(&spec.InitContainers[i])
		}
	}
	for i := range spec.Containers {
		add(&spec.Containers[i])
	}
	return out
}

// conflicts reports whether two pods cannot open both ports on one node.
func (h HostPort) conflicts(o HostPort) bool {
	return h.Port == o.Port && h.Protocol == o.Protocol && (h.IP == o.IP || h.IP == "0.0.0.0" || o.IP == "0.0.0.0")
}

// Admits says why a new pod may not start on the node, in the scheduler's words; "" when it may.
// Resources are not looked at.
func (c *Constraints) Admits(n *Node) string {
	return newMatcher(c).admits(n, affinityNode(n))
}

// Keeps reports whether a pod that runs on the node may go on: taints with NoExecute alone count.
func (c *Constraints) Keeps(n *Node) bool {
	if n.Gone {
		return false
	}
	_, evicted := c.untolerated(n.Taints, corev1.TaintEffectNoExecute)
	return !evicted
}

// nodeRules is the text of the rules about nodes alone, equal for rules that are written alike.
func (c *Constraints) nodeRules() string {
	return text(c.NodeSelector, c.Required, c.Preferred, c.Tolerations)
}

// text is equal for parts that are written alike.
func text(parts ...any) string {
	b, err := json.Marshal(parts)
	if err != nil {
		panic(err) // strings, numbers and structs of them always encode
	}
	return string(b)
}

// untolerated returns the first taint of one of the effects that c does not tolerate.
func (c *Constraints) untolerated(taints []corev1.Taint, effects ...corev1.TaintEffect) (corev1.Taint, bool) {
	for _, t := range taints {
		for _, e := range effects {
			if t.Effect == e && !c.tolerates(t) {
				return t, true
			}
		}
	}
	return corev1.Taint{}, false
}

func (c *Constraints) tolerates(taint corev1.Taint) bool {
	for _, t := range c.Tolerations {
		if tolerates(t, taint) {
			return true
		}
	}
	return false
}

// tolerates is core/v1's ToleratesTaint, which wants a logger. Lt and Gt compare the taint's value
// with the toleration's.
func tolerates(t corev1.Toleration, taint corev1.Taint) bool {
	if t.Effect != "" && t.Effect != taint.Effect || t.Key != "" && t.Key != taint.Key {
		return false
	}
	switch t.Operator {
	case "", corev1.TolerationOpEqual:
		return t.Value == taint.Value
	case corev1.TolerationOpExists:
		return true
	case corev1.TolerationOpLt, corev1.TolerationOpGt:
		want, err1 := strconv.ParseInt(t.Value, 10, 64)
		have, err2 := strconv.ParseInt(taint.Value, 10, 64)
		if err1 != nil || err2 != nil {
			return false
		}
		if t.Operator == corev1.TolerationOpLt {
			return have < want
		}
		return have > want
	default:
		return false
	}
}

// cordon is the taint that Kubernetes gives to nodes with spec.unschedulable.
var cordon = corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}

// matcher is constraints with their selectors parsed.
type matcher struct {
	c         *Constraints
	required  nodeaffinity.RequiredNodeAffinity
	preferred *nodeaffinity.PreferredSchedulingTerms
}

func newMatcher(c *Constraints) matcher {
	m := matcher{c: c}
	var affinity *corev1.Affinity
	if c.Required != nil {
		affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: c.Required}}
	}
	m.required = nodeaffinity.NewRequiredNodeAffinity(c.NodeSelector, affinity)
	if len(c.Preferred) > 0 {
		// A term that does not parse was refused by validation; here it prefers nothing.
		m.preferred, _ = nodeaffinity.NewPreferredSchedulingTerms(c.Preferred)
	}
	return m
}

// admits checks in the order of the default scheduler's filters, so that the first reason is the
// one that it would give.
func (m matcher) admits(n *Node, affinity *corev1.Node) string {
	if n.Gone {
		return taintReason(corev1.Taint{Key: corev1.TaintNodeUnreachable})
	}
	if n.Unschedulable && !m.c.tolerates(cordon) {
		return "node(s) were unschedulable"
	}
	if t, ok := m.c.untolerated(n.Taints, corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute); ok {
		return taintReason(t)
	}
	if ok, err := m.required.Match(affinity); err != nil || !ok {
		return "node(s) didn't match Pod's node affinity/selector"
	}
	return ""
}

// scores returns the preference for the node and its number of PreferNoSchedule taints that are
// not tolerated.
func (m matcher) scores(n *Node, affinity *corev1.Node) (preferred, avoided int64) {
	if m.preferred != nil {
		preferred = m.preferred.Score(affinity)
	}
	for _, t := range n.Taints {
		if t.Effect == corev1.TaintEffectPreferNoSchedule && !m.c.tolerates(t) {
			avoided++
		}
	}
	return preferred, avoided
}

func taintReason(t corev1.Taint) string {
	return fmt.Sprintf("node(s) had untolerated taint {%s: %s}", t.Key, t.Value)
}

// affinityNode is the part of a node that node affinity reads.
func affinityNode(n *Node) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: n.Labels}}
}
