package reconcile

import "k8s.io/apimachinery/pkg/types"

// PodID returns the name and the uid of the pod of m. They follow from the rest of its identity:
// Kind, Owner, Slot, Revision, Epoch, Node and Boot. Documents leave out what follows, so that the
// rule can only change together with their format.
func (m Instance) PodID() (name string, uid types.UID) {
	c := claim{slot: m.Slot, epoch: m.Epoch, node: m.Node, boot: m.Boot}
	return c.podName(m.Kind, m.Owner, m.Revision), c.uid()
}
