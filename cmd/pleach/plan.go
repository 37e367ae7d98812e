package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/reconcile/foretell"
)

// exitChanges is how "pleach plan --detailed-exitcode" says that something would change.
const exitChanges = 2

func planCommand() *cobra.Command {
	var o prospectOptions
	var output string
	var detailed, all bool
	cmd := &cobra.Command{
		Use:   "plan [BASE..HEAD]",
		Short: "Say what a commit would change: objects, and where every pod would run",
		Long: `Say what the flock would do if HEAD were pushed, from a clone alone: no agent is asked, and
nothing is written. The commits are judged, rendered, admitted and placed by the code that the
agents run: what is refused is refused here, and every pod goes where it would go.

BASE is what is accepted now; when it is not given, the branch of origin as it was fetched last.
HEAD is the commit that is checked out. What is not committed is not seen; the examples show how
to plan it. A BASE of nothing ("..HEAD") plans a flock's first commit.

What the nodes can take and what they run is read from --nodes FILE, else from the status
branch as it was fetched last. When neither is there, pods are placed for BASE first and for
HEAD then, on nodes of any size.

The plan is exact for the commit that it is given. Objects that are new in it draw their nodes by
that commit's id: a merge that makes another commit of it may give them other nodes, equally good.

Exit codes:
  0  there is a plan
  1  something is refused, or there is no plan
  2  the command line is wrong; with --detailed-exitcode also: something would change`,
		Example: `  pleach plan
  pleach plan origin/main..HEAD -o markdown > comment.md
  git fetch origin pleach/status && pleach plan
  pleach get nodes,pods -A -o yaml | pleach plan --nodes - HEAD~1..HEAD
  pleach plan "HEAD..$(git stash create)"      what is not committed yet`,
		Args: usage(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			revisions := ""
			if len(args) == 1 {
				revisions = args[0]
			}
			print, ok := map[string]func(io.Writer, *plan) error{
				"text":     func(w io.Writer, p *plan) error { return p.text(w, all) },
				"markdown": func(w io.Writer, p *plan) error { return p.markdown(w, all) },
				"json":     printJSON,
			}[output]
			if !ok {
				return usageError{fmt.Errorf("--output %s: want text, json or markdown", output)}
			}
			debug.SetGCPercent(400) // a plan leaves much behind and holds little
			p, err := makePlan(cmd.Context(), &o, revisions)
			if err != nil {
				return fmt.Errorf("plan: %w", err)
			}
			if err := print(cmd.OutOrStdout(), p); err != nil {
				return err
			}
			switch {
			case len(p.Refused) > 0:
				return quiet{errors.New("something is refused")}
			case detailed && p.changes():
				return commandExit{exitChanges}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.repository, "repository", "C", ".", "the clone of the config repository")
	o.flags(f)
	f.StringVarP(&output, "output", "o", "text", "text, json, or markdown for a pull request's comment")
	f.BoolVar(&all, "all", false, "list the pods that stay, too")
	f.BoolVar(&detailed, "detailed-exitcode", false, "end with 2 when something would change")
	return cmd
}

// plan is the result in the form of -o json.
type plan struct {
	Base  revision `json:"base"`
	Head  revision `json:"head"`
	Nodes int      `json:"nodes"`
	// Running says where the knowledge of what runs is from; "" when nobody said.
	Running   string         `json:"running,omitempty"`
	Notes     []string       `json:"notes"`
	Objects   []objectChange `json:"objects"`
	Refused   []refusal      `json:"refused"`
	Warnings  []problem      `json:"warnings"` // held and reported fields that HEAD brings
	Workloads []workloadPlan `json:"workloads"`
	Totals    totals         `json:"totals"`
}

// refusal is a gitsync.Refusal in short.
type refusal struct {
	Commit   string   `json:"commit"`
	Subject  string   `json:"subject,omitempty"`
	App      string   `json:"app,omitempty"`
	Findings []string `json:"findings"`
	Remedy   string   `json:"remedy"`
}

func (p *plan) changes() bool {
	t := p.Totals
	return t.Objects+t.Starts+t.Replaced+t.Moves+t.Ends > 0
}

// makePlan looks and foretells.
func makePlan(ctx context.Context, o *prospectOptions, revisions string) (*plan, error) {
	seen, err := o.look(ctx, revisions)
	if err != nil {
		return nil, err
	}
	return seen.plan()
}

func (p *prospect) plan() (*plan, error) {
	before, after := p.foresight.Before, p.foresight.After
	out := &plan{
		Base: p.base, Head: p.head, Nodes: len(after.Nodes), Running: p.origin,
		Notes: p.notes, Refused: refusals(before, after), Warnings: warnings(before, after), Workloads: []workloadPlan{},
	}
	var err error
	if out.Objects, err = compareStates(before, after); err != nil {
		return nil, err
	}
	flock := foretell.New(p.documents)
	if before != nil {
		first := flock.Run(wanted(before))
		if n := len(first.Events); n > 0 && len(p.documents) > 0 {
			out.Notes = append(out.Notes, fmt.Sprintf("the flock has %s before it as %s asks: the plan begins when they are done", count(n, "step"), p.base))
		}
	}
	ran := flock.Instances()
	course := flock.Run(wanted(after))
	if !course.Settled {
		out.Notes = append(out.Notes, "pods went on moving for so long that the end was not waited for")
	}
	out.Workloads, out.Totals = comparePods(ran, flock.Instances(), course, after.Objects())
	out.Totals.Objects = len(out.Objects)
	return out, nil
}

// refusals are those that stand against the head and did not stand against the base.
func refusals(before, after *gitsync.Accepted) []refusal {
	type key struct{ commit, app string }
	known := map[key]bool{}
	if before != nil {
		for _, r := range before.Refusals {
			known[key{r.Commit.ID, r.App}] = true
		}
	}
	out := []refusal{}
	for _, r := range after.Refusals {
		if !known[key{r.Commit.ID, r.App}] {
			out = append(out, refusal{r.Commit.ID, r.Subject, r.App, r.Findings(), r.Remedy()})
		}
	}
	return out
}

// warnings are those of the head that the base has not.
func warnings(before, after *gitsync.Accepted) []problem {
	known := map[problem]bool{}
	if before != nil {
		for _, w := range problems(before.Warnings) {
			w.Line = 0
			known[w] = true
		}
	}
	out := []problem{}
	for _, w := range problems(after.Warnings) {
		place := w
		place.Line = 0
		if !known[place] {
			out = append(out, w)
		}
	}
	return out
}

func printJSON(w io.Writer, p *plan) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(p)
}
