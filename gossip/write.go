package gossip

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/reconcile"
)

// MaxMessage bounds the message of an instance, bytes. What is longer is cut: the whole is in the
// pod's status on its node.
const MaxMessage = 256

// phases are the values of an instance's phase by their number on the wire. One that is not known
// here, of a later agent, reads as Unknown.
var phases = []corev1.PodPhase{"", corev1.PodPending, corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed, corev1.PodUnknown}

// writer fills the tables of a payload.
type writer struct {
	payload
	doc       *reconcile.Document
	texts     map[string]uint32
	commits   map[reconcile.Commit]uint32
	workloads map[workload]uint32
}

type workload struct {
	uid                        types.UID
	kind, namespace, name, app string
}

func write(d *reconcile.Document) (*payload, error) {
	w := writer{doc: d, texts: map[string]uint32{}, commits: map[reconcile.Commit]uint32{}, workloads: map[workload]uint32{}}
	w.Versions, w.BackBy = d.Versions, micros(d.BackBy)
	w.Capacity, w.Allocatable = quantities(d.Capacity), quantities(d.Allocatable)
	w.machine()
	var err error
	for _, app := range slices.Sorted(maps.Keys(d.Accepted)) {
		c, err := w.commit(d.Accepted[app])
		if err != nil {
			return nil, fmt.Errorf("accepted of %s: %w", app, err)
		}
		w.Apps, w.Accepted = append(w.Apps, w.text(app)), append(w.Accepted, c)
	}
	if w.Head, err = w.commit(d.Head); err != nil {
		return nil, fmt.Errorf("head: %w", err)
	}
	for i := range d.Instances {
		if err := w.instance(&d.Instances[i]); err != nil {
			return nil, fmt.Errorf("instance %s/%s: %w", d.Instances[i].Namespace, d.Instances[i].Name, err)
		}
	}
	w.Instances.dropEmpty()
	for _, r := range d.Releases {
		uid, ordinal, err := w.slot(r.Slot)
		if err != nil {
			return nil, fmt.Errorf("release: %w", err)
		}
		w.Releases = append(w.Releases, release{uid, ordinal, r.Revision, r.Epoch, w.text(r.By), micros(r.At)})
	}
	for _, c := range d.Declines {
		uid, ordinal, err := w.slot(c.Slot)
		if err != nil {
			return nil, fmt.Errorf("decline: %w", err)
		}
		w.Declines = append(w.Declines, decline{uid, ordinal, c.Revision, w.text(c.Reason), micros(c.At)})
	}
	return &w.payload, nil
}

// machine writes what the node says of its machine.
func (w *writer) machine() {
	for _, a := range w.doc.Addresses {
		w.Addresses = append(w.Addresses, address{string(a.Type), a.Address})
	}
	for _, c := range w.doc.Conditions {
		w.Conditions = append(w.Conditions, condition{
			string(c.Type), string(c.Status), micros(c.LastHeartbeatTime.Time), micros(c.LastTransitionTime.Time), c.Reason, c.Message,
		})
	}
	i := w.doc.NodeInfo
	w.NodeInfo = nodeInfo{
		MachineID: i.MachineID, SystemUUID: i.SystemUUID, BootID: i.BootID, KernelVersion: i.KernelVersion, OSImage: i.OSImage,
		ContainerRuntime: i.ContainerRuntimeVersion, Kubelet: i.KubeletVersion,
		KubeProxy:       i.KubeProxyVersion, //nolint:staticcheck // deprecated there, and carried as it is
		OperatingSystem: i.OperatingSystem, Architecture: i.Architecture, UserNamespace: i.RunningInUserNamespace,
	}
	if i.Swap != nil {
		w.NodeInfo.Swap = i.Swap.Capacity
	}
}

func (w *writer) instance(m *reconcile.Instance) error {
	if m.Node != w.doc.Node {
		return fmt.Errorf("is of node %q, and a document speaks of its own alone", m.Node)
	}
	load, err := w.workload(m)
	if err != nil {
		return err
	}
	_, ordinal, err := w.slot(m.Slot)
	if err != nil {
		return err
	}
	made, err := w.commit(m.Commit)
	if err != nil {
		return err
	}
	ip, err := rawIP(m.PodIP)
	if err != nil {
		return err
	}
	state := max(slices.Index(phases, m.Phase), 0) << phaseShift
	set := func(on bool, bit int) {
		if on {
			state |= bit
		}
	}
	var since int64
	if !m.ReadySince.IsZero() {
		since = micros(m.ReadySince) - micros(m.Claimed)
	}
	set(m.Ready, bitReady)
	set(!m.ReadySince.IsZero(), bitSince)
	set(m.Terminating, bitTerminating)
	set(m.Slot.Node != "", bitOwn)
	var name uint32
	var own []byte
	if follows, id := m.PodID(); m.Name != follows || m.UID != id {
		if name = w.text(m.Name); name == 0 {
			return errors.New("has no name")
		}
		if own, err = rawUID(m.UID); err != nil {
			return err
		}
	}
	var cause uint32
	if m.Cause != m.Commit.ID {
		cause = w.text(m.Cause)
	}
	c := &w.Instances
	c.Workloads = append(c.Workloads, load)
	c.Ordinals = append(c.Ordinals, max(ordinal, 0))
	c.Revisions = append(c.Revisions, m.Revision)
	c.Epochs = append(c.Epochs, m.Epoch)
	c.Boots = append(c.Boots, w.doc.Boot-m.Boot)
	c.Claimed = append(c.Claimed, micros(m.Claimed))
	c.Causes = append(c.Causes, cause)
	c.Commits = append(c.Commits, made)
	c.States = append(c.States, byte(state))
	c.Since = append(c.Since, since)
	c.IPs = append(c.IPs, ip)
	c.Restarts = append(c.Restarts, m.Restarts)
	c.Reasons = append(c.Reasons, w.text(m.Reason))
	c.Messages = append(c.Messages, w.text(cut(m.Message, MaxMessage)))
	c.Names, c.UIDs = append(c.Names, name), append(c.UIDs, own)
	return nil
}

