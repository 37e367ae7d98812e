package placement

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
)

// Resources is an amount of what a node can give.
type Resources struct {
	MilliCPU         int64
	Memory           int64 // bytes
	EphemeralStorage int64 // bytes
	Pods             int64
	// Extended holds hugepages and extended resources in their own units; nil when none.
	Extended map[corev1.ResourceName]int64
}

// RequestsOf returns what a pod asks for by Kubernetes' rules: the larger of its containers' sum
// and of each init container's need, sidecars and overhead included. Pods is 1.
func RequestsOf(spec *corev1.PodSpec) Resources {
	r := ResourcesOf(resource.PodRequests(&corev1.Pod{Spec: *spec}, resource.PodResourcesOptions{}))
	r.Pods = 1
	return r
}

// ResourcesOf converts a list, such as a node's allocatable. Fractions of a millicore, byte or unit
// are rounded up.
func ResourcesOf(list corev1.ResourceList) Resources {
	var r Resources
	for name, q := range list {
		switch name {
		case corev1.ResourceCPU:
			r.MilliCPU = q.MilliValue()
		case corev1.ResourceMemory:
			r.Memory = q.Value()
		case corev1.ResourceEphemeralStorage:
			r.EphemeralStorage = q.Value()
		case corev1.ResourcePods:
			r.Pods = q.Value()
		default:
			if r.Extended == nil {
				r.Extended = map[corev1.ResourceName]int64{}
			}
			r.Extended[name] = q.Value()
		}
	}
	return r
}

// Fits reports whether a request goes into free, and if not, the scheduler's reasons.
func (r Resources) Fits(free Resources) (reasons []string) {
	if r.Pods > free.Pods {
		reasons = append(reasons, "Too many pods")
	}
	if r.MilliCPU > 0 && r.MilliCPU > free.MilliCPU {
		reasons = append(reasons, "Insufficient cpu")
	}
	if r.Memory > 0 && r.Memory > free.Memory {
		reasons = append(reasons, "Insufficient memory")
	}
	if r.EphemeralStorage > 0 && r.EphemeralStorage > free.EphemeralStorage {
		reasons = append(reasons, "Insufficient ephemeral-storage")
	}
	for _, name := range slices.Sorted(maps.Keys(r.Extended)) {
		if v := r.Extended[name]; v > 0 && v > free.Extended[name] {
			reasons = append(reasons, "Insufficient "+string(name))
		}
	}
	return reasons
}

// Sub returns r less o. Neither is changed.
func (r Resources) Sub(o Resources) Resources { return r.plus(o, -1) }

// Add returns r and o together. Neither is changed.
func (r Resources) Add(o Resources) Resources { return r.plus(o, 1) }

func (r Resources) plus(o Resources, sign int64) Resources {
	r.MilliCPU += sign * o.MilliCPU
	r.Memory += sign * o.Memory
	r.EphemeralStorage += sign * o.EphemeralStorage
	r.Pods += sign * o.Pods
	if len(o.Extended) > 0 {
		r.Extended = maps.Clone(r.Extended)
		if r.Extended == nil {
			r.Extended = map[corev1.ResourceName]int64{}
		}
		for name, v := range o.Extended {
			r.Extended[name] += sign * v
		}
	}
	return r
}

// Equal reports whether r and o are the same amounts.
func (r Resources) Equal(o Resources) bool {
	return r.MilliCPU == o.MilliCPU && r.Memory == o.Memory && r.EphemeralStorage == o.EphemeralStorage && r.Pods == o.Pods &&
		maps.Equal(r.Extended, o.Extended)
}
