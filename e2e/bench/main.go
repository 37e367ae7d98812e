// Command bench measures Pleach and prints one table, in Markdown: what was measured, what Pleach
// promises, and the machine. First comes the code that decides, alone; then nodes of the laboratory,
// for which it needs root and what "make build" makes.
//
// There everything is the real thing: a Git server over HTTP, a registry, agents that are told of each
// push by a hint, containerd, and the sample app with its probes. A goal that is missed is in the
// table and no failure, because it depends on the machine and on what else runs there; a step that
// does not succeed is one.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pleachdev/pleach/e2e/lab"
)

// options are the command line.
type options struct {
	quick  bool
	runs   int
	only   string
	pleach string
	logs   string
}

// wanted reports whether any of the names was asked for. Without a list everything is.
func (o options) wanted(names ...string) bool {
	asked := strings.Split(o.only, ",")
	return o.only == "" || slices.ContainsFunc(names, func(n string) bool { return slices.Contains(asked, n) })
}

// count is how often something is done: n times, less in a quick run.
func (o options) count(n, quick int) int {
	if o.quick {
		return quick
	}
	return n
}

// bench is the command line, and the table of what was measured.
type bench struct {
	options
	task
	table table
}

// benchmark is one entry of the table's first column, measured on T.
type benchmark[T any] struct {
	name string
	run  func(T) error
}

// pure need neither root nor a machine of the laboratory: the code that decides, alone.
var pure = []benchmark[*bench]{
	{"placement", (*bench).placement},
	{"scheduler", (*bench).scheduler},
	{"pass", (*bench).pass},
	{"spread", (*bench).spread},
	{"sim", (*bench).sim},
}

// single run in this order on one node, which each leaves without pods.
var single = []benchmark[*flock]{
	{"start", (*flock).start},
	{"push", (*flock).push},
	{"poll", (*flock).poll},
	{"rollout", (*flock).rollout},
	{"idle", (*flock).idle},
	{"restart", (*flock).restart},
}

// several open a laboratory of their own each, with as many nodes as they need.
var several = []benchmark[*bench]{
	{"three", (*bench).three},
	{"loss", (*bench).loss},
	{"twenty", (*bench).twenty},
	{"crowd", (*bench).crowd},
}

// others are measured only when one asks for them.
var others = []benchmark[*bench]{
	{"peers", (*bench).peers},
}

func main() {
	var o options
	names := slices.Concat(namesOf(pure), namesOf(single), namesOf(several), namesOf(others))
	flag.BoolVar(&o.quick, "quick", false, "few repetitions: to see that everything works, not how fast")
	flag.IntVar(&o.runs, "runs", 0, "pushes to measure (default 20, and 3 of a quick run)")
	flag.StringVar(&o.only, "only", "", "some of these, with commas between them: "+strings.Join(names, ", "))
	flag.StringVar(&o.pleach, "pleach", "bin/pleach", "the program to measure")
	flag.StringVar(&o.logs, "logs", "", "directory to copy the logs to in the end")
	flag.Parse()
	unknown := func(n string) bool { return !slices.Contains(names, n) }
	if o.only != "" && slices.ContainsFunc(strings.Split(o.only, ","), unknown) || flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "bench: -only is some of %s, with commas between them; there are no arguments\n", strings.Join(names, ", "))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func namesOf[T any](list []benchmark[T]) []string {
	var names []string
	for _, b := range list {
		names = append(names, b.name)
	}
	return names
}

func run(ctx context.Context, o options) error {
	if os.Geteuid() != 0 && o.wanted(slices.Concat(namesOf(single), namesOf(several), namesOf(others))...) {
		return fmt.Errorf("containers need root; without: -only %s", strings.Join(namesOf(pure), ","))
	}
	o.runs = cmp.Or(o.runs, o.count(20, 3))
	b := &bench{options: o, task: task{ctx}}
	began, before := time.Now(), loadAverage()
	err := measure(b, pure, b)
	if err == nil && o.wanted(namesOf(single)...) {
		err = b.oneNode()
	}
	if err == nil {
		err = measure(b, several, b)
	}
	if err == nil && o.only != "" {
		err = measure(b, others, b)
	}
	b.table.print(os.Stdout)
	fmt.Printf("\n%s. Load average %s before, %s after %s.\n", machine(), before, loadAverage(), time.Since(began).Round(time.Second))
	return err
}

// measure runs those of a list that were asked for.
func measure[T any](b *bench, list []benchmark[T], on T) error {
	for _, m := range list {
		// The first start brings the one node up, so it is always among what runs there.
		if !b.wanted(m.name) && m.name != "start" {
			continue
		}
		fmt.Fprintf(os.Stderr, "==> %s\n", m.name)
		if err := b.try(func() error { return m.run(on) }); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return nil
}

// oneNode makes the node that the single benchmarks share.
func (b *bench) oneNode() (err error) {
	l, err := lab.Open("")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	f := &flock{bench: b, lab: l}
	defer f.keepLogs()
	if err := f.try(func() error { return f.setUp(1) }); err != nil {
		return err
	}
	return measure(b, single, f)
}

func (b *bench) pause(d time.Duration) error {
	select {
	case <-b.ctx.Done():
		return b.ctx.Err()
	case <-time.After(d):
		return nil
	}
}
