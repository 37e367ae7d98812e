package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/pleachdev/pleach/agent/api"
	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/reconcile"
)

func statusCommand(l *local) *cobra.Command {
	var watch, verify bool
	var credentials string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the flock follows, what was refused, and how nodes and workloads are",
		Long: `Show which commits are in force and which were refused, with the reasons and what to do;
which nodes are there, and since when one is not; how every workload is and what it waits
for; and whether the config repository and the status branch can be reached.

With -w it goes on until Ctrl-C: at a terminal as a page that is drawn again, else as a
line for everything that changes.

With --verify it reads the status branch from its server instead, and says for each node
whether its document there is signed by its key, and who wrote the newest commit. The exit
code is 1 when something there was tampered with.`,
		Example: `  pleach status
  pleach status -w
  pleach status --verify`,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			p := page{colour: isTerminal(out)}
			if verify {
				return verifyStatus(cmd.Context(), l.client(), credentials, out)
			}
			if watch {
				return watchStatus(cmd.Context(), l.client(), out)
			}
			st, err := l.client().Status(cmd.Context())
			if err != nil {
				return err
			}
			_, err = io.WriteString(out, p.render(st))
			return err
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on, and show what changes")
	cmd.Flags().BoolVar(&verify, "verify", false, "check the signatures in the status branch")
	cmd.Flags().StringVar(&credentials, "credentials", "", "with --verify, a file of two lines, the user's name and the token, where the server asks for them")
	cmd.MarkFlagsMutuallyExclusive("watch", "verify")
	return cmd
}

// page lays a status out. Colours are for people at a terminal alone.
type page struct{ colour bool }

// ANSI colours.
const (
	red, green, yellow, bold = "31", "32", "33", "1"
)

