package gossip

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/pleachdev/pleach/reconcile"
)

// Document decodes s. Documents are held sealed and decoded for each pass: in this form those of a
// large flock would be eight times as large.
func (s Sealed) Document() (reconcile.Document, error) {
	if s.data == nil {
		return reconcile.Document{}, errors.New("no document")
	}
	r := reader{node: s.Node, boot: int64(s.Version.Number.Boot)}
	if err := decoding.Unmarshal(s.payload, &r.payload); err != nil {
		return reconcile.Document{}, fmt.Errorf("document of node %s: %w", s.Node, err)
	}
	d := reconcile.Document{Node: s.Node, Boot: r.boot, Seq: int64(s.Version.Number.Seq)}
	r.read(&d)
	if r.err != nil {
		return reconcile.Document{}, fmt.Errorf("document of node %s: %w", s.Node, r.err)
	}
	return d, nil
}

// reader resolves the tables of a payload. The first error stays, and what is read after it does not
// count.
type reader struct {
	payload
	node string
	boot int64
	err  error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

func (r *reader) read(d *reconcile.Document) {
	d.Versions, d.BackBy = r.Versions, timeOf(r.BackBy)
	d.Capacity, d.Allocatable = r.resources(r.Capacity), r.resources(r.Allocatable)
	r.machine(d)
	d.Head = r.commit(r.Head)
	if len(r.Apps) != len(r.Accepted) {
		r.fail("accepted: %d apps and %d commits", len(r.Apps), len(r.Accepted))
		return
	}
	d.Accepted = make(map[string]reconcile.Commit, len(r.Apps))
	for i, app := range r.Apps {
		d.Accepted[r.text(app)] = r.commit(r.Accepted[i])
	}
	d.Instances = r.instances()
	for _, x := range r.Releases {
		d.Releases = append(d.Releases, reconcile.Release{
			Slot: r.slot(x.UID, x.Ordinal), Revision: x.Revision, Epoch: x.Epoch, By: r.text(x.By), At: timeOf(x.At),
		})
	}
	for _, x := range r.Declines {
		d.Declines = append(d.Declines, reconcile.Decline{
			Slot: r.slot(x.UID, x.Ordinal), Revision: x.Revision, Reason: r.text(x.Reason), At: timeOf(x.At),
		})
	}
}

func (r *reader) machine(d *reconcile.Document) {
	for _, a := range r.Addresses {
		d.Addresses = append(d.Addresses, corev1.NodeAddress{Type: corev1.NodeAddressType(a.Type), Address: a.Address})
	}
	for _, c := range r.Conditions {
		d.Conditions = append(d.Conditions, corev1.NodeCondition{
			Type: corev1.NodeConditionType(c.Type), Status: corev1.ConditionStatus(c.Status),
			LastHeartbeatTime: metaTime(c.Heartbeat), LastTransitionTime: metaTime(c.Transition), Reason: c.Reason, Message: c.Message,
		})
	}
	i := r.NodeInfo
	d.NodeInfo = corev1.NodeSystemInfo{
		MachineID: i.MachineID, SystemUUID: i.SystemUUID, BootID: i.BootID, KernelVersion: i.KernelVersion, OSImage: i.OSImage,
		ContainerRuntimeVersion: i.ContainerRuntime, KubeletVersion: i.Kubelet, KubeProxyVersion: i.KubeProxy, //nolint:staticcheck // what the type has is carried, deprecated or not
		OperatingSystem: i.OperatingSystem, Architecture: i.Architecture, RunningInUserNamespace: i.UserNamespace,
	}
	if i.Swap != nil {
		d.NodeInfo.Swap = &corev1.NodeSwapStatus{Capacity: i.Swap}
	}
}

func (r *reader) instances() []reconcile.Instance {
	c, n := &r.Instances, len(r.Instances.States)
	for _, column := range []int{
		len(c.Workloads), len(c.Ordinals), len(c.Revisions), len(c.Epochs), len(c.Boots), len(c.Claimed), len(c.Causes),
		len(c.Commits), len(c.Since), len(c.IPs), len(c.Restarts), len(c.Reasons), len(c.Messages), len(c.Names), len(c.UIDs),
	} {
		if column != 0 && column != n {
			r.fail("instances: a column of %d beside one of %d", column, n)
			return nil
		}
	}
	loads := r.workloads()
	out := make([]reconcile.Instance, n)
	for i := range out {
		at, state := int(element(c.Workloads, i)), c.States[i]
		if at >= len(loads) {
			r.fail("instance %d: workload %d of %d", i, at, len(loads))
			return nil
		}
		m := &out[i]
		*m = loads[at]
		m.Slot.Ordinal = element(c.Ordinals, i)
		if state&bitOwn != 0 {
			m.Slot.Node, m.Slot.Ordinal = r.node, 0
		}
		m.Revision, m.Epoch = element(c.Revisions, i), element(c.Epochs, i)
		m.Node, m.Boot = r.node, r.boot-element(c.Boots, i)
		m.Claimed = timeOf(element(c.Claimed, i))
		m.Commit = r.commit(element(c.Commits, i))
		if m.Cause = r.text(element(c.Causes, i)); m.Cause == "" {
			m.Cause = m.Commit.ID
		}
		m.Name, m.UID = m.PodID()
		if name := r.text(element(c.Names, i)); name != "" {
			uid := element(c.UIDs, i)
			if len(uid) != 16 {
				r.fail("instance %s/%s: a uid of %d bytes", m.Namespace, name, len(uid))
				return nil
			}
			m.Name, m.UID = name, formatUID(uid)
		}
		m.Ready, m.Terminating = state&bitReady != 0, state&bitTerminating != 0
		if state&bitSince != 0 {
			m.ReadySince = timeOf(element(c.Claimed, i) + element(c.Since, i))
		}
		m.Phase = corev1.PodUnknown
		if p := int(state >> phaseShift); p < len(phases) {
			m.Phase = phases[p]
		}
		if raw := element(c.IPs, i); len(raw) > 0 {
			ip, ok := netip.AddrFromSlice(raw)
			if !ok {
				r.fail("instance %s/%s: an address of %d bytes", m.Namespace, m.Name, len(raw))
				return nil
			}
			m.PodIP = ip.String()
		}
		m.Restarts, m.Reason, m.Message = element(c.Restarts, i), r.text(element(c.Reasons, i)), r.text(element(c.Messages, i))
	}
	return out
}

// workloads returns instances of which only what the workload tells is filled in.
func (r *reader) workloads() []reconcile.Instance {
	c, n := &r.Workloads, len(r.Workloads.UIDs)/16
	if len(c.UIDs)%16 != 0 || len(c.Kinds) != n || len(c.Namespaces) != n || len(c.Names) != n || len(c.Apps) != n {
		r.fail("workloads: columns of different lengths")
		return nil
	}
	out := make([]reconcile.Instance, n)
	for i := range out {
		out[i] = reconcile.Instance{
			Slot: reconcile.Slot{Workload: formatUID(c.UIDs[16*i : 16*i+16])},
			Kind: r.text(c.Kinds[i]), Namespace: r.text(c.Namespaces[i]), Owner: r.text(c.Names[i]), App: r.text(c.Apps[i]),
		}
	}
	return out
}

func (r *reader) slot(uid []byte, ordinal int32) reconcile.Slot {
	if len(uid) != 16 {
		r.fail("a slot's uid of %d bytes", len(uid))
		return reconcile.Slot{}
	}
	s := reconcile.Slot{Workload: formatUID(uid), Ordinal: ordinal}
	if ordinal < 0 {
		s.Node, s.Ordinal = r.node, 0
	}
	return s
}

func (r *reader) text(i uint32) string {
	switch {
	case i == 0:
		return ""
	case int64(i) > int64(len(r.Texts)):
		r.fail("text %d of %d", i, len(r.Texts))
		return ""
	}
	return r.Texts[i-1]
}

func (r *reader) commit(i uint32) reconcile.Commit {
	switch {
	case i == 0:
		return reconcile.Commit{}
	case int64(i) > int64(len(r.Commits)):
		r.fail("commit %d of %d", i, len(r.Commits))
		return reconcile.Commit{}
	}
	c := r.Commits[i-1]
	return reconcile.Commit{ID: hex.EncodeToString(c.ID), Level: c.Level, Time: timeOf(c.Time)}
}

func (r *reader) resources(list map[string]string) corev1.ResourceList {
	if len(list) == 0 {
		return nil
	}
	out := make(corev1.ResourceList, len(list))
	for name, text := range list {
		q, err := resource.ParseQuantity(text)
		if err != nil {
			r.fail("resource %s: %w", name, err)
		}
		out[corev1.ResourceName(name)] = q
	}
	return out
}

// element returns what a column says of instance i; a column that was left out says nothing.
func element[T any](column []T, i int) T {
	if len(column) == 0 {
		var zero T
		return zero
	}
	return column[i]
}
