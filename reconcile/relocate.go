package reconcile

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/placement"
)

// DrainTaint is the key of the taint, of effect NoExecute, that a commit gives to a node whose pods are to
// move. Other taints of that effect end pods at once, as in Kubernetes.
const DrainTaint = "pleach.dev/drain"

// A pod on a drained node is replaced before it ends: another node claims its slot, and the old pod ends in
// favour of the new. A workload that may not surge stops first. Each move needs the token of the workload's
// registrar, and as long as a workload has pods on drained nodes, the changes of its rollout need it too: so
// the registrar counts them together. A node that is not enrolled any more, and of which a document still
// counts, is drained as well.

// drained reports whether pods are to leave a node, DaemonSets' and those that tolerate it aside.
func (p *pass) drained(node string) bool {
	q := p.index.peers[node]
	if q == nil || q.node == nil {
		return true
	}
	return slices.ContainsFunc(q.node.Node.Spec.Taints, IsDrain)
}

// draining reports whether any node is drained, or not enrolled any more and has pods.
func (x *index) draining() bool {
	for _, q := range x.peers {
		if q.node == nil && len(q.tracked) > 0 {
			return true
		}
	}
	return slices.ContainsFunc(x.nodes, func(n Node) bool { return slices.ContainsFunc(n.Node.Spec.Taints, IsDrain) })
}

// IsDrain reports whether a taint drains a node.
func IsDrain(t corev1.Taint) bool {
	return t.Key == DrainTaint && t.Effect == corev1.TaintEffectNoExecute
}

// leaves reports whether a pod is to move to another node.
func (p *pass) leaves(w *workload, m Instance) bool {
	if w.kind == kindDaemonSet || m.Node == "" || !p.drained(m.Node) {
		return false
	}
	q := p.index.peers[m.Node]
	if q == nil || q.node == nil {
		return true
	}
	t := w.template(m.Revision)
	if t == nil {
		t = &w.templates[0]
	}
	for _, taint := range q.node.Node.Spec.Taints {
		one := placement.Node{Taints: []corev1.Taint{taint}}
		if IsDrain(taint) && !w.size(t).constraints.Keeps(&one) {
			return true
		}
	}
	return false
}

// moving reports whether any pod of the workload is to move.
func (p *pass) moving(w *workload) bool {
	return slices.ContainsFunc(w.slots, func(s *slot) bool {
		return slices.ContainsFunc(s.live(), func(m Instance) bool { return p.leaves(w, m) })
	})
}

// relocate moves the only pod of a slot from a drained node. It reports whether the slot has one.
func (p *pass) relocate(w *workload, s *slot, m Instance) bool {
	if len(s.now)+len(s.old) != 1 || len(s.leaving) > 0 || !p.leaves(w, m) || p.ahead(m) {
		return false
	}
	beside := w.strategy.surge > 0 && !w.strategy.recreate
	t := w.template(m.Revision)
	if t == nil && beside {
		p.explain(w, s, RuleRelocate, fmt.Sprintf("node %s is drained; revision %s is not known any more, so the slot waits for its turn in the rollout", m.Node, m.Revision))
		return true
	}
	if why := p.heardOfDrain(w); why != "" {
		p.explain(w, s, RuleRelocate, why)
		return true
	}
	if beside {
		old := m // as in outdated
		p.wants = append(p.wants, &want{w: w, s: s, template: t, cause: causeOf(p.in.Accepted[clusterUnit]), beside: &old, token: true, moves: true})
		return true
	}
	reason := fmt.Sprintf("node %s is drained, and %s may not have a pod more", m.Node, w.name)
	if m.Node != p.in.Self {
		p.explain(w, s, RuleRelocate, fmt.Sprintf("waits for node %s to stop %s", m.Node, m.Name)).Stops = m.Node
		return true
	}
	if m.available(w, p.in.Now) {
		if why := p.token(w, s, m, false); why != "" {
			p.explain(w, s, RuleRelocate, why)
			return true
		}
	}
	w.roll.places[s.index].ready = false
	p.stop(m, ByDrain, reason)
	p.explain(w, s, RuleStop, reason)
	return true
}

// heardOfDrain says whose promise is missing to ask for the token before it changes a ready pod.
func (p *pass) heardOfDrain(w *workload) string {
	level := p.in.Accepted[clusterUnit].Level
	for _, s := range w.slots {
		for _, list := range [][]Instance{s.now, s.old} {
			for _, m := range list {
				if p.accepted(m.Node, clusterUnit).Level < level {
					return fmt.Sprintf("waits for node %s, which runs %s, to accept the commit that drains", m.Node, w.label(s))
				}
			}
		}
	}
	return ""
}
