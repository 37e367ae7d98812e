package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pleachdev/pleach/reconcile"
)

func (s sheet) pod(p *corev1.Pod, now time.Time) {
	s.line(0, "Name:\t%s", p.Name)
	s.line(0, "Namespace:\t%s", p.Namespace)
	priority := int32(0)
	if p.Spec.Priority != nil {
		priority = *p.Spec.Priority
	}
	s.line(0, "Priority:\t%d", priority)
	if p.Spec.ServiceAccountName != "" {
		s.line(0, "Service Account:\t%s", p.Spec.ServiceAccountName)
	}
	s.line(0, "Node:\t%s", orNone(joinNonEmpty("/", p.Spec.NodeName, p.Status.HostIP)))
	if p.Status.StartTime != nil {
		s.line(0, "Start Time:\t%s", date(p.Status.StartTime.Time))
	}
	s.pairs(0, "Labels", p.Labels)
	annotations := withoutBulk(p.Annotations)
	delete(annotations, reconcile.AnnotationSlot) // its content stands in words further down
	s.pairs(0, "Annotations", annotations)
	if p.DeletionTimestamp != nil {
		s.line(0, "Status:\tTerminating (lasts %s)", since(p.DeletionTimestamp.Time, now))
		if p.DeletionGracePeriodSeconds != nil {
			s.line(0, "Termination Grace Period:\t%ds", *p.DeletionGracePeriodSeconds)
		}
	} else {
		s.line(0, "Status:\t%s", p.Status.Phase)
	}
	if p.Status.Reason != "" {
		s.line(0, "Reason:\t%s", p.Status.Reason)
	}
	if p.Status.Message != "" {
		s.line(0, "Message:\t%s", p.Status.Message)
	}
	s.line(0, "IP:\t%s", p.Status.PodIP)
	if len(p.Status.PodIPs) == 0 {
		s.line(0, "IPs:\t<none>")
	} else {
		s.line(0, "IPs:")
		for _, ip := range p.Status.PodIPs {
			s.line(1, "IP:\t%s", ip.IP)
		}
	}
	if owner := metav1.GetControllerOf(p); owner != nil {
		s.line(0, "Controlled By:\t%s/%s", owner.Kind, owner.Name)
	}
	if len(p.Spec.InitContainers) > 0 {
		s.containers(0, "Init Containers", p.Spec.InitContainers, p.Status.InitContainerStatuses)
	}
	s.containers(0, "Containers", p.Spec.Containers, p.Status.ContainerStatuses)
	if len(p.Status.Conditions) > 0 {
		s.line(0, "Conditions:")
		s.line(1, "Type\tStatus")
		for _, c := range p.Status.Conditions {
			s.line(1, "%s\t%s", c.Type, joinNonEmpty("  ", string(c.Status), c.Message))
		}
	}
	s.volumes(0, p.Spec.Volumes)
	if p.Status.QOSClass != "" {
		s.line(0, "QoS Class:\t%s", p.Status.QOSClass)
	}
	s.placementRules(0, p.Spec)
}

// placementRules writes node selectors and tolerations.
func (s sheet) placementRules(level int, spec corev1.PodSpec) {
	s.pairs(level, "Node-Selectors", spec.NodeSelector)
	if len(spec.Tolerations) == 0 {
		s.line(level, "Tolerations:\t<none>")
		return
	}
	for i, t := range spec.Tolerations {
		text := t.Key
		if t.Value != "" {
			text += "=" + t.Value
		}
		if t.Effect != "" {
			text += ":" + string(t.Effect)
		}
		if t.Operator == corev1.TolerationOpExists {
			text = strings.TrimSpace(text + " op=Exists")
		}
		if t.TolerationSeconds != nil {
			text += fmt.Sprintf(" for %ds", *t.TolerationSeconds)
		}
		title := ""
		if i == 0 {
			title = "Tolerations:"
		}
		s.line(level, "%s\t%s", title, text)
	}
}

// containers writes a list of containers; statuses may be nil, as in a template.
func (s sheet) containers(level int, title string, containers []corev1.Container, statuses []corev1.ContainerStatus) {
	s.line(level, "%s:", title)
	for _, c := range containers {
		s.line(level+1, "%s:", c.Name)
		i := slices.IndexFunc(statuses, func(cs corev1.ContainerStatus) bool { return cs.Name == c.Name })
		var status *corev1.ContainerStatus
		if i >= 0 {
			status = &statuses[i]
			s.line(level+2, "Container ID:\t%s", status.ContainerID)
		}
		s.line(level+2, "Image:\t%s", c.Image)
		if status != nil {
			s.line(level+2, "Image ID:\t%s", status.ImageID)
		}
		s.ports(level+2, c.Ports)
		s.words(level+2, "Command", c.Command)
		s.words(level+2, "Args", c.Args)
		if status != nil {
			s.containerState(level+2, "State", status.State)
			if status.LastTerminationState.Terminated != nil {
				s.containerState(level+2, "Last State", status.LastTerminationState)
			}
			ready := "False"
			if status.Ready {
				ready = "True"
			}
			s.line(level+2, "Ready:\t%s", ready)
			s.line(level+2, "Restart Count:\t%d", status.RestartCount)
		}
		s.resources(level+2, "Limits", c.Resources.Limits)
		s.resources(level+2, "Requests", c.Resources.Requests)
		s.probe(level+2, "Liveness", c.LivenessProbe)
		s.probe(level+2, "Readiness", c.ReadinessProbe)
		s.probe(level+2, "Startup", c.StartupProbe)
		s.environment(level+2, c)
		s.mounts(level+2, c.VolumeMounts)
	}
}

