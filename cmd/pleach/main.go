// Command pleach runs a node of a flock and shows what happens on it.
package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"github.com/pleachdev/pleach/agent/containerd"
)

func main() {
	if filepath.Base(os.Args[0]) == containerd.ProcessName {
		containerd.Main()
	}
	os.Exit(run())
}

func run() int {
	// client-go, which carries the streams of commands, would report on stderr what follows from a
	// command's end: a terminal whose size nobody wants any more, an input that nobody reads.
	utilruntime.ErrorHandlers = nil
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	return exitCode(newRoot().ExecuteContext(ctx), os.Stderr)
}
