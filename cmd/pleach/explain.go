package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pleachdev/pleach/agent/api"
	"github.com/pleachdev/pleach/reconcile"
)

func explainCommand(l *local) *cobra.Command {
	var s scope
	cmd := &cobra.Command{
		Use:   "explain POD | KIND/NAME[/SLOT]",
		Short: "Say why something runs or does not run: the rule, the commit and the line",
		Long: `Say for a pod, or for every slot of a workload, which rule decided, for which commit, and
in which line of the config repository the workload stands. A slot is a place that a
workload wants filled: its number counts from 0, or is a node's name for a DaemonSet.`,
		Example: `  pleach explain web-7c9f4d5b6a-x2k8q
  pleach explain deploy/web
  pleach explain deploy/web/2
  pleach explain ds/agent/node-1`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			arg, slot := args[0], ""
			if parts := strings.Split(arg, "/"); len(parts) == 3 {
				arg, slot = parts[0]+"/"+parts[1], parts[2]
			}
			t, err := parseTarget(arg)
			if err != nil {
				return err
			}
			found, err := l.client().Explain(cmd.Context(), t.kind, s.of(t.kind), t.name, slot)
			if err != nil {
				return err
			}
			if len(found) == 0 {
				return nothingToExplain(t, slot)
			}
			for i, e := range found {
				if err := explain(cmd.OutOrStdout(), e, i > 0); err != nil {
					return err
				}
			}
			return nil
		},
	}
	s.flags(cmd, false)
	return cmd
}

func nothingToExplain(t target, slot string) error {
	if slot != "" {
		return fmt.Errorf("%s/%s has no slot %s; \"pleach explain %[1]s/%[2]s\" lists its slots", t.kind.Resource, t.name, slot)
	}
	return fmt.Errorf("%s/%s: nothing was decided about it yet", t.kind.Resource, t.name)
}

// ruleWords says in a sentence what each of the rules means.
var ruleWords = map[string]string{
	reconcile.RuleKeep:      "the slot keeps its pod",
	reconcile.RuleStart:     "this node claimed the slot and starts a pod",
	reconcile.RuleStop:      "this node stops the slot's pod",
	reconcile.RulePlacement: "the plan gives the slot to another node, or no node fits",
	reconcile.RuleClaim:     "the slot waits for the turn of the node that may claim it",
	reconcile.RuleRollout:   "the rollout's bounds let other slots go first",
	reconcile.RuleEnding:    "an old pod has to end first",
	reconcile.RuleBackOff:   "the slot's last pod ended, and the next waits a while",
	reconcile.RuleFinished:  "the pod ran to its end and is not started again",
}

func explain(w io.Writer, e api.Explanation, blank bool) error {
	var b strings.Builder
	if blank {
		b.WriteByte('\n')
	}
	line := func(title, format string, args ...any) {
		fmt.Fprintf(&b, "  %-10s %s\n", title, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(&b, "%s in namespace %s\n", e.Slot, e.Namespace)
	rule := cmp.Or(ruleWords[e.Rule], e.Rule, "nothing was decided yet")
	if e.Rule != "" {
		rule = e.Rule + ": " + rule
	}
	line("rule", "%s", rule)
	if e.Reason != "" {
		line("because", "%s", e.Reason)
	}
	if e.Node != "" {
		line("node", "%s", e.Node)
	}
	if len(e.Candidates) > 0 {
		line("may claim", "%s", strings.Join(e.Candidates, ", then "))
	}
	if len(e.Pods) == 0 {
		line("pod", "none")
	}
	for _, p := range e.Pods {
		line("pod", "%s", podWords(p))
		if text, lost := e.Standings[p.Node]; lost {
			line("", "node %s is %s", p.Node, printable(text))
		}
	}
	if e.Source.Path != "" {
		line("line", "%s (app %s)", place(e.Source.Path, e.Source.Line), e.Source.App)
	}
	line("commit", "%s", cmp.Or(e.Commit.ID, "none"))
	line("revision", "%s", cmp.Or(e.Revision, "none"))
	_, err := io.WriteString(w, b.String())
	return err
}

func podWords(p *reconcile.Instance) string {
	state := string(p.Phase)
	switch {
	case p.Terminating:
		state = "terminating"
	case p.Ready:
		state = "ready"
	case p.Reason != "":
		state = p.Reason
	}
	text := fmt.Sprintf("%s on %s, %s, revision %s", p.Name, p.Node, state, p.Revision)
	switch node, boot, lost := strings.Cut(p.Cause, "/"); {
	case lost:
		text += fmt.Sprintf(", started in place of one that was lost with node %s (its start %s)", node, boot)
	case p.Cause != "":
		text += ", started because of " + p.Cause[:min(12, len(p.Cause))]
	}
	return text
}
