// Command pleach-shim is containerd's runc shim: one process per pod, which outlives the containerd
// daemon and the agent. It is a program of its own because what the pleach binary initializes would
// be paid by every pod, and because the shim's plugins must not be seen by the daemon.
package main

import (
	"context"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task/plugin" // the task service that the shim serves
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"github.com/containerd/ttrpc"
)

func main() {
	registry.Register(&plugin.Registration{
		Type: plugins.InternalPlugin, ID: "starts",
		InitFn: func(*plugin.InitContext) (any, error) { return starts{}, nil },
	})
	shim.RunShim(context.Background(), manager.NewShimManager("io.containerd.runc.v2"))
}

// starts lets a start outlive the daemon that has asked for it. Without, runc is killed when the daemon's
// connection ends: perhaps when the container runs already, and the next daemon, which is told that it does
// not, would kill it.
type starts struct{}

// UnaryServerInterceptor implements [shim.TTRPCServerUnaryOptioner].
func (starts) UnaryServerInterceptor() ttrpc.UnaryServerInterceptor {
	return func(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
		switch info.FullMethod {
		case "/containerd.task.v2.Task/Start", "/containerd.task.v3.Task/Start":
			ctx = context.WithoutCancel(ctx)
		}
		return method(ctx, unmarshal)
	}
}
