// Command demo starts a flock on this machine to try Pleach with: a Git server, a registry with an
// image made on the spot, and a node that runs what the repository says. "make demo" and
// "make demo-down" call it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

const usage = `usage: demo [-dir DIR] [-pleach FILE] up|down|serve`

func main() {
	dir := flag.String("dir", "/srv/pleach-demo", "where the demo keeps everything")
	pleach := flag.String("pleach", "bin/pleach", "the program to run")
	hint := flag.String("hint", "", "serve: the URL that is told of pushes")
	flag.Usage = func() { fmt.Fprintln(os.Stderr, usage); flag.PrintDefaults() }
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	program, err := filepath.Abs(*pleach)
	if err == nil {
		*dir, err = filepath.Abs(*dir)
	}
	if err == nil {
		d := &demo{dir: *dir, pleach: program}
		switch flag.Arg(0) {
		case "up":
			err = d.up(ctx)
		case "down":
			err = d.down(ctx)
		case "serve":
			err = d.serve(ctx, *hint)
		default:
			flag.Usage()
			os.Exit(2)
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}
