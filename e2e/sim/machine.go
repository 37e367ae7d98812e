package sim

import (
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/reconcile"
)

// Machine is what the simulated repository says of one node.
type Machine struct {
	Node     int
	Cordoned bool
	Drained  bool // which cordons as well
	Tainted  bool // NoExecute, which nothing tolerates
}

// String is the node in a story.
func (m Machine) String() string {
	var is []string
	for _, x := range []struct {
		name string
		on   bool
	}{{"cordoned", m.Cordoned}, {"drained", m.Drained}, {"tainted", m.Tainted}} {
		if x.on {
			is = append(is, x.name)
		}
	}
	if is == nil {
		is = []string{"in service"}
	}
	return NodeName(m.Node) + " " + strings.Join(is, " and ")
}

// badTaint is a taint that nothing tolerates.
var badTaint = corev1.Taint{Key: "example.com/broken", Effect: corev1.TaintEffectNoExecute}

// object is the node as committed, made from what it always is.
func (m Machine) object(of *corev1.Node) *corev1.Node {
	n := of.DeepCopy()
	n.Spec.Unschedulable = m.Cordoned || m.Drained
	if m.Drained {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: reconcile.DrainTaint, Effect: corev1.TaintEffectNoExecute})
	}
	if m.Tainted {
		n.Spec.Taints = append(n.Spec.Taints, badTaint)
	}
	return n
}

// service draws a change of a node, so that at least one is always in service.
func (a *author) service() []Change {
	i := a.r.IntN(len(a.machines))
	m := &a.machines[i]
	out := 0
	for _, o := range a.machines {
		if o != (Machine{Node: o.Node}) {
			out++
		}
	}
	switch {
	case *m != Machine{Node: i}:
		*m = Machine{Node: i}
	case out+1+min(1, len(a.machines)/4) >= len(a.machines): // one may be lost for good
		return a.next()
	case a.r.IntN(4) == 0:
		m.Cordoned = true
	case a.r.IntN(4) == 0:
		m.Tainted = true
	default:
		m.Drained = true
	}
	return []Change{{Machine: *m, OfNode: true}}
}

// outOfService lists the nodes that a commit cordons, drains and taints.
func (v *Revision) outOfService() (cordoned, drained, tainted []string) {
	for _, n := range v.Machines {
		if n.Spec.Unschedulable {
			cordoned = append(cordoned, n.Name)
		}
		for _, t := range n.Spec.Taints {
			switch {
			case t.Effect != corev1.TaintEffectNoExecute:
			case t.Key == reconcile.DrainTaint:
				drained = append(drained, n.Name)
			default:
				tainted = append(tainted, n.Name)
			}
		}
	}
	return cordoned, drained, tainted
}
