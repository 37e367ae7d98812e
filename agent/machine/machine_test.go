package machine

import "testing"

func TestReadSeesAMachine(t *testing.T) {
	m, err := Read(t.TempDir(), "/pleach")
	if err != nil {
		t.Fatal(err)
	}
	if m.Capacity.Cpu().MilliValue() <= 0 || m.Capacity.Memory().Value() <= 0 || m.Capacity.Pods().Value() != maxPods {
		t.Errorf("capacity is %v", m.Capacity)
	}
	if m.Allocatable.Memory().Cmp(*m.Capacity.Memory()) >= 0 {
		t.Errorf("allocatable memory %s leaves the system nothing of %s", m.Allocatable.Memory(), m.Capacity.Memory())
	}
	for _, a := range m.Addresses {
		if a.IsLoopback() {
			t.Errorf("loopback address %s among %v", a, m.Addresses)
		}
	}
	if m.Info.KernelVersion == "" || m.Info.Architecture == "" {
		t.Errorf("system info is %+v", m.Info)
	}
}
