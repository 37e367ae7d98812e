package sim

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/reconcile"
)

// pod is a pod on a node: its record on disk, and what runs of it.
type pod struct {
	instance reconcile.Instance // as the node would publish it
	spec     *corev1.Pod
	by       string // who asked for its end
	found    bool   // on disk when the machine was started, and not resumed yet
	life     int    // counts its starts and ends: what was planned for an earlier one is void
}

// kubelet is what the decisions of a node are carried out by: records that outlive everything but the
// disk, and containers that outlive the agent.
type kubelet struct {
	node     *node
	pods     map[types.UID]*pod
	releases []reconcile.Release
	slow     int // faults under way
	noImages int
}

func newKubelet(n *node) kubelet { return kubelet{node: n, pods: map[types.UID]*pod{}} }

// keepReleases is how long a document names a release or a decline.
const keepReleases = 10 * time.Minute

func (k *kubelet) start(a reconcile.Action) {
	if k.pods[a.Instance.UID] != nil {
		return
	}
	p := &pod{instance: a.Instance, spec: a.Pod}
	k.pods[a.Instance.UID] = p
	k.launch(p)
}

// launch brings a recorded pod up.
func (k *kubelet) launch(p *pod) {
	p.life++
	p.instance.Phase, p.instance.Ready, p.instance.ReadySince = corev1.PodPending, false, time.Time{}
	wait := 300*time.Millisecond + upTo(k.node.r, 2*time.Second)
	if k.slow > 0 {
		wait += upTo(k.node.r, 20*time.Second)
	}
	k.node.later(wait, p, func() { k.run(p) })
}

func (k *kubelet) run(p *pod) {
	image := p.spec.Spec.Containers[0].Image
	if k.noImages > 0 || k.node.w.life.Given == nil && image[:3] == "bad" {
		p.instance.Reason, p.instance.Message = "ImagePullBackOff", "Back-off pulling image \""+image+"\""
		k.node.poke()
		k.node.later(2*time.Second, p, func() { k.run(p) })
		return
	}
	p.instance.Reason, p.instance.Message = "", ""
	p.instance.Phase = corev1.PodRunning
	k.ready(p)
}

func (k *kubelet) ready(p *pod) {
	p.instance.Ready, p.instance.ReadySince = true, k.node.watch.read(k.node.w.clock.now).UTC().Truncate(time.Microsecond)
	k.node.poke()
}

func (k *kubelet) stop(uid types.UID, by string) {
	p := k.pods[uid]
	if p == nil || p.instance.Terminating {
		return
	}
	p.life++
	p.by = by
	p.instance.Terminating, p.instance.Ready = true, false
	k.end(p)
}

// end takes a terminating pod down.
func (k *kubelet) end(p *pod) {
	wait := 200*time.Millisecond + upTo(k.node.r, 2*time.Second)
	if k.slow > 0 {
		wait += upTo(k.node.r, 20*time.Second)
	}
	k.node.later(wait, p, func() { k.remove(p) })
}

func (k *kubelet) remove(p *pod) {
	p.life++
	delete(k.pods, p.instance.UID)
	m := p.instance
	k.releases = append(k.releases, reconcile.Release{
		Slot: m.Slot, Revision: m.Revision, Epoch: m.Epoch, By: p.by, At: k.node.watch.read(k.node.w.clock.now).UTC(),
	})
	k.node.poke()
}

// fail ends a pod from outside.
func (k *kubelet) fail(p *pod) {
	p.life++
	p.instance.Phase, p.instance.Ready, p.instance.Reason = corev1.PodFailed, false, "SandboxLost"
	k.node.poke()
}

// flap takes a pod's readiness away for a while.
func (k *kubelet) flap(p *pod, length time.Duration) {
	p.life++
	p.instance.Ready, p.instance.ReadySince = false, time.Time{}
	k.node.poke()
	k.node.later(length, p, func() { k.ready(p) })
}

// powerOff ends everything that runs; the records stay.
func (k *kubelet) powerOff() {
	for _, p := range k.pods {
		p.life++
	}
}

// powerOn finds what the records name, which the decisions start again, and finishes what was being taken down.
func (k *kubelet) powerOn() {
	for _, p := range k.sorted() {
		switch {
		case p.instance.Terminating:
			k.end(p)
		case p.instance.Phase != corev1.PodFailed:
			p.instance.Phase, p.instance.Ready, p.instance.ReadySince = corev1.PodPending, false, time.Time{}
			p.found = true
		}
	}
}

// resume starts a pod that has not run since the machine was started.
func (k *kubelet) resume(uid types.UID) {
	if p := k.pods[uid]; p != nil && p.found && !p.instance.Terminating {
		p.found = false
		k.launch(p)
		k.node.poke()
	}
}

// running lists the pods that are ready.
func (k *kubelet) running() (out []*pod) {
	for _, p := range k.sorted() {
		if p.instance.Ready {
			out = append(out, p)
		}
	}
	return out
}

func (k *kubelet) sorted() []*pod {
	out := make([]*pod, 0, len(k.pods))
	for _, p := range k.pods {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *pod) int {
		return cmp.Or(cmp.Compare(a.instance.Namespace, b.instance.Namespace), cmp.Compare(a.instance.Name, b.instance.Name), cmp.Compare(a.instance.UID, b.instance.UID))
	})
	return out
}
