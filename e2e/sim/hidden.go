package sim

import (
	"math"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// What faults hide: the rules that hold while nodes hear each other are not judged where they did not.

// forgot reports whether a node has lost its memory before.
func (j *judge) forgot(node string) bool {
	return slices.ContainsFunc(j.r.Faults, func(f Event) bool { return f.Kind.forgets() && f.At <= j.now && j.r.name(f.Node) == node })
}

// wasAway reports whether a node was off or cut off lately.
func (j *judge) wasAway(node string, t time.Duration) bool {
	return slices.ContainsFunc(j.r.Faults, func(f Event) bool {
		away := f.Kind == Partition || f.Kind.off() && j.r.name(f.Node) == node ||
			f.Kind == Cut && (j.r.name(f.Node) == node || j.r.name(f.Peer) == node)
		return away && f.At <= t && (f.For < 0 || t <= f.At+f.For+lostFor)
	})
}

// during reports whether such a fault was under way in a time, or had ended shortly before.
func (j *judge) during(from, to, after time.Duration, kind func(Kind) bool) bool {
	return slices.ContainsFunc(j.r.Faults, func(f Event) bool {
		return kind(f.Kind) && f.At <= to && (f.For < 0 || f.At+f.For+after >= from)
	})
}

// separated reports whether some nodes could not hear of each other, not even through a third.
func (j *judge) separated(from, to time.Duration) bool {
	cut, down := map[[2]string]bool{}, map[string]bool{}
	for _, f := range j.r.Faults {
		if f.Kind.silences() {
			down[j.r.name(f.Node)] = down[j.r.name(f.Node)] || f.At <= to && (f.For < 0 || f.At+f.For+heardWithin >= from)
		}
	}
	for _, f := range j.r.Faults {
		if f.At > to || f.At+f.For < from {
			continue
		}
		if f.Kind == Partition {
			return true
		}
		if f.Kind == Cut {
			a, b := j.r.name(f.Node), j.r.name(f.Peer)
			cut[[2]string{a, b}], cut[[2]string{b, a}] = true, true
		}
	}
	for _, a := range j.names {
		for _, b := range j.names {
			through := func(c string) bool {
				return c != a && c != b && !down[c] && !cut[[2]string{a, c}] && !cut[[2]string{c, b}]
			}
			if cut[[2]string{a, b}] && !slices.ContainsFunc(j.names, through) {
				return true
			}
		}
	}
	return false
}

// unheard lists the times in which some nodes may hold others for gone that go on, by node: from when it was off
// or cut off until all have heard it again. It counts again when it has itself handed over a document, so that
// it stays gone to others while its agent is down or it is cut from them.
func (j *judge) unheard() map[string][]gap {
	out := map[string][]gap{}
	of := func(f Event, name string) bool {
		return f.Node >= 0 && j.r.name(f.Node) == name || f.Kind == Cut && j.r.name(f.Peer) == name
	}
	end := func(f Event) time.Duration {
		if f.For < 0 {
			return math.MaxInt64 / 2
		}
		return f.At + f.For
	}
	for _, name := range j.names {
		for _, f := range j.r.Faults {
			loses := f.Kind == Partition || of(f, name) && (f.Kind.off() || f.Kind == Cut && j.separated(f.At, end(f)))
			if !loses {
				continue
			}
			g := gap{f.At, end(f)}
			for longer := true; longer; {
				longer = false
				for _, o := range j.r.Faults {
					lasts := o.Kind == Partition || of(o, name) && (o.Kind.silences() || o.Kind == Cut)
					if lasts && o.At <= g.to+healedWithin && g.to < end(o) {
						g.to, longer = end(o), true
					}
				}
			}
			g.to += healedWithin
			out[name] = append(out[name], g)
		}
	}
	return out
}

// away reports whether a node may be held for gone by some, though it goes on.
func (j *judge) away(node string) bool {
	return slices.ContainsFunc(j.lost[node], func(g gap) bool { return g.from <= j.now && j.now < g.to })
}

// cutWhenBack reports whether a node was cut from another when it had been off: it counts again to those alone
// to whom it can speak itself.
func (j *judge) cutWhenBack(node string) bool {
	return slices.ContainsFunc(j.r.Faults, func(f Event) bool {
		of := f.Kind == Cut && f.At <= j.now && (j.r.name(f.Node) == node || j.r.name(f.Peer) == node)
		return of && f.At+f.For+time.Minute >= j.now && slices.ContainsFunc(j.r.Faults, func(g Event) bool {
			return g.Kind.off() && g.At <= j.now && j.r.name(g.Node) == node && g.At+g.For+2*time.Minute >= f.At
		})
	})
}

// unregistered reports whether pods of a workload moved off drained nodes lately, while nodes may not reach the
// same registrar. Moves keep to the bounds by its token alone, which agreement.md grants only as long as all that
// ask reach the same; what moved earlier stands in documents, and counts like all else.
func (j *judge) unregistered(uid types.UID, t time.Duration) bool {
	if at, ok := j.moved[uid]; !ok || t-at > heardWithin {
		return false
	}
	return slices.ContainsFunc(j.r.Faults, func(f Event) bool {
		return (f.Kind.hides() || f.Kind == Starve) && f.At <= t && max(f.At+f.For, f.At)+heardWithin >= t
	})
}