func (p page) paint(code, s string) string {
	if !p.colour || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// render writes the whole page.
func (p page) render(st *api.Status) string {
	var b strings.Builder
	p.heads(&b, st)
	if st.Head.ID != "" {
		p.section(&b, "APPS", "NAME\tCOMMIT\tOBJECTS\tSTATE", p.units(st))
		p.section(&b, "NODES", "NAME\tSTATE\tPODS\tHEAD\tBEHIND", p.nodes(st))
		p.section(&b, "WORKLOADS", "NAMESPACE\tNAME\tREADY\tUP-TO-DATE\tAVAILABLE\tSTATE", p.workloads(st))
	}
	p.waiting(&b, st)
	p.refusals(&b, st)
	if len(st.Warnings) > 0 {
		b.WriteString("\n" + p.paint(bold, "WARNINGS") + "\n")
		for _, w := range st.Warnings {
			fmt.Fprintf(&b, "  %s\n", p.paint(yellow, printable(w.Error())))
		}
	}
	return b.String()
}

func (p page) heads(b *strings.Builder, st *api.Status) {
	line := func(title, text string) { fmt.Fprintf(b, "%-8s %s\n", title, text) }
	if st.Cluster != "" {
		line("Cluster", st.Cluster)
	}
	line("Node", fmt.Sprintf("%s, pleach %s", st.Node, st.Version))
	line("Remote", p.remote(st))
	if st.Remote.Alarm != "" {
		line("", p.paint(red, "alarm: "+printable(st.Remote.Alarm)))
	}
	head := p.paint(yellow, "no commit was verified yet")
	if st.Head.ID != "" {
		head = short(st.Head)
		if !st.Head.Time.IsZero() {
			head += ", made " + since(st.Head.Time, st.Now) + " ago"
		}
	}
	line("Head", head)
	if push := p.push(st); push != "" {
		line("Status", push)
	}
}

func (p page) remote(st *api.Status) string {
	r := st.Remote
	if r.LastTry.IsZero() {
		return cmp.Or(joinNonEmpty(" ", r.URL, r.Branch), "none") + ", not asked yet"
	}
	where := r.URL + " " + r.Branch
	if r.Err != "" {
		last := "it never answered"
		if !r.LastOK.IsZero() {
			last = "it last answered " + since(r.LastOK, st.Now) + " ago"
		}
		if !r.PeersSince.IsZero() {
			last += "; this node follows its peers since " + since(r.PeersSince, st.Now)
		}
		return where + ", " + p.paint(red, "not followed: "+printable(r.Err)) + "; " + last
	}
	return where + ", asked " + since(r.LastOK, st.Now) + " ago"
}

func (p page) push(st *api.Status) string {
	s := st.StatusPush
	if s.Branch == "" {
		return ""
	}
	text := s.Branch
	switch {
	case s.Err != "":
		text += ", " + p.paint(red, "not written: "+printable(s.Err))
	case s.LastOK.IsZero():
		text += ", not written yet"
	default:
		text += fmt.Sprintf(", written %s ago (%s)", since(s.LastOK, st.Now), s.Commit[:min(12, len(s.Commit))])
	}
	if !s.Waiting.IsZero() {
		text += ", changes wait for " + since(s.Waiting, st.Now)
	}
	return text
}

// section writes a titled table. Cells may be painted: the widths are taken before.
func (p page) section(b *strings.Builder, title, header string, rows []string) {
	if len(rows) == 0 {
		return
	}
	b.WriteString("\n" + p.paint(bold, title) + "\n")
	// the state is the last column, and the only one in colour, so that no width is disturbed
	tw := tabwriter.NewWriter(b, 0, 8, 3, ' ', 0)
	fmt.Fprintln(tw, "  "+header)
	for _, row := range rows {
		fmt.Fprintln(tw, "  "+row)
	}
	_ = tw.Flush() // into memory
}

func (p page) units(st *api.Status) []string {
	var rows []string
	for _, u := range st.Units {
		state := p.paint(green, "ok")
		if u.Refused != nil {
			state = p.paint(red, "refused "+short(*u.Refused)) + ", see below"
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%d\t%s", u.Name, short(u.Commit), u.Objects, state))
	}
	return rows
}

func (p page) nodes(st *api.Status) []string {
	var rows []string
	for _, n := range st.Nodes {
		behind := cmp.Or(strings.Join(n.Behind, ", "), "-")
		if len(n.Behind) > 0 {
			behind = p.paint(yellow, behind)
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%d of %d running\t%s\t%s", n.Name, nodeState(n), n.Running, n.Pods, short(n.Head), behind))
	}
	return rows
}

// nodeState is not in colour: it is not the last column.
func nodeState(n api.NodeSummary) string {
	state := "Ready"
	if !n.Ready {
		state = "NotReady"
	}
	if n.Scheduling != "" {
		state += ", " + n.Scheduling
	}
	if !n.Ready {
		state += ": " + printable(n.Reason)
	}
	return state
}

func (p page) workloads(st *api.Status) []string {
	var rows []string
	for _, w := range st.Workloads {
		rows = append(rows, fmt.Sprintf("%s\t%s\t%d/%d\t%d\t%d\t%s", w.Namespace, api.WorkloadName(w.Kind, w.Name), w.Ready, w.Desired, w.Updated, w.Available, p.workloadState(w)))
	}
	return rows
}

func (p page) workloadState(w *reconcile.WorkloadStatus) string {
	for _, c := range w.Conditions {
		switch c.Reason {
		case "ProgressDeadlineExceeded":
			return p.paint(red, "stuck: "+printable(c.Message))
		case "DeploymentPaused":
			return p.paint(yellow, "paused")
		}
	}
	if len(w.Waiting) == 0 {
		return p.paint(green, "complete")
	}
	text := fmt.Sprintf("%d of %d slots wait", len(w.Waiting), max(w.Desired, int32(len(w.Waiting))))
	return p.paint(yellow, text)
}

// maxWaiting bounds the reasons that are shown for a workload; explain shows them all.
const maxWaiting = 5

func (p page) waiting(b *strings.Builder, st *api.Status) {
	first := true
	for _, w := range st.Workloads {
		if len(w.Waiting) == 0 {
			continue
		}
		if first {
			b.WriteString("\n" + p.paint(bold, "WAITING") + "\n")
			first = false
		}
		for i, r := range w.Waiting {
			target := strings.ToLower(w.Kind) + "/" + w.Name
			if i == maxWaiting {
				fmt.Fprintf(b, "  and %d more: pleach explain -n %s %s\n", len(w.Waiting)-i, w.Namespace, target)
				break
			}
			slot := cmp.Or(r.Slot.Node, fmt.Sprint(r.Slot.Ordinal))
			fmt.Fprintf(b, "  %s %s/%s: %s\n", w.Namespace, target, slot, printable(r.Reason))
		}
	}
}

func (p page) refusals(b *strings.Builder, st *api.Status) {
	if len(st.Refusals) == 0 {
		return
	}
	b.WriteString("\n" + p.paint(bold, "REFUSED") + "\n")
	for _, r := range st.Refusals {
		fmt.Fprintf(b, "  %s %q by %s, for %s\n", p.paint(red, short(r.Commit)), r.Subject, printable(r.Author), unitName(r.App))
		for _, finding := range r.Findings() {
			fmt.Fprintf(b, "    %s\n", printable(finding))
		}
		running := "nothing yet"
		if r.Running.ID != "" {
			running = "commit " + short(r.Running)
		}
		fmt.Fprintf(b, "    still running: %s\n", running)
		fmt.Fprintf(b, "    to fix: %s\n", r.Remedy())
	}
}

// unitName is a unit of acceptance as people call it.
func unitName(unit string) string {
	switch unit {
	case "":
		return "everything"
	case gitsync.ClusterUnit:
		return "the cluster's own files"
	}
	return "app " + unit
}

// printable keeps what others wrote (commit messages, errors of remotes) from steering the terminal
// and on one line.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if r < 0x20 || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return -1
		}
		return r
	}, s)
}
