package containerd

import (
	"context"
	"errors"
	"time"

	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"google.golang.org/grpc/stats"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// startTimeout bounds a start that nobody waits for any more. It is that of the agent's own call.
const startTimeout = 2 * time.Minute

// starts lets the start of a container outlive who asked for it. containerd cancels what it does for a
// caller that is gone; at the end of a start it then kills a program that may have run already, and the
// next agent would run it a second time.
//
// It takes the seat of a handler of statistics, because that is where gRPC lets the context of a call be
// changed.
type starts struct{}

type startKey struct{}

// TagRPC implements [stats.Handler].
func (starts) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	if info.FullMethodName != runtimeapi.RuntimeService_StartContainer_FullMethodName {
		return ctx
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
	return context.WithValue(ctx, startKey{}, cancel)
}

// HandleRPC implements [stats.Handler].
func (starts) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, over := s.(*stats.End); !over {
		return
	}
	if cancel, ok := ctx.Value(startKey{}).(context.CancelFunc); ok {
		cancel()
	}
}

// TagConn implements [stats.Handler].
func (starts) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements [stats.Handler].
func (starts) HandleConn(context.Context, stats.ConnStats) {}

// installStarts has the daemon's gRPC server use [starts] in place of its tracing, which nobody reads.
func installStarts() error {
	all := registry.Graph(nil)
	registry.Reset()
	installed := false
	for _, r := range all {
		if r.Type == plugins.MetricsPlugin && r.ID == "grpc-otel" {
			r.InitFn = func(*plugin.InitContext) (any, error) { return starts{}, nil }
			installed = true
		}
		registry.Register(&r)
	}
	if !installed {
		return errors.New("this containerd's gRPC server takes no handler of statistics")
	}
	return nil
}
