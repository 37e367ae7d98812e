package sim

import (
	"maps"
	"slices"
)

// Shrink looks for the smallest life that breaks the same rule: fewer events, then fewer nodes, then
// fewer changes in each commit. It tries at most so many lives.
func Shrink(life Life, rule string, tries int) Life {
	good := life.endsGood()
	broken := func(l Life) bool {
		if tries <= 0 || l.endsGood() != good {
			return false
		}
		tries--
		r, _ := Run(l)
		v := Check(r)
		return v != nil && v.Rule == rule
	}
	for before := -1; before != size(life) && tries > 0; {
		before = size(life)
		// The first event and the last one are commits that every life has.
		for step := max(len(life.Events)/2, 1); step > 0; step /= 2 {
			for i := 1; i < len(life.Events)-1; {
				less := life
				less.Events = slices.Delete(slices.Clone(life.Events), i, min(i+step, len(life.Events)-1))
				if broken(less) {
					life = less
				} else {
					i += step
				}
			}
		}
		if less, ok := life.withoutLastNode(); ok && broken(less) {
			life = less
		}
		for i, e := range life.Events {
			for k := 0; len(e.Push) > 1 && k < len(e.Push); {
				less := life
				less.Events = slices.Clone(life.Events)
				less.Events[i].Push = slices.Delete(slices.Clone(e.Push), k, k+1)
				if broken(less) {
					life, e = less, less.Events[i]
				} else {
					k++
				}
			}
		}
	}
	return life
}

// endsGood reports whether all that was committed at last can become ready.
func (l Life) endsGood() bool {
	bad := map[string]bool{}
	for _, e := range l.Events {
		for _, c := range e.Push {
			if !c.OfNode {
				bad[c.To.Name] = c.To.Image == badImage && !c.Removed
			}
		}
	}
	return !slices.Contains(slices.Collect(maps.Values(bad)), true)
}

// size is what shrinking makes smaller.
func size(l Life) int {
	n := l.Nodes
	for _, e := range l.Events {
		n += 1 + len(e.Push)
	}
	return n
}

// withoutLastNode leaves the last node out, and all that happened to it.
func (l Life) withoutLastNode() (Life, bool) {
	last := l.Nodes - 1
	forGood := func(e Event) bool { return e.Kind == PowerOff && e.For < 0 }
	if last < 1 || slices.ContainsFunc(l.Events, forGood) {
		return l, false // of fewer nodes, those that remain may be no majority
	}
	events := slices.Clone(l.Events)
	l.Nodes, l.Events = last, nil
	for _, e := range events {
		e.Group = slices.DeleteFunc(slices.Clone(e.Group), func(i int) bool { return i == last })
		if e.Kind == Push {
			e.Push = slices.DeleteFunc(slices.Clone(e.Push), func(c Change) bool { return c.OfNode && c.Machine.Node == last })
		}
		switch {
		case e.Node == last, e.Kind == Cut && e.Peer == last, e.Kind == Partition && (len(e.Group) == 0 || len(e.Group) == last):
		default:
			l.Events = append(l.Events, e)
		}
	}
	return l, true
}
