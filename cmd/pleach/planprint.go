package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// signs stand before a line of a plan as they do in a difference.
var signs = map[string]string{
	added: "+", changed: "~", removed: "-",
	starts: "+", replaced: "~", moves: ">", ends: "-", waits: "!", stays: "=",
}

// text prints the plan for a terminal.
func (p *plan) text(w io.Writer, all bool) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "From %s to %s, on %s", p.Base, p.Head, count(p.Nodes, "node"))
	if p.Running != "" {
		fmt.Fprintf(&b, "; what runs is from %s", p.Running)
	}
	b.WriteString("\n")
	for _, n := range p.Notes {
		fmt.Fprintf(&b, "note: %s\n", printable(n))
	}
	if len(p.Objects) > 0 {
		b.WriteString("\nObjects\n")
	}
	for _, o := range p.Objects {
		fmt.Fprintf(&b, "  %s %s  (%s)\n", signs[o.Change], o.Object, printable(place(o.Path, o.Line)))
		for _, f := range o.Fields {
			fmt.Fprintf(&b, "      %s\n", printable(f.words("", " -> ")))
		}
	}
	if len(p.Refused) > 0 {
		b.WriteString("\nRefused\n")
	}
	for _, r := range p.Refused {
		fmt.Fprintf(&b, "  %s\n", r.title())
		for _, f := range r.Findings {
			fmt.Fprintf(&b, "      %s\n", printable(f))
		}
		fmt.Fprintf(&b, "      to do: %s\n", printable(r.Remedy))
	}
	if len(p.Warnings) > 0 {
		b.WriteString("\nReported\n")
	}
	for _, x := range p.Warnings {
		fmt.Fprintf(&b, "  ! %s\n", x)
	}
	for _, x := range p.Workloads {
		slots := x.shown(all)
		if len(slots) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n%s%s\n", x.Workload, x.aside(len(slots)))
		t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
		for _, s := range slots {
			fmt.Fprintf(t, "  %s %s\t%s\t%s\t%s\n", signs[s.Change], s.Slot, s.when(), s.where(), printable(s.why()))
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	fmt.Fprintf(&b, "\nPlan: %s\n", p.Totals)
	for line := range strings.Lines(b.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// words is the change of a field, its values between quotes.
func (f fieldChange) words(quote, arrow string) string {
	value := func(v string) string {
		if v == "" {
			return "nothing"
		}
		return quote + v + quote
	}
	return f.Path + ": " + value(f.From) + arrow + value(f.To)
}

func (r refusal) title() string {
	what := "commit"
	if r.App != "" {
		what = "app " + r.App + " of commit"
	}
	return printable(fmt.Sprintf("%s %.12s %q", what, r.Commit, r.Subject))
}

// shown are the slots to list, in the order in which they change.
func (w *workloadPlan) shown(all bool) []slotPlan {
	var out []slotPlan
	for _, s := range w.Slots {
		if all || s.Change != stays || s.Reason != "" {
			out = append(out, s)
		}
	}
	slices.SortStableFunc(out, func(a, b slotPlan) int { return cmp.Compare(a.Step, b.Step) })
	return out
}

// aside says what the lines of a workload do not.
func (w *workloadPlan) aside(listed int) string {
	var parts []string
	if w.Manner != "" {
		parts = append(parts, w.Manner)
	}
	if n := len(w.Slots) - listed; n > 0 {
		parts = append(parts, map[bool]string{true: "1 more stays", false: fmt.Sprint(n, " more stay")}[n == 1])
	}
	if len(parts) == 0 {
		return ""
	}
	return ": " + strings.Join(parts, "; ")
}

func (s slotPlan) when() string {
	if s.Step == 0 {
		return ""
	}
	return fmt.Sprint("step ", s.Step)
}

func (s slotPlan) where() string {
	switch s.Change {
	case starts, stays:
		return "on " + s.To
	case replaced:
		return fmt.Sprintf("on %s, %s", s.To, s.Manner)
	case moves:
		return fmt.Sprintf("%s -> %s, %s", s.From, s.To, s.Manner)
	case ends:
		return "on " + s.From
	}
	return ""
}

func (s slotPlan) why() string {
	var parts []string
	if s.Reason != "" {
		parts = append(parts, s.Reason)
	}
	if len(s.Candidates) > 1 {
		parts = append(parts, "else "+strings.Join(s.Candidates[1:], ", "))
	}
	return strings.Join(parts, "; ")
}

// markdown prints the plan as a comment on a pull request: the sum above, the lists folded away.
func (p *plan) markdown(w io.Writer, all bool) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "**Pleach plan:** %s\n\nFrom %s to %s, on %s.\n", p.Totals, p.Base, p.Head, count(p.Nodes, "node"))
	for _, n := range p.Notes {
		fmt.Fprintf(&b, "\n> %s\n", cell(n))
	}
	for _, r := range p.Refused {
		fmt.Fprintf(&b, "\n**Refused:** %s\n\n", cell(r.title()))
		for _, f := range r.Findings {
			fmt.Fprintf(&b, "* %s\n", cell(f))
		}
		fmt.Fprintf(&b, "\nTo do: %s\n", cell(r.Remedy))
	}
	for _, x := range p.Warnings {
		fmt.Fprintf(&b, "\n* %s\n", cell(x.String()))
	}
	if len(p.Objects) > 0 {
		fmt.Fprintf(&b, "\n<details open><summary>%s</summary>\n\n| | object | where | fields |\n|---|---|---|---|\n", count(len(p.Objects), "object"))
		for _, o := range p.Objects {
			var fields []string
			for _, f := range o.Fields {
				fields = append(fields, cell(f.words("", " → ")))
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", signs[o.Change], cell(o.Object), cell(place(o.Path, o.Line)), strings.Join(fields, "<br>"))
		}
		b.WriteString("\n</details>\n")
	}
	var rows bytes.Buffer
	for _, x := range p.Workloads {
		slots := x.shown(all)
		for i, s := range slots {
			name := ""
			if i == 0 {
				name = x.Workload + x.aside(len(slots))
			}
			fmt.Fprintf(&rows, "| %s | %s | %s | %s | %s | %s |\n", cell(name), s.Change, cell(s.Slot), s.when(), cell(s.where()), cell(s.why()))
		}
	}
	if rows.Len() > 0 {
		fmt.Fprintf(&b, "\n<details><summary>pods</summary>\n\n| workload | | slot | | node | why |\n|---|---|---|---|---|---|\n%s\n</details>\n", rows.Bytes())
	}
	_, err := w.Write(b.Bytes())
	return err
}

// cell makes text that others wrote harmless in a table of Markdown.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", ">", "&gt;", "`", "'", "@", "@\u200b", "[", `\[`, "]", `\]`, "*", `\*`, "_", `\_`, "#", `\#`).Replace(printable(s))
}