func (w *writer) workload(m *reconcile.Instance) (uint32, error) {
	key := workload{m.Slot.Workload, m.Kind, m.Namespace, m.Owner, m.App}
	i, ok := w.workloads[key]
	if ok {
		return i, nil
	}
	uid, err := rawUID(key.uid)
	if err != nil {
		return 0, err
	}
	i = uint32(len(w.workloads))
	w.workloads[key] = i
	c := &w.Workloads
	c.UIDs = append(c.UIDs, uid...)
	c.Kinds = append(c.Kinds, w.text(key.kind))
	c.Namespaces = append(c.Namespaces, w.text(key.namespace))
	c.Names = append(c.Names, w.text(key.name))
	c.Apps = append(c.Apps, w.text(key.app))
	return i, nil
}

// slot returns a slot's workload, and its ordinal or -1 for the node's own.
func (w *writer) slot(s reconcile.Slot) (uid []byte, ordinal int32, err error) {
	if uid, err = rawUID(s.Workload); err != nil {
		return nil, 0, err
	}
	switch {
	case s.Node == "" && s.Ordinal >= 0:
		return uid, s.Ordinal, nil
	case s.Node == w.doc.Node && s.Ordinal == 0:
		return uid, -1, nil
	}
	return nil, 0, fmt.Errorf("slot %d of node %q is none of this node", s.Ordinal, s.Node)
}

// text returns the place of s in the table of texts, from 1; 0 for the empty one.
func (w *writer) text(s string) uint32 {
	if s == "" {
		return 0
	}
	i, ok := w.texts[s]
	if !ok {
		w.Texts = append(w.Texts, strings.ToValidUTF8(s, "\uFFFD"))
		i = uint32(len(w.Texts))
		w.texts[s] = i
	}
	return i
}

// commit returns the place of c in the table of commits, from 1; 0 for none.
func (w *writer) commit(c reconcile.Commit) (uint32, error) {
	if c.ID == "" && c.Level == 0 {
		return 0, nil
	}
	c.Time = timeOf(micros(c.Time)) // one form of each time
	i, ok := w.commits[c]
	if !ok {
		id, err := hex.DecodeString(c.ID)
		if err != nil || hex.EncodeToString(id) != c.ID {
			return 0, fmt.Errorf("commit %q is no full id", c.ID)
		}
		w.Commits = append(w.Commits, commit{id, c.Level, micros(c.Time)})
		i = uint32(len(w.Commits))
		w.commits[c] = i
	}
	return i, nil
}

// dropEmpty leaves out the columns that say nothing.
func (c *instances) dropEmpty() {
	drop(&c.Workloads)
	drop(&c.Ordinals)
	drop(&c.Revisions)
	drop(&c.Epochs)
	drop(&c.Boots)
	drop(&c.Claimed)
	drop(&c.Causes)
	drop(&c.Commits)
	drop(&c.Since)
	drop(&c.Restarts)
	drop(&c.Reasons)
	drop(&c.Messages)
	drop(&c.Names)
	dropBytes(&c.IPs)
	dropBytes(&c.UIDs)
}

func drop[T comparable](column *[]T) {
	var zero T
	if !slices.ContainsFunc(*column, func(v T) bool { return v != zero }) {
		*column = nil
	}
}

func dropBytes(column *[][]byte) {
	if !slices.ContainsFunc(*column, func(v []byte) bool { return len(v) > 0 }) {
		*column = nil
	}
}

func quantities(list corev1.ResourceList) map[string]string {
	if len(list) == 0 {
		return nil
	}
	out := make(map[string]string, len(list))
	for name, q := range list {
		out[string(name)] = q.String()
	}
	return out
}

// micros writes a time; it is 0 for the zero time.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func timeOf(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}

func metaTime(micros int64) metav1.Time { return metav1.Time{Time: timeOf(micros)} }

// rawUID returns the 16 bytes of a uid in its canonical form.
func rawUID(uid types.UID) ([]byte, error) {
	raw, err := hex.DecodeString(strings.ReplaceAll(string(uid), "-", ""))
	if err != nil || len(raw) != 16 || formatUID(raw) != uid {
		return nil, fmt.Errorf("uid %q is no UUID", uid)
	}
	return raw, nil
}

func formatUID(raw []byte) types.UID {
	var text [36]byte
	hex.Encode(text[0:], raw[:4])
	hex.Encode(text[9:], raw[4:6])
	hex.Encode(text[14:], raw[6:8])
	hex.Encode(text[19:], raw[8:10])
	hex.Encode(text[24:], raw[10:16])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return types.UID(text[:])
}

func rawIP(text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	ip, err := netip.ParseAddr(text)
	if err != nil || ip.String() != text || ip.Zone() != "" {
		return nil, fmt.Errorf("podIP %q is no address in its canonical form", text)
	}
	return ip.AsSlice(), nil
}

// cut shortens s to n bytes at most, between characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	const more = "…"
	n -= len(more)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + more
}
