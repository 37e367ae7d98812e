package gossip

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/pleachdev/pleach/reconcile"
)

// KeepFor is how long releases and declines stay in a document, and count.
const KeepFor = 10 * time.Minute

// Truth is what a node's document is held against: a stolen key signs anything, and yet must not claim
// every slot, or draw another node's traffic to itself.
type Truth struct {
	Node *corev1.Node // as the accepted state has it
	// Level is that of the commit that last changed the node. Pods of earlier commits run by the rules
	// of their time, as Kubernetes leaves a pod alone whose node no longer matches: only pods of this
	// commit and later ones must match the node and fit into what it may give.
	Level int64
	// Hosts are the addresses at which the node itself is reached; a pod in the host's network has one
	// of them.
	Hosts []netip.Addr
	// Spec returns the pod spec of an instance as this node renders it; nil when it is not known here.
	Spec func(reconcile.Instance) *corev1.PodSpec
	Now  time.Time
}

// Strike returns the document without the entries that cannot be true, and says why each was struck.
// What the node says it can give is cut to what Git allows it. Releases and declines that are over are
// left out without a word. The document itself is not changed.
func (t Truth) Strike(d reconcile.Document) (reconcile.Document, []string) {
	var struck []string
	d.Capacity, d.Allocatable = allowed(d.Capacity, t.Node.Status.Capacity), allowed(d.Allocatable, t.Node.Status.Allocatable)
	pods := make([]*reconcile.Instance, 0, len(d.Instances))
	for i := range d.Instances {
		m := &d.Instances[i]
		if why := t.doubt(m); why != "" {
			struck = append(struck, fmt.Sprintf("pod %s/%s: %s", m.Namespace, m.Name, why))
			continue
		}
		pods = append(pods, m)
	}
	tooMany := t.tooMany(pods)
	kept := make([]reconcile.Instance, 0, len(pods))
	for _, m := range pods {
		if why, ok := tooMany[m]; ok {
			struck = append(struck, fmt.Sprintf("pod %s/%s: %s", m.Namespace, m.Name, why))
			continue
		}
		kept = append(kept, *m)
	}
	d.Instances = kept
	own := func(s reconcile.Slot) bool { return s.Node == "" || s.Node == t.Node.Name }
	d.Releases = slices.DeleteFunc(slices.Clone(d.Releases), func(r reconcile.Release) bool { return t.over(r.At) || !own(r.Slot) })
	d.Declines = slices.DeleteFunc(slices.Clone(d.Declines), func(c reconcile.Decline) bool { return t.over(c.At) || !own(c.Slot) })
	return d, struck
}

func (t Truth) over(at time.Time) bool { return t.Now.Sub(at) >= KeepFor }

// doubt says why an instance cannot run on the node; "" when it can.
func (t Truth) doubt(m *reconcile.Instance) string {
	if m.Node != t.Node.Name || m.Slot.Node != "" && m.Slot.Node != t.Node.Name {
		return fmt.Sprintf("is node %s's to tell of", cmp.Or(m.Slot.Node, m.Node))
	}
	spec := t.Spec(*m)
	if why := t.doubtIP(m.PodIP, spec); why != "" {
		return why
	}
	if spec == nil || m.Commit.Level < t.Level {
		return ""
	}
	if spec.NodeName != "" && spec.NodeName != t.Node.Name {
		return "its spec.nodeName is " + spec.NodeName
	}
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(&corev1.Pod{Spec: *spec}).Match(t.Node); err != nil || !ok {
		return fmt.Sprintf("node %s does not match its node affinity or selector", t.Node.Name)
	}
	return ""
}

// doubtIP says why a pod cannot have an address. Of a pod whose spec is not known either kind will do.
func (t Truth) doubtIP(text string, spec *corev1.PodSpec) string {
	if text == "" {
		return ""
	}
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return fmt.Sprintf("%q is no address", text)
	}
	if (spec == nil || spec.HostNetwork) && slices.Contains(t.Hosts, ip) {
		return ""
	}
	if spec != nil && spec.HostNetwork {
		return fmt.Sprintf("%s is no address of node %s", ip, t.Node.Name)
	}
	cidrs := t.Node.Spec.PodCIDRs
	if len(cidrs) == 0 && t.Node.Spec.PodCIDR != "" {
		cidrs = []string{t.Node.Spec.PodCIDR}
	}
	for _, text := range cidrs {
		if cidr, err := netip.ParsePrefix(text); err == nil && cidr.Contains(ip) {
			return ""
		}
	}
	return fmt.Sprintf("%s is in none of the podCIDRs of node %s", ip, t.Node.Name)
}

// tooMany returns the pods that are more than Git lets the node take, the latest claims among them.
func (t Truth) tooMany(pods []*reconcile.Instance) map[*reconcile.Instance]string {
	limit := t.Node.Status.Allocatable
	if len(limit) == 0 {
		return nil
	}
	pods = slices.SortedFunc(slices.Values(pods), func(a, b *reconcile.Instance) int {
		return cmp.Or(a.Claimed.Compare(b.Claimed), cmp.Compare(a.UID, b.UID))
	})
	var out map[*reconcile.Instance]string
	used := corev1.ResourceList{}
	for _, m := range pods {
		if m.Phase == corev1.PodSucceeded || m.Phase == corev1.PodFailed {
			continue
		}
		need := corev1.ResourceList{}
		if spec := t.Spec(*m); spec != nil {
			need = resource.PodRequests(&corev1.Pod{Spec: *spec}, resource.PodResourcesOptions{})
		}
		need[corev1.ResourcePods] = one
		sum, over := add(used, need, limit)
		if over != "" && m.Commit.Level >= t.Level {
			if out == nil {
				out = map[*reconcile.Instance]string{}
			}
			out[m] = fmt.Sprintf("with it node %s gives more %s than it is allowed", t.Node.Name, over)
			continue
		}
		used = sum
	}
	return out
}

var one = quantity.MustParse("1") // pod

// add returns used and need together, and the first resource by name of which that is above the limit.
func add(used, need, limit corev1.ResourceList) (sum corev1.ResourceList, over string) {
	sum = maps.Clone(used)
	for _, name := range slices.Sorted(maps.Keys(need)) {
		q := used[name]
		q = q.DeepCopy()
		q.Add(need[name])
		sum[name] = q
		if most, ok := limit[name]; ok && over == "" && q.Cmp(most) > 0 {
			over = string(name)
		}
	}
	return sum, over
}

// allowed cuts what a node says it has to what Git says of it; Git need not say anything.
func allowed(said, limit corev1.ResourceList) corev1.ResourceList {
	out := maps.Clone(said)
	for name, q := range out {
		if most, ok := limit[name]; ok && q.Cmp(most) > 0 {
			out[name] = most
		}
	}
	return out
}
