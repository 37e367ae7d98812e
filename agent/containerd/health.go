package containerd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// dial connects to the CRI services at socket. The caller closes the connection.
func dial(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// check asks for what a pod needs: CRI answers and the runtime is ready. The network is the agent's
// own affair.
func check(ctx context.Context, cri runtimeapi.RuntimeServiceClient) error {
	resp, err := cri.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		return fmt.Errorf("containerd: CRI status: %w", err)
	}
	for _, c := range resp.GetStatus().GetConditions() {
		if c.GetType() == runtimeapi.RuntimeReady && !c.GetStatus() {
			return fmt.Errorf("containerd: %s: %s", c.GetReason(), c.GetMessage())
		}
	}
	return nil
}

// awaitRuntime returns when the runtime at socket is ready, or with the last error after bootTimeout.
func awaitRuntime(ctx context.Context, socket string) error {
	conn, err := dial(socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	cri := runtimeapi.NewRuntimeServiceClient(conn)
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		// The connection's own back-off would add a second to a boot of a tenth of that.
		conn.ResetConnectBackoff()
		err := check(ctx, cri)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// watch declares the runtime ready as long as it answers. It returns ctx's error, or the last failure
// of too many in a row.
func (s *Supervisor) watch(ctx context.Context) error {
	conn, err := dial(s.Socket())
	if err != nil {
		return err
	}
	defer conn.Close()
	cri := runtimeapi.NewRuntimeServiceClient(conn)
	timing := s.timing()
	tick := time.NewTicker(timing.period)
	defer tick.Stop()
	for failed := 0; ; {
		checking, cancel := context.WithTimeout(ctx, timing.timeout)
		err := check(checking, cri)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			failed = 0
			s.set(true, nil)
		default:
			failed++
			s.set(false, err)
			if failed == timing.failed {
				return errors.Join(fmt.Errorf("containerd failed %d checks in a row", failed), err)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
