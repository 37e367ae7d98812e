package pods

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// fields answers the downward API for one pod.
type fields struct {
	pod       *corev1.Pod
	container string // whose resources are meant where a selector names none
	nodeName  string
	hostIPs   []string
	podIPs    []string
	capacity  corev1.ResourceList
}

func (w *worker) fields(container string) fields {
	f := fields{pod: w.pod(), container: container, nodeName: w.m.NodeName, podIPs: w.podIPs(), capacity: w.m.Capacity}
	for _, ip := range w.m.NodeIPs {
		f.hostIPs = append(f.hostIPs, ip.String())
	}
	if node := w.m.Lookup.Node(); node != nil && len(node.Status.Allocatable) > 0 {
		f.capacity = node.Status.Allocatable
	}
	return f
}

// Field implements volumes.Fields.
func (f fields) Field(path string) (string, error) {
	if name, key, ok := strings.Cut(strings.TrimSuffix(path, "']"), "['"); ok && strings.HasSuffix(path, "']") {
		switch name {
		case "metadata.labels":
			return f.pod.Labels[key], nil
		case "metadata.annotations":
			return f.pod.Annotations[key], nil
		}
	}
	switch path {
	case "metadata.name":
		return f.pod.Name, nil
	case "metadata.namespace":
		return f.pod.Namespace, nil
	case "metadata.uid":
		return string(f.pod.UID), nil
	case "metadata.labels":
		return lines(f.pod.Labels), nil
	case "metadata.annotations":
		return lines(f.pod.Annotations), nil
	case "spec.nodeName":
		return f.nodeName, nil
	case "spec.serviceAccountName":
		return f.pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return firstOf(f.hostIPs), nil
	case "status.hostIPs":
		return strings.Join(f.hostIPs, ","), nil
	case "status.podIP":
		return firstOf(f.podIPs), nil
	case "status.podIPs":
		return strings.Join(f.podIPs, ","), nil
	}
	return "", fmt.Errorf("fieldPath %q is not one that pods can refer to", path)
}

func firstOf(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// lines writes a map as the downward API does: key="value", sorted.
func lines(m map[string]string) string {
	var b strings.Builder
	for i, k := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s=%s", k, strconv.Quote(m[k]))
	}
	return b.String()
}

// Resource implements volumes.Fields. A limit that is not set is what the node has.
func (f fields) Resource(selector *corev1.ResourceFieldSelector) (string, error) {
	name := cmp.Or(selector.ContainerName, f.container)
	var c *corev1.Container
	for _, list := range [][]corev1.Container{f.pod.Spec.InitContainers, f.pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				c = &list[i]
			}
		}
	}
	if c == nil {
		return "", fmt.Errorf("resourceFieldRef: the pod has no container %q", name)
	}
	kind, which, _ := strings.Cut(selector.Resource, ".")
	resourceName := corev1.ResourceName(which)
	var q resource.Quantity
	switch kind {
	case "limits":
		q = c.Resources.Limits[resourceName]
		if q.IsZero() {
			q = f.capacity[resourceName]
		}
	case "requests":
		q = c.Resources.Requests[resourceName]
	default:
		return "", fmt.Errorf("resourceFieldRef: resource %q: want limits.<name> or requests.<name>", selector.Resource)
	}
	divisor := selector.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if resourceName == corev1.ResourceCPU {
		return strconv.FormatInt(ceil(q.MilliValue(), divisor.MilliValue()), 10), nil
	}
	return strconv.FormatInt(ceil(q.Value(), divisor.Value()), 10), nil
}

func ceil(a, b int64) int64 {
	if b <= 0 {
		b = 1
	}
	return (a + b - 1) / b
}
