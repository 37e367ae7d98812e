package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pleachdev/pleach/agent/api"
)

type logsOptions struct {
	scope
	identity
	container, selector, sinceTime string
	allContainers, prefix          bool
	tail                           int64
	since                          time.Duration
	pod                            corev1.PodLogOptions
}

// selectedTail is how many lines of each container are shown when pods are selected by label.
const selectedTail = 10

func logsCommand(l *local) *cobra.Command {
	o := &logsOptions{}
	cmd := &cobra.Command{
		Use:   "logs POD [CONTAINER] | KIND/NAME | -l SELECTOR",
		Short: "Print the logs of pods, on any node",
		Long: `Print the logs of a pod, of a workload's first pod, or of all pods that a selector finds.

For a pod of another node the request is signed with your SSH key, and judged there: the
key must be in trust/allowed_signers, and an accepted Role and its binding must let you
get pods/log. On the pod's own node root needs neither.`,
		Example: `  pleach logs web-7c9f4d5b6a-x2k8q
  pleach logs deploy/web -f --tail 20
  pleach logs web-7c9f4d5b6a-x2k8q --previous
  pleach logs -l app=web --prefix --since 5m`,
		Args: usage(cobra.MaximumNArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, o.signing(l.client()), args) },
	}
	o.scope.flags(cmd, false)
	f := cmd.Flags()
	o.identity.flags(f)
	f.StringVarP(&o.container, "container", "c", "", "the container; the first one when not given")
	f.BoolVarP(&o.pod.Follow, "follow", "f", false, "go on and print what is added")
	f.BoolVarP(&o.pod.Previous, "previous", "p", false, "the log of the container's run before this one")
	f.Int64Var(&o.tail, "tail", -1, "only the last lines; -1 for all, or 10 with a selector")
	f.DurationVar(&o.since, "since", 0, "only what is younger: 30s, 5m, 2h")
	f.StringVar(&o.sinceTime, "since-time", "", "only what is younger than this time: 2026-05-01T12:00:00Z")
	f.BoolVar(&o.pod.Timestamps, "timestamps", false, "begin each line with its time")
	f.StringVarP(&o.selector, "selector", "l", "", "a label selector instead of a name")
	f.BoolVar(&o.allContainers, "all-containers", false, "all containers of the pod")
	f.BoolVar(&o.prefix, "prefix", false, "begin each line with its pod and container")
	return cmd
}

func (o *logsOptions) run(cmd *cobra.Command, c *api.Client, args []string) error {
	if err := o.complete(cmd, args); err != nil {
		return err
	}
	pods, err := o.pods(cmd, c, args)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(cmd.Context())
	if !o.pod.Follow {
		group.SetLimit(1) // one log after the other
	}
	out := &lines{w: cmd.OutOrStdout()}
	for _, p := range pods {
		for _, container := range o.containers(p) {
			opts := o.pod
			opts.Container = container
			group.Go(func() error { return o.copy(ctx, c, p, &opts, out) })
		}
	}
	return group.Wait()
}

// complete checks flags that depend on each other.
func (o *logsOptions) complete(cmd *cobra.Command, args []string) error {
	switch {
	case (len(args) == 0) == (o.selector == ""):
		return usageError{errors.New("name a pod or a workload, or select pods with -l, not both")}
	case len(args) == 2 && o.container != "":
		return usageError{errors.New("the container is named twice, by argument and by -c")}
	case o.since != 0 && o.sinceTime != "":
		return usageError{errors.New("--since and --since-time cannot be given together")}
	case o.since < 0:
		return usageError{fmt.Errorf("--since: want a time ago, got %s", o.since)}
	case o.tail < -1:
		return usageError{fmt.Errorf("--tail: want a number of lines or -1, got %d", o.tail)}
	case o.allContainers && (o.container != "" || len(args) == 2):
		return usageError{errors.New("--all-containers and a container's name cannot be given together")}
	}
	if err := checkSelector(o.selector); err != nil {
		return err
	}
	if len(args) == 2 {
		o.container = args[1]
	}
	if o.selector != "" && !cmd.Flags().Changed("tail") {
		o.tail = selectedTail
	}
	if o.tail >= 0 {
		o.pod.TailLines = &o.tail
	}
	if o.since > 0 {
		o.pod.SinceSeconds = new(int64(math.Ceil(o.since.Seconds())))
	}
	if o.sinceTime != "" {
		t, err := time.Parse(time.RFC3339, o.sinceTime)
		if err != nil {
			return usageError{fmt.Errorf("--since-time: want a time such as 2026-05-01T12:00:00Z, got %q", o.sinceTime)}
		}
		o.pod.SinceTime = new(metav1.NewTime(t))
	}
	return nil
}

func (o *logsOptions) pods(cmd *cobra.Command, c *api.Client, args []string) ([]*corev1.Pod, error) {
	if o.selector != "" {
		pods, err := listPods(cmd.Context(), c, api.ListOptions{Namespace: o.namespace, Selector: o.selector})
		if err == nil && len(pods) == 0 {
			fmt.Fprintf(cmd.ErrOrStderr(), "No resources found in %s namespace.\n", o.namespace)
		}
		return pods, err
	}
	t, err := parseTarget(args[0])
	if err != nil {
		return nil, err
	}
	pods, err := t.pods(cmd.Context(), c, o.namespace)
	if err != nil {
		return nil, err
	}
	if len(pods) > 1 {
		fmt.Fprintf(cmd.ErrOrStderr(), "Found %d pods, using pod/%s\n", len(pods), pods[0].Name)
	}
	return pods[:1], nil
}

// containers names those whose logs are wanted; "" lets the agent choose.
func (o *logsOptions) containers(p *corev1.Pod) []string {
	if !o.allContainers {
		return []string{o.container}
	}
	var out []string
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		out = append(out, c.Name)
	}
	return out
}

func (o *logsOptions) copy(ctx context.Context, c *api.Client, p *corev1.Pod, opts *corev1.PodLogOptions, out *lines) error {
	prefix := ""
	if o.prefix {
		container := opts.Container
		if container == "" && len(p.Spec.Containers) > 0 {
			container = p.Spec.Containers[0].Name
		}
		prefix = fmt.Sprintf("[pod/%s/%s] ", p.Name, container)
	}
	stream := out.stream(prefix)
	err := c.Logs(ctx, p.Namespace, p.Name, opts, stream)
	return errors.Join(err, stream.Close())
}

// lines joins several streams into one without mixing their lines.
type lines struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lines) stream(prefix string) io.WriteCloser {
	return &lineWriter{to: l, prefix: []byte(prefix)}
}

// lineWriter passes whole lines on, with a prefix, and keeps the rest until it ends.
type lineWriter struct {
	to     *lines
	prefix []byte
	rest   []byte
}

func (w *lineWriter) Write(b []byte) (int, error) {
	w.rest = append(w.rest, b...)
	end := bytes.LastIndexByte(w.rest, '\n') + 1
	if end == 0 {
		return len(b), nil
	}
	var out []byte
	for line := range bytes.Lines(w.rest[:end]) {
		out = append(append(out, w.prefix...), line...)
	}
	w.rest = slices.Clone(w.rest[end:])
	return len(b), w.pass(out)
}

func (w *lineWriter) pass(b []byte) error {
	w.to.mu.Lock()
	defer w.to.mu.Unlock()
	_, err := w.to.w.Write(b)
	return err
}

// Close writes what is left of a log that does not end in a newline.
func (w *lineWriter) Close() error {
	if len(w.rest) == 0 {
		return nil
	}
	return w.pass(append(slices.Clone(w.prefix), w.rest...))
}
