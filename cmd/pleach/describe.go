package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/pleachdev/pleach/agent/api"
)

func describeCommand(l *local) *cobra.Command {
	var s scope
	cmd := &cobra.Command{
		Use:   "describe KIND [NAME | PREFIX] | KIND/NAME",
		Short: "Show an object with its events, and for workloads what the rollout waits for",
		Long: `Show all that is known of an object, laid out as kubectl does it. For workloads that
includes the state of the rollout, and for each slot that is not up to date the reason.`,
		Example: `  pleach describe pod web-7c9f4d5b6a-x2k8q
  pleach describe deploy/web -n shop
  pleach describe nodes`,
		Args: usage(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			targets, err := parseTargets(args)
			if err != nil {
				return err
			}
			var found []api.Description
			for _, t := range targets {
				d, err := l.client().Describe(cmd.Context(), t.kind, api.ListOptions{Namespace: s.of(t.kind), Name: t.name})
				if err != nil {
					return err
				}
				found = append(found, d...)
			}
			if len(found) == 0 {
				(&getOptions{scope: s, err: cmd.ErrOrStderr()}).sayNothingFound(targets)
			}
			for i, d := range found {
				if i > 0 {
					fmt.Fprint(cmd.OutOrStdout(), "\n\n") // the description's own write reports it
				}
				if err := describe(cmd.OutOrStdout(), d, time.Now()); err != nil {
					return err
				}
			}
			return nil
		},
	}
	s.flags(cmd, true)
	return cmd
}

// sheet writes "name:<tab>value" lines, indented by level.
type sheet struct{ w io.Writer }

func (s sheet) line(level int, format string, args ...any) {
	// the tab writer keeps its first error for Flush
	_, _ = fmt.Fprintf(s.w, strings.Repeat("  ", level)+format+"\n", args...)
}

// describe writes one description. now is what ages are counted from.
func describe(out io.Writer, d api.Description, now time.Time) error {
	k, err := api.FindKind(d.Kind)
	if err != nil {
		return err
	}
	object := k.New()
	if err := json.Unmarshal(d.Object, object); err != nil {
		return fmt.Errorf("%s from the agent: %w", d.Kind, err)
	}
	tw := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	s := sheet{tw}
	switch o := object.(type) {
	case *corev1.Pod:
		s.pod(o, now)
	case *appsv1.Deployment:
		s.deployment(o, d)
	case *appsv1.ReplicaSet:
		s.replicaSet(o, d)
	case *appsv1.DaemonSet:
		s.daemonSet(o, d)
	case *corev1.Node:
		s.node(o, d, now)
	case *corev1.ConfigMap:
		s.configMap(o, d)
	case *corev1.Secret:
		s.secret(o, d)
	case *corev1.Namespace:
		s.head(o, d)
		s.line(0, "Status:\t%s", o.Status.Phase)
	case *corev1.Event:
		s.event(o)
		return tw.Flush()
	}
	if d.Workload != nil {
		s.rollout(d)
	}
	if len(d.Explanations) > 0 && k.Kind == "Pod" {
		s.decision(d.Explanations[0])
	}
	s.events(d.Events, now)
	return tw.Flush()
}

// head writes what every kind begins with.
func (s sheet) head(o metav1.Object, d api.Description) {
	s.line(0, "Name:\t%s", o.GetName())
	if o.GetNamespace() != "" {
		s.line(0, "Namespace:\t%s", o.GetNamespace())
	}
	if t := o.GetCreationTimestamp(); d.Kind != "ConfigMap" && d.Kind != "Secret" && d.Kind != "Namespace" {
		s.line(0, "CreationTimestamp:\t%s", date(t.Time))
	}
	s.pairs(0, "Labels", o.GetLabels())
	s.pairs(0, "Annotations", withoutBulk(o.GetAnnotations()))
	if d.Source.Path != "" {
		s.line(0, "Git:\t%s, app %s, commit %s", place(d.Source.Path, d.Source.Line), d.Source.App, short(d.Commit))
	}
}

