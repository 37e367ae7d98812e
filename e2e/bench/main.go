// Command bench measures a node of the laboratory and prints one table, in Markdown: what was
// measured, what Pleach promises, and the machine. It needs root and what "make build" makes.
//
// Everything is the real thing: a Git server over HTTP, a registry, an agent that is told of each
// push by a hint, containerd, and the sample app with its probes. A goal that is missed is in the
// table and no failure, because it depends on the machine and on what else runs there; a step that
// does not succeed is one.
package main

import (
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

// count is how often something is done: n times, less in a quick run.
func (o options) count(n, quick int) int {
	if o.quick {
		return quick
	}
	return n
}

// benchmark is one entry of the table's first column.
type benchmark struct {
	name string
	run  func(*flock) error
}

// benchmarks run in this order on one node, which each leaves without pods.
var benchmarks = []benchmark{
	{"start", (*flock).start},
	{"push", (*flock).push},
	{"poll", (*flock).poll},
	{"rollout", (*flock).rollout},
	{"idle", (*flock).idle},
	{"restart", (*flock).restart},
}

func main() {
	var o options
	var names []string
	for _, b := range benchmarks {
		names = append(names, b.name)
	}
	flag.BoolVar(&o.quick, "quick", false, "few repetitions: to see that everything works, not how fast")
	flag.IntVar(&o.runs, "runs", 20, "pushes to measure")
	flag.StringVar(&o.only, "only", "", "one of "+strings.Join(names, ", "))
	flag.StringVar(&o.pleach, "pleach", "bin/pleach", "the program to measure")
	flag.StringVar(&o.logs, "logs", "", "directory to copy the logs to in the end")
	flag.Parse()
	if o.only != "" && !slices.Contains(names, o.only) || flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "bench: -only is one of %s; there are no arguments\n", strings.Join(names, ", "))
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

func run(ctx context.Context, o options) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("containers need root")
	}
	if o.quick {
		o.runs = min(o.runs, 3)
	}
	l, err := lab.Open("")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	f := &flock{options: o, task: task{ctx}, lab: l}
	defer f.keepLogs()
	if err := f.try(f.setUp); err != nil {
		return err
	}
	began, before := time.Now(), loadAverage()
	for _, b := range benchmarks {
		// The first start brings the node up, so it is always among what runs.
		if o.only != "" && o.only != b.name && b.name != "start" {
			continue
		}
		fmt.Fprintf(os.Stderr, "==> %s\n", b.name)
		if err := f.try(func() error { return b.run(f) }); err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
	}
	f.table.print(os.Stdout)
	fmt.Printf("\n%s. Load average %s before, %s after %s.\n", machine(), before, loadAverage(), time.Since(began).Round(time.Second))
	return nil
}
