// Package report writes what the flock looks like as the files of the status branch: a README.md that
// a person reads on any forge, a document for every node and a status for every workload.
//
// It is a function of its input: equal input gives equal bytes, so that a commit is made only when
// something changed.
package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/reconcile"
)

// Input is what a report is made of. Nothing of it is changed.
type Input struct {
	Accepted  *gitsync.Accepted
	Alarm     string                // about the branch, see gitsync.Remote
	Documents []*reconcile.Document // one for every node that is known
	Workloads []*reconcile.WorkloadStatus
}

// Writer makes reports. It keeps what it has written of documents and workloads, by their pointers, for the
// next report in which they are. The zero value is ready.
type Writer struct{ written map[any][]byte }

// Files returns the whole content of the status branch by path. The slices are not to be changed.
func (w *Writer) Files(in Input) (map[string][]byte, error) {
	files := map[string][]byte{"README.md": readme(in)}
	written := make(map[any][]byte, len(in.Documents)+len(in.Workloads))
	add := func(what any, at string, write func() ([]byte, error)) (err error) {
		body, ok := w.written[what]
		if !ok {
			body, err = write()
		}
		files[at], written[what] = body, body
		return err
	}
	for _, d := range in.Documents {
		if err := add(d, path.Join("status", d.Node+".json"), func() ([]byte, error) { return document(d) }); err != nil {
			return nil, fmt.Errorf("status of node %s: %w", d.Node, err)
		}
	}
	for _, o := range in.Workloads {
		at := path.Join("workloads", o.Namespace, strings.ToLower(o.Kind), o.Name+".yaml")
		if err := add(o, at, func() ([]byte, error) { return workload(o) }); err != nil {
			return nil, fmt.Errorf("status of %s %s/%s: %w", o.Kind, o.Namespace, o.Name, err)
		}
	}
	w.written = written
	return files, nil
}

func document(d *reconcile.Document) ([]byte, error) {
	body, err := json.MarshalIndent(struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		reconcile.Document
	}{"pleach.dev/v1alpha1", "NodeDocument", *d}, "", "  ")
	return append(body, '\n'), err
}

func workload(w *reconcile.WorkloadStatus) ([]byte, error) {
	return yaml.Marshal(struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		reconcile.WorkloadStatus
	}{"pleach.dev/v1alpha1", "WorkloadStatus", *w})
}

func readme(in Input) []byte {
	var b bytes.Buffer
	a := in.Accepted
	fmt.Fprintf(&b, "# %s\n\n", a.Cluster.Name)
	fmt.Fprintf(&b, "Written by the nodes themselves, in commits signed with their keys. The newest commit that was verified is %s.\n",
		commit(a.Head))
	if in.Alarm != "" {
		fmt.Fprintf(&b, "\n**Alarm:** %s.\n", text(in.Alarm))
	}

	b.WriteString("\n## Nodes\n\n")
	table(&b, []string{"node", "state", "pods", "cpu", "memory", "accepted"}, nodeRows(in))
	b.WriteString("\n## Apps\n\n")
	table(&b, []string{"app", "running", "state"}, appRows(a))
	b.WriteString("\n## Workloads\n\n")
	table(&b, []string{"namespace", "workload", "ready", "up to date", "available", "state"}, workloadRows(in.Workloads))
	if len(a.Refusals) > 0 {
		b.WriteString("\n## Refused\n\n")
		for _, r := range a.Refusals {
			what := "app " + r.App
			switch r.App {
			case "":
				what = "everything"
			case gitsync.ClusterUnit:
				what = "the cluster's own files"
			}
			fmt.Fprintf(&b, "* %s %s by %s, for %s\n", commit(r.Commit), text(r.Subject), text(r.Author), what)
			for _, finding := range r.Findings() {
				fmt.Fprintf(&b, "  * %s\n", text(finding))
			}
			fmt.Fprintf(&b, "  * still running: %s\n", commit(r.Running))
			fmt.Fprintf(&b, "  * to fix: %s\n", r.Remedy())
		}
	}
	if len(a.Warnings) > 0 {
		b.WriteString("\n## Warnings\n\n")
		for _, p := range a.Warnings {
			fmt.Fprintf(&b, "* %s\n", text(p.Error()))
		}
	}
	return b.Bytes()
}

