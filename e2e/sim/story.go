package sim

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// clockTime is a time of a life: minutes, seconds, thousandths.
func clockTime(t time.Duration) string {
	return fmt.Sprintf("%02d:%06.3f", int(t/time.Minute), (t % time.Minute).Seconds())
}

// Tell prints what happened until a violation: the events of the world, what every node did with the
// slots of the workload that it is about and what it believed of others, and what the slots' documents
// said at last. All is told when the violation is nil or about no slot.
func Tell(out io.Writer, life Life, r *Recording, story []Line, v *Violation) {
	fmt.Fprintf(out, "seed %d, %d nodes, %d events, calm from %s\n", life.Seed, life.Nodes, len(life.Events), clockTime(life.Calm))
	owner, until := "", r.End
	if v != nil {
		owner, until = workloadOf(v.Slot), v.At
	}
	for _, l := range story {
		if l.At > until || owner != "" && l.Slot != "" && workloadOf(l.Slot) != owner {
			continue
		}
		who := l.Node
		if who == "" {
			who = "**"
		}
		text := l.Text
		if l.Slot != "" {
			text = l.Slot + ": " + text
		}
		fmt.Fprintf(out, "%s  %-3s %s\n", clockTime(l.At), who, text)
	}
	if v == nil {
		return
	}
	last := map[string]Record{}
	for _, x := range r.Records {
		if x.At <= v.At {
			last[x.Writer] = x
		}
	}
	fmt.Fprintln(out, "the last documents:")
	for _, name := range sortedKeys(last) {
		x := last[name]
		var accepted []string
		for _, app := range sortedKeys(x.Document.Accepted) {
			accepted = append(accepted, fmt.Sprintf("%s at %s", app, short(x.Document.Accepted[app].ID)))
		}
		fmt.Fprintf(out, "  %s of %s, %d/%d: %s\n", name, clockTime(x.At), x.Document.Boot, x.Document.Seq, strings.Join(accepted, ", "))
		for _, m := range x.Document.Instances {
			if owner == "" || m.Owner == owner {
				fmt.Fprintf(out, "      %s %s epoch %d for %s, by %s: %s\n", slotName(m), m.Name, m.Epoch, short(m.Commit.ID), short(m.Cause), condition(m))
			}
		}
	}
	fmt.Fprintf(out, "BROKEN: %s\n", v.Error())
}

// workloadOf is the workload's name in "web[2]" or "logs@n1".
func workloadOf(slot string) string {
	if i := strings.IndexAny(slot, "[@"); i >= 0 {
		return slot[:i]
	}
	return slot
}
