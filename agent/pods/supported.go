package pods

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/agent/volumes"
)

// Unsupported names the fields of a pod that this node cannot honour, each with its path; "" when
// there are none. A pod with any does not start: half of what was asked for is not what was asked.
func Unsupported(pod *corev1.Pod) string {
	var fields []string
	add := func(set bool, format string, args ...any) {
		if set {
			fields = append(fields, fmt.Sprintf(format, args...))
		}
	}
	spec := &pod.Spec
	add(len(spec.EphemeralContainers) > 0, "spec.ephemeralContainers")
	add(spec.HostUsers != nil && !*spec.HostUsers, "spec.hostUsers: false")
	add(spec.RuntimeClassName != nil && *spec.RuntimeClassName != "", "spec.runtimeClassName")
	add(len(spec.ReadinessGates) > 0, "spec.readinessGates")
	add(len(spec.ResourceClaims) > 0, "spec.resourceClaims")
	add(spec.OS != nil && spec.OS.Name != corev1.Linux, "spec.os")
	for i := range spec.Volumes {
		if why := volumes.Unsupported(&spec.Volumes[i]); why != "" {
			add(true, "spec.volumes[%d] (%s): %s", i, spec.Volumes[i].Name, why)
		}
	}
	for _, list := range []struct {
		path       string
		containers []corev1.Container
	}{{"spec.initContainers", spec.InitContainers}, {"spec.containers", spec.Containers}} {
		for i := range list.containers {
			c, at := &list.containers[i], fmt.Sprintf("%s[%d]", list.path, i)
			add(len(c.RestartPolicyRules) > 0, "%s.restartPolicyRules", at)
			add(len(c.VolumeDevices) > 0, "%s.volumeDevices", at)
			add(len(c.Resources.Claims) > 0, "%s.resources.claims", at)
			for name := range c.Resources.Limits {
				known := name == corev1.ResourceCPU || name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage
				add(!known, "%s.resources.limits[%s]", at, name)
			}
			for j, e := range c.Env {
				add(e.ValueFrom != nil && e.ValueFrom.FileKeyRef != nil, "%s.env[%d].valueFrom.fileKeyRef", at, j)
			}
			add(c.SecurityContext != nil && c.SecurityContext.WindowsOptions != nil, "%s.securityContext.windowsOptions", at)
		}
	}
	if len(fields) == 0 {
		return ""
	}
	return "not supported on this node: " + strings.Join(fields, ", ")
}

// unenforced names the fields of a pod that are accepted and bound nothing on this node.
func unenforced(pod *corev1.Pod) string {
	var fields []string
	for i := range pod.Spec.Volumes {
		if e := pod.Spec.Volumes[i].EmptyDir; e != nil && e.SizeLimit != nil && e.Medium == corev1.StorageMediumDefault {
			fields = append(fields, fmt.Sprintf("spec.volumes[%d].emptyDir.sizeLimit", i))
		}
	}
	for i := range pod.Spec.Containers {
		if _, ok := pod.Spec.Containers[i].Resources.Limits[corev1.ResourceEphemeralStorage]; ok {
			fields = append(fields, fmt.Sprintf("spec.containers[%d].resources.limits[ephemeral-storage]", i))
		}
	}
	if len(fields) == 0 {
		return ""
	}
	return "not enforced on this node: " + strings.Join(fields, ", ")
}
