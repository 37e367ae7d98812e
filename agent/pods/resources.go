package pods

import (
	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CPU is accounted in periods of 100 ms; the kernel takes no quota below 1 ms.
const (
	quotaPeriod = 100_000 // microseconds
	minQuota    = 1_000   // microseconds
	minShares   = 2
	maxShares   = 262_144
)

// QOSClass is the pod's quality-of-service class by Kubernetes' rules.
func QOSClass(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Spec.Resources != nil && resourcehelper.IsPodLevelResourcesSet(pod) {
		return classOf(pod.Spec.Resources)
	}
	var class corev1.PodQOSClass
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			c := classOf(&list[i].Resources)
			if class == "" {
				class = c
			}
			if c == corev1.PodQOSBurstable || c != class {
				return corev1.PodQOSBurstable
			}
		}
	}
	if class == "" {
		return corev1.PodQOSBestEffort
	}
	return class
}

func classOf(r *corev1.ResourceRequirements) corev1.PodQOSClass {
	some, all := false, true
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		limit, request := r.Limits[name], r.Requests[name]
		if _, ok := r.Requests[name]; !ok {
			request = limit
		}
		some = some || !limit.IsZero() || !request.IsZero()
		all = all && !limit.IsZero() && limit.Cmp(request) == 0
	}
	switch {
	case all:
		return corev1.PodQOSGuaranteed
	case some:
		return corev1.PodQOSBurstable
	}
	return corev1.PodQOSBestEffort
}

func podRequests(pod *corev1.Pod) corev1.ResourceList {
	return resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
}

func podLimits(pod *corev1.Pod) corev1.ResourceList {
	return resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})
}

// allLimited tells whether every container of a pod, or the pod as a whole, has a limit.
func allLimited(pod *corev1.Pod, name corev1.ResourceName) bool {
	if pod.Spec.Resources != nil {
		if _, ok := pod.Spec.Resources.Limits[name]; ok {
			return true
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if limit, ok := list[i].Resources.Limits[name]; !ok || limit.IsZero() {
				return false
			}
		}
	}
	return true
}

// shares turns millicores into the kernel's weight: 1024 a core.
func shares(milli int64) int64 {
	return min(max(milli*1024/1000, minShares), maxShares)
}

// quota turns millicores into microseconds per period; 0 is no quota.
func quota(milli int64) int64 {
	if milli == 0 {
		return 0
	}
	return max(milli*quotaPeriod/1000, minQuota)
}

func sandboxResources(pod *corev1.Pod) *runtimeapi.LinuxContainerResources {
	bounds := podCgroup(pod)
	r := &runtimeapi.LinuxContainerResources{CpuShares: bounds.CPUShares, MemoryLimitInBytes: bounds.Memory}
	if bounds.CPUQuota > 0 {
		r.CpuPeriod, r.CpuQuota = quotaPeriod, bounds.CPUQuota
	}
	return r
}

func containerResources(pod *corev1.Pod, c *corev1.Container, memoryCapacity int64) *runtimeapi.LinuxContainerResources {
	request, ok := c.Resources.Requests[corev1.ResourceCPU]
	if !ok {
		request = c.Resources.Limits[corev1.ResourceCPU]
	}
	r := &runtimeapi.LinuxContainerResources{
		CpuShares:          shares(request.MilliValue()),
		MemoryLimitInBytes: c.Resources.Limits.Memory().Value(),
		OomScoreAdj:        oomScoreAdj(pod, c, memoryCapacity),
	}
	if q := quota(c.Resources.Limits.Cpu().MilliValue()); q > 0 {
		r.CpuPeriod, r.CpuQuota = quotaPeriod, q
	}
	return r
}

// oomScoreAdj says in which order the kernel ends containers when memory runs out: the more a
// container was promised of the node's memory, the later.
func oomScoreAdj(pod *corev1.Pod, c *corev1.Container, memoryCapacity int64) int64 {
	const guaranteed, bestEffort, systemCritical = -997, 1000, 2_000_000_000
	if pod.Spec.Priority != nil && *pod.Spec.Priority >= systemCritical {
		return guaranteed
	}
	switch QOSClass(pod) {
	case corev1.PodQOSGuaranteed:
		return guaranteed
	case corev1.PodQOSBestEffort:
		return bestEffort
	case corev1.PodQOSBurstable:
	}
	if memoryCapacity <= 0 {
		return bestEffort - 1
	}
	adj := 1000 - 1000*c.Resources.Requests.Memory().Value()/memoryCapacity
	return min(max(adj, 1000+guaranteed), bestEffort-1)
}
