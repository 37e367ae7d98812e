package main

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resources "k8s.io/component-helpers/resource"

	"github.com/pleachdev/pleach/agent/api"
)

func (s sheet) node(n *corev1.Node, d api.Description, now time.Time) {
	s.line(0, "Name:\t%s", n.Name)
	s.pairs(0, "Labels", n.Labels)
	s.pairs(0, "Annotations", n.Annotations)
	if d.Source.Path != "" {
		s.line(0, "Git:\t%s, commit %s", place(d.Source.Path, d.Source.Line), short(d.Commit))
	}
	s.line(0, "CreationTimestamp:\t%s", date(n.CreationTimestamp.Time))
	if len(n.Spec.Taints) == 0 {
		s.line(0, "Taints:\t<none>")
	}
	for i, t := range n.Spec.Taints {
		title := ""
		if i == 0 {
			title = "Taints:"
		}
		s.line(0, "%s\t%s", title, t.ToString())
	}
	s.line(0, "Unschedulable:\t%t", n.Spec.Unschedulable)
	if len(n.Status.Conditions) > 0 {
		s.line(0, "Conditions:")
		s.line(1, "Type\tStatus\tLastTransitionTime\tReason\tMessage")
		s.line(1, "----\t------\t------------------\t------\t-------")
		for _, c := range n.Status.Conditions {
			s.line(1, "%s\t%s\t%s\t%s\t%s", c.Type, c.Status, date(c.LastTransitionTime.Time), c.Reason, c.Message)
		}
	}
	s.line(0, "Addresses:")
	for _, a := range n.Status.Addresses {
		s.line(1, "%s:\t%s", a.Type, a.Address)
	}
	s.resources(0, "Capacity", n.Status.Capacity)
	s.resources(0, "Allocatable", n.Status.Allocatable)
	info := n.Status.NodeInfo
	s.line(0, "System Info:")
	for _, row := range [][2]string{
		{"Machine ID", info.MachineID},
		{"Boot ID", info.BootID},
		{"Kernel Version", info.KernelVersion},
		{"OS Image", info.OSImage},
		{"Operating System", info.OperatingSystem},
		{"Architecture", info.Architecture},
		{"Container Runtime Version", info.ContainerRuntimeVersion},
		{"Agent Version", info.KubeletVersion},
	} {
		if row[1] != "" {
			s.line(1, "%s:\t%s", row[0], row[1])
		}
	}
	if len(n.Spec.PodCIDRs) > 0 {
		s.line(0, "PodCIDRs:\t%s", strings.Join(n.Spec.PodCIDRs, ","))
	}
	s.podsOnNode(n, d.Pods, now)
}

// podsOnNode lists the pods with what they ask for, and the sum as a part of what the node has.
func (s sheet) podsOnNode(n *corev1.Node, pods []*corev1.Pod, now time.Time) {
	s.line(0, "Non-terminated Pods:\t(%d in total)", len(pods))
	s.line(1, "Namespace\tName\tCPU Requests\tCPU Limits\tMemory Requests\tMemory Limits\tAge")
	s.line(1, "---------\t----\t------------\t----------\t---------------\t-------------\t---")
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	part := func(list corev1.ResourceList, name corev1.ResourceName) string {
		q, whole := list[name], n.Status.Allocatable[name]
		percent := int64(0)
		if whole.MilliValue() > 0 {
			percent = q.MilliValue() * 100 / whole.MilliValue()
		}
		return fmt.Sprintf("%s (%d%%)", q.String(), percent)
	}
	for _, p := range pods {
		asks := resources.PodRequests(p, resources.PodResourcesOptions{})
		bounds := resources.PodLimits(p, resources.PodResourcesOptions{})
		s.line(1, "%s\t%s\t%s\t%s\t%s\t%s\t%s", p.Namespace, p.Name, part(asks, corev1.ResourceCPU), part(bounds, corev1.ResourceCPU),
			part(asks, corev1.ResourceMemory), part(bounds, corev1.ResourceMemory), since(p.CreationTimestamp.Time, now))
		add(requests, asks)
		add(limits, bounds)
	}
	s.line(0, "Allocated resources:")
	s.line(1, "Resource\tRequests\tLimits")
	s.line(1, "--------\t--------\t------")
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		s.line(1, "%s\t%s\t%s", name, part(requests, name), part(limits, name))
	}
}

func add(sum, list corev1.ResourceList) {
	for name, q := range list {
		total, ok := sum[name]
		if !ok {
			total = resource.Quantity{Format: q.Format}
		}
		total.Add(q)
		sum[name] = total
	}
}