func (s sheet) ports(level int, ports []corev1.ContainerPort) {
	if len(ports) == 0 {
		s.line(level, "Port:\t<none>")
		s.line(level, "Host Port:\t<none>")
		return
	}
	var inside, outside []string
	for _, p := range ports {
		text := fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol)
		if p.Name != "" {
			text += " (" + p.Name + ")"
		}
		inside = append(inside, text)
		outside = append(outside, fmt.Sprintf("%d/%s", p.HostPort, p.Protocol))
	}
	plural := ""
	if len(ports) > 1 {
		plural = "s"
	}
	s.line(level, "Port%s:\t%s", plural, strings.Join(inside, ", "))
	s.line(level, "Host Port%s:\t%s", plural, strings.Join(outside, ", "))
}

func (s sheet) words(level int, title string, words []string) {
	if len(words) == 0 {
		return
	}
	s.line(level, "%s:", title)
	for _, w := range words {
		for line := range strings.SplitSeq(w, "\n") {
			s.line(level+1, "%s", line)
		}
	}
}

func (s sheet) containerState(level int, title string, st corev1.ContainerState) {
	switch {
	case st.Running != nil:
		s.line(level, "%s:\tRunning", title)
		s.line(level+1, "Started:\t%s", date(st.Running.StartedAt.Time))
	case st.Terminated != nil:
		t := st.Terminated
		s.line(level, "%s:\tTerminated", title)
		if t.Reason != "" {
			s.line(level+1, "Reason:\t%s", t.Reason)
		}
		if t.Message != "" {
			s.line(level+1, "Message:\t%s", t.Message)
		}
		s.line(level+1, "Exit Code:\t%d", t.ExitCode)
		if t.Signal != 0 {
			s.line(level+1, "Signal:\t%d", t.Signal)
		}
		s.line(level+1, "Started:\t%s", date(t.StartedAt.Time))
		s.line(level+1, "Finished:\t%s", date(t.FinishedAt.Time))
	case st.Waiting != nil:
		s.line(level, "%s:\tWaiting", title)
		if st.Waiting.Reason != "" {
			s.line(level+1, "Reason:\t%s", st.Waiting.Reason)
		}
		if st.Waiting.Message != "" {
			s.line(level+1, "Message:\t%s", st.Waiting.Message)
		}
	default:
		s.line(level, "%s:\tWaiting", title)
	}
}

func (s sheet) resources(level int, title string, list corev1.ResourceList) {
	if len(list) == 0 {
		return
	}
	s.line(level, "%s:", title)
	var names []string
	for name := range list {
		names = append(names, string(name))
	}
	slices.Sort(names)
	for _, name := range names {
		quantity := list[corev1.ResourceName(name)]
		s.line(level+1, "%s:\t%s", name, quantity.String())
	}
}

func (s sheet) probe(level int, title string, p *corev1.Probe) {
	if p == nil {
		return
	}
	var what string
	switch {
	case p.Exec != nil:
		what = fmt.Sprintf("exec %v", p.Exec.Command)
	case p.HTTPGet != nil:
		what = fmt.Sprintf("http-get %s://%s:%s%s", strings.ToLower(cmp.Or(string(p.HTTPGet.Scheme), "http")),
			p.HTTPGet.Host, p.HTTPGet.Port.String(), p.HTTPGet.Path)
	case p.TCPSocket != nil:
		what = fmt.Sprintf("tcp-socket %s:%s", p.TCPSocket.Host, p.TCPSocket.Port.String())
	case p.GRPC != nil:
		what = "grpc :" + strconv.Itoa(int(p.GRPC.Port))
	default:
		what = "unknown"
	}
	s.line(level, "%s:\t%s delay=%ds timeout=%ds period=%ds #success=%d #failure=%d", title, what,
		p.InitialDelaySeconds, p.TimeoutSeconds, p.PeriodSeconds, p.SuccessThreshold, p.FailureThreshold)
}

