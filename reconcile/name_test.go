package reconcile

import "testing"

// TestPodID pins the rule: documents on the wire leave out what follows from it.
func TestPodID(t *testing.T) {
	m := Instance{
		Slot: Slot{Workload: "6ba7b810-9dad-11d1-80b4-00c04fd430c8", Ordinal: 3}, Kind: "Deployment", Owner: "web",
		Revision: "7f9c2ba4e8", Epoch: 2, Node: "n1", Boot: 7,
	}
	name, uid := m.PodID()
	if name != "web-7f9c2ba4e8-fk2mz" || uid != "800ed40c-d73a-59e0-8dc4-419ba031244b" {
		t.Errorf("got %s %s", name, uid)
	}
}