func nodeRows(in Input) [][]string {
	var rows [][]string
	documents := map[string]*reconcile.Document{}
	for _, d := range in.Documents {
		documents[d.Node] = d
	}
	for _, n := range in.Accepted.Nodes {
		d, known := documents[n.Name]
		if !known {
			rows = append(rows, []string{n.Name, "not heard of", "", "", "", ""})
			continue
		}
		state := "NotReady"
		for _, c := range d.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				state = "Ready"
			}
		}
		running := 0
		for _, i := range d.Instances {
			if i.Phase == corev1.PodRunning {
				running++
			}
		}
		rows = append(rows, []string{
			n.Name, state, fmt.Sprintf("%d of %d running", running, len(d.Instances)),
			d.Allocatable.Cpu().String(), d.Allocatable.Memory().String(), commit(d.Head),
		})
	}
	return rows
}

func appRows(a *gitsync.Accepted) [][]string {
	refused := map[string]gitsync.Refusal{}
	for _, r := range a.Refusals {
		refused[r.App] = r // sorted by level: the newest stays
	}
	row := func(name string, running reconcile.Commit) []string {
		state := "ok"
		if r, ok := refused[name]; ok {
			state = fmt.Sprintf("refused %s, see below", commit(r.Commit))
		}
		return []string{name, commit(running), state}
	}
	rows := [][]string{row(gitsync.ClusterUnit, a.ClusterCommit)}
	for _, app := range a.Apps {
		rows = append(rows, row(app.Name, app.Commit))
	}
	return rows
}

func workloadRows(workloads []*reconcile.WorkloadStatus) [][]string {
	var rows [][]string
	for _, w := range workloads {
		rows = append(rows, []string{
			w.Namespace, strings.ToLower(w.Kind) + "/" + w.Name,
			fmt.Sprintf("%d/%d", w.Ready, w.Desired), fmt.Sprint(w.Updated), fmt.Sprint(w.Available), WorkloadState(w),
		})
	}
	return rows
}

// WorkloadState is one phrase on how a workload is: "complete", or what it waits for.
func WorkloadState(w *reconcile.WorkloadStatus) string {
	for _, c := range w.Conditions {
		if c.Reason == "ProgressDeadlineExceeded" || c.Reason == "DeploymentPaused" {
			return c.Reason + ": " + c.Message
		}
	}
	if len(w.Waiting) == 0 {
		return "complete"
	}
	first := w.Waiting[0].Reason
	if more := len(w.Waiting) - 1; more > 0 {
		return fmt.Sprintf("%s (and %d more)", first, more)
	}
	return first
}

func commit(c reconcile.Commit) string {
	if c.ID == "" {
		return "none"
	}
	return "`" + c.ID[:min(12, len(c.ID))] + "`"
}

// One of each, as there is a cell or more for each of a flock's nodes and pods.
var (
	inCode = strings.NewReplacer("\n", " ", "\r", " ", "`", "'")
	inCell = strings.NewReplacer("\n", " ", "|", "\\|", "<", "&lt;")
)

// text keeps what anybody may have written, such as the subject of a refused commit, from being read
// as Markdown: it is a code span.
func text(s string) string {
	return "`" + inCode.Replace(s) + "`"
}

func table(b *bytes.Buffer, head []string, rows [][]string) {
	if len(rows) == 0 {
		b.WriteString("None.\n")
		return
	}
	line := func(cells []string) {
		b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
	}
	line(head)
	line(slices.Repeat([]string{"---"}, len(head)))
	for _, r := range rows {
		cells := make([]string, len(r))
		for i, c := range r {
			cells[i] = inCell.Replace(c)
		}
		line(cells)
	}
}
