package sim

import (
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/reconcile"
)

// bounds: rollouts keep to maxUnavailable and maxSurge, as long as no node is held for gone that goes on:
// of two sides that do not hear each other, each keeps to them by itself. What a node brings back may be
// more, and then nothing is added to it.
func (j *judge) bounds(x *Record) *Violation {
	head, now := &j.r.History[len(j.r.History)-1], j.commitOf(&x.Document)
	counts := func(slot reconcile.Slot) bool { // a DaemonSet has no slot on a tainted node
		return head.wants(slot) && (now == nil || slot.Node == "" || !slices.Contains(now.Tainted, slot.Node))
	}
	for slot := range j.rolling {
		if now != nil && slot.Node != "" && slices.Contains(now.Tainted, slot.Node) {
			delete(j.rolling, slot) // one that comes back is another
		}
	}
	for _, uid := range sortedKeys(j.changed) {
		o := j.known(uid)
		if o == nil || !o.Rolling || j.unregistered(uid, x.At) {
			continue
		}
		surge, unavailable := j.limits(uid)
		var down []string
		for slot := range j.rolling {
			if slot.Workload == uid && counts(slot) {
				down = append(down, fmt.Sprintf("%d%s", slot.Ordinal, slot.Node))
			}
		}
		slices.Sort(down)
		at := reconcile.Instance{Owner: o.Name, Slot: reconcile.Slot{Workload: uid}}
		if j.emptied[uid] && len(down) > unavailable && !j.separated(x.At-time.Minute, x.At) {
			return j.fail(x, at, "maxUnavailable", "slots %v are down for commits, maxUnavailable is %d", down, unavailable)
		}
		up := j.surging(uid, counts)
		started := slices.ContainsFunc(j.begun, func(m reconcile.Instance) bool { return m.Slot.Workload == uid && slices.Contains(up, slotName(m)) })
		if started && len(up) > surge && !j.separated(x.At-time.Minute, x.At) {
			return j.fail(x, at, "maxSurge", "slots %v have a pod more, maxSurge is %d", up, surge)
		}
	}
	return nil
}

// surging lists slots in which a live pod was started beside a live one of another revision. What a node
// brings back that was held for gone is no surge: the rule of duplicates ends it. And until others hear
// it they cannot count it.
func (j *judge) surging(uid types.UID, counts func(reconcile.Slot) bool) (out []string) {
	type place struct {
		slot  reconcile.Slot
		epoch int64
	}
	pods := map[place]reconcile.Instance{}
	for _, name := range sortedKeys(j.docs) {
		for _, m := range j.docs[name].Instances {
			if m.Slot.Workload == uid && live(m) && counts(m.Slot) {
				pods[place{m.Slot, m.Epoch}] = m
			}
		}
	}
	for at, m := range pods {
		o, ok := pods[place{at.slot, at.epoch - 1}]
		if back, was := j.back[o.Node]; was && j.now-back < heardWithin {
			continue
		}
		if !ok {
			continue
		}
		if o.Revision != m.Revision && m.Cause == m.Commit.ID || j.drainedBy(m.Cause, o.Node) {
			out = append(out, slotName(m))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// unregistered reports whether pods of a workload move off drained nodes while nodes may not reach the same
// registrar, on whom the bounds rest then.
func (j *judge) unregistered(uid types.UID, t time.Duration) bool {
	if at, ok := j.moved[uid]; !ok || t-at > time.Minute {
		return false
	}
	return slices.ContainsFunc(j.r.Faults, func(f Event) bool {
		switch f.Kind {
		case Cut, Partition, Loss, Starve, Restart, Crash, Forget, PowerOff:
			return f.At <= t && max(f.At+f.For, f.At)+time.Minute >= t
		default:
			return false
		}
	})
}

// drainedBy reports whether a commit drains a node.
func (j *judge) drainedBy(commit, node string) bool {
	return slices.ContainsFunc(j.r.History, func(c Committed) bool { return c.ID == commit && slices.Contains(c.Drained, node) })
}

// limits are those of a workload's rolling updates. Where commits differ in them, a node that follows the
// one and a node that follows the other each keep to theirs, and the two add up.
func (j *judge) limits(uid types.UID) (surge, unavailable int) {
	var surges, unavailables []int
	for i := range j.r.History {
		if w := j.r.History[i].workload(uid); w != nil {
			surges, unavailables = append(surges, w.MaxSurge), append(unavailables, w.MaxUnavailable)
		}
	}
	return twoLargest(surges), twoLargest(unavailables)
}

// twoLargest adds up the two largest of different numbers.
func twoLargest(of []int) (sum int) {
	slices.Sort(of)
	of = slices.Compact(of)
	for _, n := range of[max(0, len(of)-2):] {
		sum += n
	}
	return sum
}

// gap is a time in which documents of a node are missing.
type gap struct{ from, to time.Duration }

// gaps lists the times in which documents of a node may be missing, by node.
func (r *Recording) gaps() map[string][]gap {
	out, last := map[string][]gap{}, map[string]*Record{}
	if !r.Partial {
		return out
	}
	for i := range r.Records {
		x := &r.Records[i]
		d := &x.Document
		if old := last[d.Node]; old != nil && (d.Boot != old.Document.Boot || d.Seq != old.Document.Seq+1) {
			out[d.Node] = append(out[d.Node], gap{old.At, x.At})
		}
		last[d.Node] = x
	}
	return out
}

// doubt reports whether some node may just have said what is missing. What was down before a gap may have
// been ready in it.
func (j *judge) doubt(x *Record) bool {
	ended := slices.ContainsFunc(j.gaps[x.Document.Node], func(g gap) bool { return g.to == x.At })
	if ended {
		clear(j.rolling)
	}
	for _, list := range j.gaps {
		if slices.ContainsFunc(list, func(g gap) bool { return g.from <= x.At && x.At < g.to }) {
			return true
		}
	}
	return ended
}
