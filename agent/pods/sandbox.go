package pods

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pleachdev/pleach/agent/cgroups"
)

// makeSandbox replaces a sandbox that has ended, or makes the first.
func (w *worker) makeSandbox(ctx context.Context, now time.Time, due func(time.Time)) {
	if w.busy(taskSandbox) {
		return
	}
	if now.Before(w.sandbox.retry.at) {
		due(w.sandbox.retry.at)
		return
	}
	var attempt uint32
	old := slices.Clone(w.obs.old)
	if w.obs.sandbox != nil {
		attempt = w.obs.sandbox.GetMetadata().GetAttempt() + 1
		old = append(old, w.obs.sandbox.GetId())
		w.event(corev1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
	if why := unenforced(w.pod()); why != "" && attempt == 0 && w.sandbox.err == "" {
		w.event(corev1.EventTypeWarning, "NotEnforced", why)
	}
	// Restart counts and last states must outlive the containers that go with the old sandbox.
	w.publish(now)
	w.spawn(ctx, taskSandbox, func(taskCtx context.Context) func() {
		err := w.runSandbox(taskCtx, attempt, old)
		return func() {
			w.dirty.Store(true)
			switch {
			case err == nil:
				w.sandbox = step{done: true}
			case taskCtx.Err() != nil && w.stopIntent() != nil:
			default:
				w.sandbox.retry.failed(time.Now())
				w.sandbox.reason, w.sandbox.err = "FailedCreatePodSandBox", err.Error()
				w.event(corev1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: "+err.Error())
			}
		}
	})
}

func (w *worker) runSandbox(ctx context.Context, attempt uint32, old []string) error {
	for _, id := range old {
		if err := w.m.Runtime.StopPodSandbox(ctx, id); err != nil {
			return fmt.Errorf("stop sandbox %s: %w", id, err)
		}
	}
	config, err := w.sandboxConfig(attempt)
	if err != nil {
		return err
	}
	if w.m.groups != nil {
		if err := w.m.groups.Ensure(config.Linux.CgroupParent, podCgroup(w.pod())); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(config.LogDirectory, 0o755); err != nil {
		return err
	}
	if _, err := w.m.Runtime.RunPodSandbox(ctx, config, ""); err != nil {
		return err
	}
	for _, id := range old {
		if err := w.m.Runtime.RemovePodSandbox(ctx, id); err != nil {
			return fmt.Errorf("remove sandbox %s: %w", id, err)
		}
	}
	return nil
}

// sandboxConfig is the sandbox of the pod. Containers are created with the same.
func (w *worker) sandboxConfig(attempt uint32) (*runtimeapi.PodSandboxConfig, error) {
	pod := w.pod()
	dns, err := w.dns()
	if err != nil {
		return nil, err
	}
	config := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{
			Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: attempt,
		},
		LogDirectory: w.m.LogDirOf(pod),
		DnsConfig:    dns,
		Labels:       w.labels(),
		Annotations:  pod.Annotations,
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			SecurityContext: sandboxSecurity(pod),
			Sysctls:         sysctls(pod),
			Resources:       sandboxResources(pod),
			Overhead:        &runtimeapi.LinuxContainerResources{},
		},
	}
	if w.m.groups != nil {
		config.Linux.CgroupParent = w.m.groups.Path(pod.UID, QOSClass(pod))
	}
	if !pod.Spec.HostNetwork { // with the host's network a pod has the host's name, which nobody may set
		config.Hostname = w.hostname()
	}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, p := range c.Ports {
			if p.HostPort == 0 && !pod.Spec.HostNetwork {
				continue
			}
			config.PortMappings = append(config.PortMappings, &runtimeapi.PortMapping{
				Protocol: protocol(p.Protocol), ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP,
			})
		}
	}
	return config, nil
}

// labels are those of the pod with the ones that let a restarted agent find it again.
func (w *worker) labels() map[string]string {
	pod := w.pod()
	labels := map[string]string{}
	maps.Copy(labels, pod.Labels)
	labels[LabelPodName], labels[LabelNamespace], labels[LabelUID] = pod.Name, pod.Namespace, string(pod.UID)
	labels[LabelNode] = w.m.NodeName
	return labels
}

func protocol(p corev1.Protocol) runtimeapi.Protocol {
	switch p {
	case corev1.ProtocolUDP:
		return runtimeapi.Protocol_UDP
	case corev1.ProtocolSCTP:
		return runtimeapi.Protocol_SCTP
	case corev1.ProtocolTCP:
	}
	return runtimeapi.Protocol_TCP
}

// hostname is the pod's name inside of it; Linux allows 64 bytes, Kubernetes gives 63.
func (w *worker) hostname() string {
	pod := w.pod()
	if pod.Spec.HostnameOverride != nil {
		return *pod.Spec.HostnameOverride
	}
	name := pod.Name
	if pod.Spec.Hostname != "" {
		name = pod.Spec.Hostname
	}
	if len(name) > 63 {
		name = strings.TrimRight(name[:63], "-.")
	}
	if fqdn := w.fqdn(name); fqdn != "" && pod.Spec.SetHostnameAsFQDN != nil && *pod.Spec.SetHostnameAsFQDN {
		return fqdn
	}
	return name
}

func (w *worker) fqdn(name string) string {
	if w.pod().Spec.Subdomain == "" {
		return ""
	}
	return strings.Join([]string{name, w.pod().Spec.Subdomain, w.pod().Namespace, "svc", w.m.ClusterDomain}, ".")
}

// dns is what the pod's /etc/resolv.conf says.
func (w *worker) dns() (*runtimeapi.DNSConfig, error) {
	spec := &w.pod().Spec
	dns := &runtimeapi.DNSConfig{}
	host, err := os.ReadFile(w.m.ResolvConf)
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("read the node's resolver configuration: %w", err)
	}
	policy := spec.DNSPolicy
	clusterFirst := policy == corev1.DNSClusterFirstWithHostNet || (policy == corev1.DNSClusterFirst || policy == "") && !spec.HostNetwork
	switch {
	case policy == corev1.DNSNone:
	case clusterFirst && len(w.m.ClusterDNS) > 0:
		parseResolvConf(host, dns)
		dns.Servers = nil
		for _, ip := range w.m.ClusterDNS {
			dns.Servers = append(dns.Servers, ip.String())
		}
		dns.Searches = append([]string{
			w.pod().Namespace + ".svc." + w.m.ClusterDomain, "svc." + w.m.ClusterDomain, w.m.ClusterDomain,
		}, dns.Searches...)
		dns.Options = append(dns.Options, "ndots:5")
	default:
		parseResolvConf(host, dns)
	}
	if own := spec.DNSConfig; own != nil {
		dns.Servers = unique(append(dns.Servers, own.Nameservers...))
		dns.Searches = unique(append(dns.Searches, own.Searches...))
		for _, o := range own.Options {
			text := o.Name
			if o.Value != nil {
				text += ":" + *o.Value
			}
			dns.Options = slices.DeleteFunc(dns.Options, func(have string) bool {
				name, _, _ := strings.Cut(have, ":")
				return name == o.Name
			})
			dns.Options = append(dns.Options, text)
		}
	}
	return dns, nil
}

