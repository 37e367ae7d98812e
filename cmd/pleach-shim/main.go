// Command pleach-shim is containerd's runc shim: one process per pod, which outlives the containerd
// daemon and the agent. It is a program of its own because what the pleach binary initializes would
// be paid by every pod, and because the shim's plugins must not be seen by the daemon.
package main

import (
	"context"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task/plugin" // the task service that the shim serves
	"github.com/containerd/containerd/v2/pkg/shim"
)

func main() {
	shim.RunShim(context.Background(), manager.NewShimManager("io.containerd.runc.v2"))
}
