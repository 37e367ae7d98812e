package pods

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/agent/probes"
)

// hook runs a lifecycle hook of a running container.
func (w *worker) hook(ctx context.Context, c *corev1.Container, id string, h *corev1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		output, err := w.exec(ctx, id, h.Exec.Command, 0)
		if err != nil {
			return fmt.Errorf("exec %q: %w: %s", h.Exec.Command, err, output)
		}
		return nil
	case h.HTTPGet != nil:
		target := probes.Target{PodIP: firstOf(w.podAddresses()), Container: c}
		return target.HTTPGet(ctx, h.HTTPGet, "kube-lifecycle/1.37")
	case h.Sleep != nil:
		select {
		case <-time.After(time.Duration(h.Sleep.Seconds) * time.Second):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.New("the hook has no handler: set exec, httpGet or sleep")
}

// exec runs a command in a container and returns its output, both streams.
func (w *worker) exec(ctx context.Context, id string, command []string, timeout time.Duration) ([]byte, error) {
	stdout, stderr, err := w.m.Runtime.ExecSync(ctx, id, command, timeout)
	return append(stdout, stderr...), err
}

func (w *worker) graceSeconds() int64 {
	if g := w.pod().Spec.TerminationGracePeriodSeconds; g != nil {
		return *g
	}
	return corev1.DefaultTerminationGracePeriodSeconds
}

func signalName(s string) string {
	if s == "" {
		return "RUNTIME_DEFAULT"
	}
	return s
}