func unique(list []string) []string {
	seen := map[string]bool{}
	return slices.DeleteFunc(list, func(s string) bool {
		again := seen[s]
		seen[s] = true
		return again
	})
}

func parseResolvConf(text []byte, into *runtimeapi.DNSConfig) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if _, err := netip.ParseAddr(fields[1]); err == nil {
				into.Servers = append(into.Servers, fields[1])
			}
		case "search": // the last one counts
			into.Searches = nil
			for _, domain := range fields[1:] {
				if domain != "." {
					into.Searches = append(into.Searches, strings.TrimSuffix(domain, "."))
				}
			}
		case "options":
			into.Options = append(into.Options, fields[1:]...)
		}
	}
}

// hostsFile writes the pod's /etc/hosts and returns its path. It is made once per address, because
// containers mount this very file.
func (w *worker) hostsFile(ips []string) (string, error) {
	pod := w.pod()
	var text bytes.Buffer
	if pod.Spec.HostNetwork {
		host, err := os.ReadFile("/etc/hosts")
		if err != nil && !os.IsNotExist(err) {
			return "", err
		}
		text.WriteString("# /etc/hosts of the node, as it was when the pod started.\n")
		text.Write(host)
	} else {
		text.WriteString("# Written by pleach for this pod.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		name := w.hostname()
		for _, ip := range ips {
			if fqdn := w.fqdn(name); fqdn != "" && fqdn != name {
				fmt.Fprintf(&text, "%s\t%s\t%s\n", ip, fqdn, name)
			} else {
				fmt.Fprintf(&text, "%s\t%s\n", ip, name)
			}
		}
	}
	for i, alias := range pod.Spec.HostAliases {
		if i == 0 {
			text.WriteString("\n# spec.hostAliases\n")
		}
		fmt.Fprintf(&text, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, "\t"))
	}
	path := filepath.Join(w.dir, "etc-hosts")
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, text.Bytes()) {
		return path, nil
	}
	// In place: a rename would leave running containers with the old file.
	if err := os.WriteFile(path, text.Bytes(), 0o644); err != nil {
		return "", err
	}
	return path, os.Chmod(path, 0o644)
}

func podCgroup(pod *corev1.Pod) cgroups.Limits {
	requests, limits := podRequests(pod), podLimits(pod)
	bounds := cgroups.Limits{CPUShares: shares(requests.Cpu().MilliValue())}
	// Only a pod whose every container is bounded is bounded as a whole.
	if allLimited(pod, corev1.ResourceCPU) {
		bounds.CPUQuota = quota(limits.Cpu().MilliValue())
	}
	if allLimited(pod, corev1.ResourceMemory) {
		bounds.Memory = limits.Memory().Value()
	}
	return bounds
}
