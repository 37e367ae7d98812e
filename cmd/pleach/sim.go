package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/agent/api"
	"github.com/pleachdev/pleach/e2e/sim"
	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/reconcile/foretell"
)

// settled is when a simulated flock has long placed its first pods.
const settled = 5 * time.Minute

func simCommand() *cobra.Command {
	var o prospectOptions
	var seed uint64
	var lose string
	var hours float64
	var story bool
	cmd := &cobra.Command{
		Use:   "sim [DIR]",
		Short: "Simulate the flock of a config repository while a node is lost",
		Long: `Let a flock live in simulated time what the clone in DIR has at HEAD: its nodes start its pods,
one node is switched off for good, and the others go on. The nodes decide by the code that agents
run; clock, network, Git and containers are simulated, a pod is ready after 0.3 to 2.3 seconds.
It says what stopped, where it runs again and after how long, and which slots find no room.

With --hours all kinds of faults come as well: restarts, power cuts, partitions, lost messages, a
slow or rewound remote, pods that fail. The same seed gives the same life. In the end the documents
of all nodes are held against the rules: slots are not emptied, rollouts keep their bounds, nothing
moves without a loss.

What the nodes can take is read as "pleach plan" does; what runs now is not read.

Exit codes: 0 every rule held; 1 a rule was broken, or there is nothing to simulate.`,
		Example: `  pleach sim
  pleach sim ./config --lose node-2 --nodes nodes.yaml
  pleach sim --seed 7 --hours 2
  pleach sim --story | less        every decision of every node`,
		Args: usage(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.repository = "."
			if len(args) == 1 {
				o.repository = args[0]
			}
			debug.SetGCPercent(400) // a life leaves much behind and holds little
			seen, err := o.look(cmd.Context(), "..HEAD")
			if err != nil {
				return fmt.Errorf("sim: %w", err)
			}
			return seen.simulate(cmd.OutOrStdout(), lose, seed, time.Duration(hours*float64(time.Hour)), story)
		},
	}
	f := cmd.Flags()
	o.flags(f)
	f.Uint64Var(&seed, "seed", 1, "draws delays and faults")
	f.StringVar(&lose, "lose", "", "the node that is lost; the one that runs most pods when not given")
	f.Float64Var(&hours, "hours", 0, "simulated hours of other faults, after the loss")
	f.BoolVar(&story, "story", false, "tell everything that happened")
	return cmd
}

func (p *prospect) simulate(w io.Writer, lose string, seed uint64, trouble time.Duration, story bool) error {
	after := p.foresight.After
	if refused := refusals(nil, after); len(refused) > 0 {
		return fmt.Errorf("sim: %s is refused: %s; \"pleach plan\" says more", refused[0].title(), printable(refused[0].Findings[0]))
	}
	life := p.life(seed)
	if life.Nodes == 0 {
		return errors.New("sim: no nodes are enrolled in nodes/: \"pleach node add\" enrols them")
	}
	flock := foretell.New(nil)
	flock.Run(wanted(after))
	if lose == "" {
		lose = busiest(flock.Instances(), life.Given.Machines)
	}
	lost := slices.IndexFunc(life.Given.Machines, func(n *corev1.Node) bool { return n.Name == lose })
	if lost < 0 {
		return usageError{fmt.Errorf("--lose %s: no such node in nodes/", lose)}
	}
	life.Calm = settled + trouble
	life.Events = append(life.Events,
		sim.Event{At: time.Second, Kind: sim.Push, Node: -1}, sim.Event{At: settled, Kind: sim.PowerOff, Node: lost, For: -1})
	if trouble > 0 {
		life.Events = append(life.Events, life.Given.Trouble(seed, settled, trouble)...)
	}
	recording, lines := sim.Run(life)
	broken := sim.Check(recording)
	if story {
		sim.Tell(w, life, recording, lines, broken)
	}
	var b bytes.Buffer
	for _, n := range p.notes {
		fmt.Fprintf(&b, "note: %s\n", printable(n))
	}
	fmt.Fprintf(&b, "%s at %s, %s on %s, seed %d\n", after.Cluster.Name, p.head, count(len(flock.Instances()), "pod"), count(life.Nodes, "node"), seed)
	fmt.Fprintf(&b, "\nNode %s is lost", lose)
	if err := outages(&b, recording.Outages(lose, settled)); err != nil {
		return err
	}
	unplaced(&b, after, recording, lose)
	if all, second := recording.Starts(); trouble > 0 {
		fmt.Fprintf(&b, "\nOther faults for %s: %d events, %s, %d of them while another ran without a partition\n",
			trouble, len(life.Events)-2, count(all, "start"), second)
	}
	if broken == nil {
		b.WriteString("\nEvery rule held: no slot emptied but by the loss, rollouts in their bounds, nothing moved without a loss.\n")
	} else {
		fmt.Fprintf(&b, "\nA rule was broken: %s\n", broken.Error())
	}
	if _, err := w.Write(b.Bytes()); err != nil {
		return err
	}
	if broken != nil {
		return quiet{broken}
	}
	return nil
}

// busiest is the node that runs most pods, of several the first by name.
func busiest(list []reconcile.Instance, machines []*corev1.Node) string {
	pods := map[string]int{}
	for _, m := range list {
		pods[m.Node]++
	}
	return slices.MaxFunc(machines, func(a, b *corev1.Node) int {
		return cmp.Or(cmp.Compare(pods[a.Name], pods[b.Name]), cmp.Compare(b.Name, a.Name))
	}).Name
}

// outages tells what becomes of the slots of the lost node.
func outages(b *bytes.Buffer, list []sim.Outage) error {
	if len(list) == 0 {
		b.WriteString(". It ran nothing that moves.\n")
		return nil
	}
	b.WriteString(", and with it:\n")
	t := tabwriter.NewWriter(b, 0, 8, 2, ' ', 0)
	var longest time.Duration
	back := 0
	for _, o := range list {
		name := api.SlotName(o.Was.Kind, o.Was.Owner, o.Was.Slot)
		if o.Now.Name == "" {
			fmt.Fprintf(t, "  %s\tdoes not run again\n", name)
			continue
		}
		back++
		longest = max(longest, o.Lasts)
		fmt.Fprintf(t, "  %s\tready on %s after %.1f s\n", name, o.Now.Node, o.Lasts.Seconds())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(b, "%d of %s again, the last after %.1f s\n", back, count(len(list), "slot"), longest.Seconds())
	return nil
}

// unplaced says which slots have no pod in the end, and why.
func unplaced(b *bytes.Buffer, after *gitsync.Accepted, recording *sim.Recording, lose string) {
	rest := wanted(after)
	rest.Nodes = slices.DeleteFunc(slices.Clone(rest.Nodes), func(n *corev1.Node) bool { return n.Name == lose })
	documents := slices.DeleteFunc(recording.Latest(), func(d reconcile.Document) bool { return d.Node == lose })
	for i := range documents {
		for k := range documents[i].Instances {
			documents[i].Instances[k].Commit = reconcile.Commit{} // the simulated history numbers its commits anew
		}
	}
	course := foretell.New(documents).Run(rest)
	first := true
	for _, s := range course.Slots {
		if s.Pod != "" || s.Rule == reconcile.RuleFinished {
			continue
		}
		if first {
			b.WriteString("\nWithout a pod on the nodes that remain:\n")
			first = false
		}
		fmt.Fprintf(b, "  %s  %s\n", api.SlotName(s.Kind, s.Owner, s.Slot), printable(s.Reason))
	}
}
