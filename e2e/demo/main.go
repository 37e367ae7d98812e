// Command demo starts a flock on this machine to try Pleach with: a Git server, a registry with an
// image made on the spot, and nodes that run what the repository says. "make demo" and "make demo-down"
// call it; a person calls it to switch a node off or to cut it off the network.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

const usage = `usage: demo [-dir DIR] [-nodes N] [-pleach FILE] up|down|serve
       demo [-dir DIR] off|on|crash|cut NODE
       demo [-dir DIR] heal`

// dirVariable names the demo's directory to commands that a person types.
const dirVariable = "PLEACH_DEMO_DIR"

func main() {
	dir := flag.String("dir", cmp.Or(os.Getenv(dirVariable), "/srv/pleach-demo"), "where the demo keeps everything; $"+dirVariable)
	nodes := flag.Int("nodes", 3, "up: how many nodes; one runs on this machine itself, several on machines made for them")
	pleach := flag.String("pleach", "bin/pleach", "the program to run")
	flag.Usage = func() { fmt.Fprintln(os.Stderr, usage); flag.PrintDefaults() }
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	program, err := filepath.Abs(*pleach)
	if err == nil {
		*dir, err = filepath.Abs(*dir)
	}
	if err == nil {
		d := &demo{dir: *dir, pleach: program, nodes: max(*nodes, 1)}
		switch verb := flag.Arg(0); verb {
		case "up":
			err = d.up(ctx)
		case "down":
			err = d.down(ctx)
		case "serve":
			err = d.serve(ctx)
		case "heal":
			err = d.order(ctx, "heal", nil)
		case "off", "on", "crash", "cut":
			err = d.order(ctx, verb+"/"+flag.Arg(1), nil)
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
