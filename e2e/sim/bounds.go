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
// more, and then nothing is added to it. So they are judged when a slot is emptied, or a pod is started beside
// another, by the limits of the commit that its node follows.
func (j *judge) bounds(x *Record) *Violation {
	now := j.commitOf(&x.Document)
	if now == nil {
		return nil
	}
	for slot := range j.rolling {
		if slot.Node != "" && slices.Contains(now.Tainted, slot.Node) {
			delete(j.rolling, slot) // a DaemonSet has no slot on a tainted node; one that comes back is another
		}
	}
	if len(j.changed) == 0 || j.separated(x.At-healedWithin, x.At) {
		return nil
	}
	counts := func(slot reconcile.Slot) bool { return now.wants(slot) && j.newest.wants(slot) }
	for _, uid := range sortedKeys(j.changed) {
		o := j.followed(x, uid)
		if o == nil || !o.Rolling || j.unregistered(uid, x.At) {
			continue
		}
		var down []string
		for slot, node := range j.rolling {
			if slot.Workload == uid && counts(slot) && !j.away(node) {
				down = append(down, fmt.Sprintf("%d%s", slot.Ordinal, slot.Node))
			}
		}
		slices.Sort(down)
		at := reconcile.Instance{Owner: o.Name, Slot: reconcile.Slot{Workload: uid}}
		if j.emptied[uid] && len(down) > o.MaxUnavailable {
			return j.fail(x, at, "maxUnavailable", "slots %v are down for commits, maxUnavailable is %d", down, o.MaxUnavailable)
		}
		up := j.surging(uid, counts)
		started := slices.ContainsFunc(j.begun, func(m reconcile.Instance) bool { return m.Slot.Workload == uid && slices.Contains(up, slotName(m)) })
		if started && len(up) > o.MaxSurge {
			return j.fail(x, at, "maxSurge", "slots %v have a pod more, maxSurge is %d", up, o.MaxSurge)
		}
	}
	return nil
}

// followed is a workload as the writer of a document has accepted it; nil when it has not.
func (j *judge) followed(x *Record, uid types.UID) *Wanted {
	o := j.known(uid)
	if o == nil {
		return nil
	}
	level := x.Document.Accepted[o.App].Level
	if i := slices.IndexFunc(j.r.History, func(c Committed) bool { return c.Level == level }); i >= 0 {
		return j.r.History[i].workload(uid)
	}
	return nil
}

// surging lists slots in which a live pod was started beside a live one of another revision, or of a drained
// node. What a node brings back that was held for gone is no surge: the rule of duplicates ends it. And until
// others hear it they cannot count it.
func (j *judge) surging(uid types.UID, counts func(reconcile.Slot) bool) (out []string) {
	pods := map[reconcile.Slot][]reconcile.Instance{}
	for _, name := range sortedKeys(j.docs) {
		for _, m := range j.docs[name].Instances {
			if m.Slot.Workload == uid && live(m) && counts(m.Slot) && !j.away(name) {
				pods[m.Slot] = append(pods[m.Slot], m)
			}
		}
	}
	for _, list := range pods {
		for _, m := range list {
			if slices.ContainsFunc(list, func(o reconcile.Instance) bool {
				return o.Epoch < m.Epoch && (o.Revision != m.Revision && m.Cause == m.Commit.ID || j.drainedBy(m.Cause, o.Node))
			}) {
				out = append(out, slotName(m))
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// drainedBy reports whether a commit drains a node.
func (j *judge) drainedBy(commit, node string) bool {
	return slices.ContainsFunc(j.r.History, func(c Committed) bool { return c.ID == commit && slices.Contains(c.Drained, node) })
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

// missing reports whether a document on which somebody acts at t may be missing.
func (j *judge) missing(t time.Duration) bool {
	for _, list := range j.gaps {
		if slices.ContainsFunc(list, func(g gap) bool { return g.from <= t && t <= g.to+answeredWithin }) {
			return true
		}
	}
	return false
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