func withoutBulk(annotations map[string]string) map[string]string {
	out := maps.Clone(annotations)
	maps.DeleteFunc(out, func(k, _ string) bool { return k == corev1.LastAppliedConfigAnnotation })
	return out
}

// pairs writes a map, sorted, one pair a line.
func (s sheet) pairs(level int, title string, m map[string]string) {
	if len(m) == 0 {
		s.line(level, "%s:\t<none>", title)
		return
	}
	for i, k := range slices.Sorted(maps.Keys(m)) {
		if i == 0 {
			s.line(level, "%s:\t%s=%s", title, k, m[k])
		} else {
			s.line(level, "\t%s=%s", k, m[k])
		}
	}
}

func (s sheet) configMap(o *corev1.ConfigMap, d api.Description) {
	s.head(o, d)
	s.line(0, "\nData\n====")
	for _, k := range slices.Sorted(maps.Keys(o.Data)) {
		s.line(0, "%s:\n----\n%s\n", k, o.Data[k])
	}
	s.line(0, "BinaryData\n====")
	for _, k := range slices.Sorted(maps.Keys(o.BinaryData)) {
		s.line(0, "%s: %d bytes", k, len(o.BinaryData[k]))
	}
	s.line(0, "")
}

func (s sheet) secret(o *corev1.Secret, d api.Description) {
	sizes := map[string]int{}
	if err := json.Unmarshal([]byte(o.Annotations[api.RedactedAnnotation]), &sizes); err != nil {
		sizes = map[string]int{}
	}
	delete(o.Annotations, api.RedactedAnnotation)
	s.head(o, d)
	s.line(0, "\nType:\t%s\n\nData\n====", o.Type)
	for _, k := range slices.Sorted(maps.Keys(sizes)) {
		s.line(0, "%s:\t%d bytes", k, sizes[k])
	}
}

func (s sheet) event(e *corev1.Event) {
	s.head(e, api.Description{Kind: "Event"})
	s.line(0, "Involved Object:\t%s %s/%s", e.InvolvedObject.Kind, e.InvolvedObject.Namespace, e.InvolvedObject.Name)
	s.line(0, "Type:\t%s", e.Type)
	s.line(0, "Reason:\t%s", e.Reason)
	s.line(0, "Message:\t%s", e.Message)
	s.line(0, "Count:\t%d", e.Count)
	s.line(0, "First Seen:\t%s", date(e.FirstTimestamp.Time))
	s.line(0, "Last Seen:\t%s", date(e.LastTimestamp.Time))
}

func (s sheet) events(events []corev1.Event, now time.Time) {
	if len(events) == 0 {
		s.line(0, "Events:\t<none>")
		return
	}
	s.line(0, "Events:")
	s.line(1, "Type\tReason\tAge\tFrom\tMessage")
	s.line(1, "----\t------\t----\t----\t-------")
	for _, e := range events {
		age := since(e.LastTimestamp.Time, now)
		if e.Count > 1 {
			age = fmt.Sprintf("%s (x%d over %s)", age, e.Count, since(e.FirstTimestamp.Time, now))
		}
		from := e.Source.Component
		if e.Source.Host != "" {
			from += ", " + e.Source.Host
		}
		s.line(1, "%s\t%s\t%s\t%s\t%s", e.Type, e.Reason, age, from, strings.TrimSpace(e.Message))
	}
}

// decision says why a pod is here.
func (s sheet) decision(e api.Explanation) {
	s.line(0, "Slot:\t%s (%s)", e.Slot, cmp.Or(joinNonEmpty(": ", e.Rule, e.Reason), "no decision about it now"))
}

func date(t time.Time) string {
	if t.IsZero() {
		return "<unset>"
	}
	return t.Format(time.RFC1123Z)
}

// since is an age as kubectl prints it: "5m30s", "3d2h".
func since(t, now time.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(t))
}

// place is "path:line", or the path when the line is not known.
func place(path string, line int) string {
	if line == 0 {
		return path
	}
	return fmt.Sprintf("%s:%d", path, line)
}

func joinNonEmpty(separator string, parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), separator)
}
