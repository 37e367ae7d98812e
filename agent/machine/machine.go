// Package machine reads what the machine under a node is and has.
package machine

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/pleachdev/pleach/agent/cgroups"
)

// Kubernetes' own limits: pods on a node, and the memory that is kept free of pods
// (the kubelet's default hard eviction threshold).
const (
	maxPods        = 110
	reservedMemory = 100 << 20
)

// Machine is what was read at the agent's start.
type Machine struct {
	Capacity    corev1.ResourceList // cpu, memory, ephemeral-storage, pods
	Allocatable corev1.ResourceList // the capacity less what the system keeps
	Info        corev1.NodeSystemInfo
	// Addresses are the host's, the one of the default route first. Loopback and link-local
	// addresses are left out.
	Addresses []netip.Addr
}

// Read looks at the machine, and at the control groups that bound the pods where those are smaller:
// several nodes may share a machine. dir is where pods' files will be, cgroupRoot the group of all pods,
// see package cgroups. What bounds this very process does not count.
func Read(dir, cgroupRoot string) (*Machine, error) {
	memory, err := memoryBytes()
	if err != nil {
		return nil, err
	}
	groups, err := cgroups.New(cgroupRoot)
	if err != nil {
		return nil, err
	}
	cpu := int64(runtime.NumCPU()) * 1000
	bounds := groups.Bounds()
	cpu, memory = smaller(cpu, bounds.MilliCPU), smaller(memory, bounds.Memory)
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return nil, fmt.Errorf("size of the file system at %s: %w", dir, err)
	}
	disk := int64(fs.Blocks) * fs.Bsize
	list := func(milliCPU, memory, disk int64) corev1.ResourceList {
		return corev1.ResourceList{
			corev1.ResourceCPU:              *resource.NewMilliQuantity(milliCPU, resource.DecimalSI),
			corev1.ResourceMemory:           *resource.NewQuantity(memory, resource.BinarySI),
			corev1.ResourceEphemeralStorage: *resource.NewQuantity(disk, resource.BinarySI),
			corev1.ResourcePods:             *resource.NewQuantity(maxPods, resource.DecimalSI),
		}
	}
	m := &Machine{
		Capacity:    list(cpu, memory, disk),
		Allocatable: list(cpu, max(0, memory-reservedMemory), disk/10*9),
		Info:        systemInfo(),
	}
	m.Addresses, err = addresses()
	return m, err
}

// smaller is n within a bound; 0 is no bound.
func smaller(n, bound int64) int64 {
	if bound > 0 {
		return min(n, bound)
	}
	return n
}

func memoryBytes() (int64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("size of the memory: %w", err)
	}
	var total int64
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			total = number(strings.TrimSuffix(strings.TrimSpace(rest), " kB")) << 10
		}
	}
	if total == 0 {
		return 0, fmt.Errorf("size of the memory: /proc/meminfo has no MemTotal")
	}
	return total, nil
}

// number is 0 for what is no number, such as "max".
func number(s string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func systemInfo() corev1.NodeSystemInfo {
	info := corev1.NodeSystemInfo{
		Architecture:    runtime.GOARCH,
		OperatingSystem: runtime.GOOS,
		MachineID:       line("/etc/machine-id"),
		BootID:          line("/proc/sys/kernel/random/boot_id"),
		KernelVersion:   line("/proc/sys/kernel/osrelease"),
	}
	if data, err := os.ReadFile("/etc/os-release"); err == nil {
		for l := range strings.Lines(string(data)) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(l), "PRETTY_NAME="); ok {
				info.OSImage = strings.Trim(v, `"`)
			}
		}
	}
	return info
}

func line(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(data))
}

func addresses() ([]netip.Addr, error) {
	first := -1
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("read the routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() {
			first = r.LinkIndex
			break
		}
	}
	list, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("read the addresses: %w", err)
	}
	var preferred, others []netip.Addr
	for _, a := range list {
		ip, ok := netip.AddrFromSlice(a.IP.To4())
		if !ok || ip.IsLoopback() || ip.IsLinkLocalUnicast() {
			continue
		}
		if a.LinkIndex == first {
			preferred = append(preferred, ip)
		} else {
			others = append(others, ip)
		}
	}
	return append(preferred, others...), nil
}