func (s sheet) environment(level int, c corev1.Container) {
	if len(c.EnvFrom) > 0 {
		s.line(level, "Environment Variables from:")
		for _, e := range c.EnvFrom {
			switch {
			case e.ConfigMapRef != nil:
				s.line(level+1, "%s\tConfigMap%s", e.ConfigMapRef.Name, optional(e.ConfigMapRef.Optional))
			case e.SecretRef != nil:
				s.line(level+1, "%s\tSecret%s", e.SecretRef.Name, optional(e.SecretRef.Optional))
			}
		}
	}
	if len(c.Env) == 0 {
		s.line(level, "Environment:\t<none>")
		return
	}
	s.line(level, "Environment:")
	for _, e := range c.Env {
		from := e.ValueFrom
		switch {
		case from == nil:
			s.line(level+1, "%s:\t%s", e.Name, strings.ReplaceAll(e.Value, "\n", `\n`))
		case from.FieldRef != nil:
			s.line(level+1, "%s:\t (%s:%s)", e.Name, from.FieldRef.APIVersion, from.FieldRef.FieldPath)
		case from.ResourceFieldRef != nil:
			s.line(level+1, "%s:\t (%s)", e.Name, from.ResourceFieldRef.Resource)
		case from.SecretKeyRef != nil:
			s.line(level+1, "%s:\t<set to the key '%s' in secret '%s'>%s", e.Name, from.SecretKeyRef.Key, from.SecretKeyRef.Name, optional(from.SecretKeyRef.Optional))
		case from.ConfigMapKeyRef != nil:
			s.line(level+1, "%s:\t<set to the key '%s' of config map '%s'>%s", e.Name, from.ConfigMapKeyRef.Key, from.ConfigMapKeyRef.Name, optional(from.ConfigMapKeyRef.Optional))
		}
	}
}

func optional(b *bool) string { return "  Optional: " + strconv.FormatBool(b != nil && *b) }

func (s sheet) mounts(level int, mounts []corev1.VolumeMount) {
	if len(mounts) == 0 {
		s.line(level, "Mounts:\t<none>")
		return
	}
	s.line(level, "Mounts:")
	sorted := slices.SortedFunc(slices.Values(mounts), func(a, b corev1.VolumeMount) int { return cmp.Compare(a.MountPath, b.MountPath) })
	for _, m := range sorted {
		flags := "rw"
		if m.ReadOnly {
			flags = "ro"
		}
		if m.SubPath != "" {
			flags += fmt.Sprintf(",path=%q", m.SubPath)
		}
		s.line(level+1, "%s from %s (%s)", m.MountPath, m.Name, flags)
	}
}

func (s sheet) volumes(level int, volumes []corev1.Volume) {
	if len(volumes) == 0 {
		s.line(level, "Volumes:\t<none>")
		return
	}
	s.line(level, "Volumes:")
	for _, v := range volumes {
		s.line(level+1, "%s:", v.Name)
		in := level + 2
		switch {
		case v.EmptyDir != nil:
			s.line(in, "Type:\tEmptyDir (a temporary directory that shares a pod's lifetime)")
			s.line(in, "Medium:\t%s", v.EmptyDir.Medium)
			limit := "<unset>"
			if v.EmptyDir.SizeLimit != nil {
				limit = v.EmptyDir.SizeLimit.String()
			}
			s.line(in, "SizeLimit:\t%s", limit)
		case v.HostPath != nil:
			s.line(in, "Type:\tHostPath (bare host directory volume)")
			s.line(in, "Path:\t%s", v.HostPath.Path)
			kind := corev1.HostPathUnset
			if v.HostPath.Type != nil {
				kind = *v.HostPath.Type
			}
			s.line(in, "HostPathType:\t%s", kind)
		case v.ConfigMap != nil:
			s.line(in, "Type:\tConfigMap (a volume populated by a ConfigMap)")
			s.line(in, "Name:\t%s", v.ConfigMap.Name)
			s.line(in, "Optional:\t%t", v.ConfigMap.Optional != nil && *v.ConfigMap.Optional)
		case v.Secret != nil:
			s.line(in, "Type:\tSecret (a volume populated by a Secret)")
			s.line(in, "SecretName:\t%s", v.Secret.SecretName)
			s.line(in, "Optional:\t%t", v.Secret.Optional != nil && *v.Secret.Optional)
		case v.DownwardAPI != nil:
			s.line(in, "Type:\tDownwardAPI (a volume populated by information about the pod)")
		case v.Projected != nil:
			s.line(in, "Type:\tProjected (a volume that contains injected data from multiple sources)")
			for _, source := range v.Projected.Sources {
				switch {
				case source.ConfigMap != nil:
					s.line(in, "ConfigMapName:\t%s", source.ConfigMap.Name)
				case source.Secret != nil:
					s.line(in, "SecretName:\t%s", source.Secret.Name)
				case source.DownwardAPI != nil:
					s.line(in, "DownwardAPI:\ttrue")
				}
			}
		default:
			s.line(in, "Type:\t<unknown>")
		}
	}
}
