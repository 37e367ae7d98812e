package pods

import (
	corev1 "k8s.io/api/core/v1"
)

// weighClasses gives the classes their part of the CPU, as the kubelet does: Burstable what its pods
// ask for together, BestEffort what is left. When all is busy, each pod then gets what it asked for,
// whatever class it is in. It writes what has changed since the last call, which weights holds.
func (m *Manager) weighClasses(weights map[corev1.PodQOSClass]int64) {
	if m.CgroupRoot == "" {
		return
	}
	var milli int64
	for _, w := range m.all() {
		pod := w.snapshot.Load()
		if QOSClass(pod) == corev1.PodQOSBurstable && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			requests := podRequests(pod)
			milli += requests.Cpu().MilliValue()
		}
	}
	for class, want := range map[corev1.PodQOSClass]int64{
		corev1.PodQOSBurstable: shares(milli), corev1.PodQOSBestEffort: minShares,
	} {
		if weights[class] == want {
			continue
		}
		if err := m.groups.Weigh(class, want); err != nil {
			m.Log.Warn("set the weight of a class of pods", "class", class, "err", err)
			continue
		}
		weights[class] = want
	}
}
