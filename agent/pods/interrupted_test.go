package pods

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pleachdev/pleach/agent/pods/fakecri"
)

// A start that was cut short by the end of the agent is no run of the container: the next agent
// makes the same instance again, also where the policy allows no second one.
func TestInterruptedStart(t *testing.T) {
	for _, policy := range []corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyNever} {
		t.Run(string(policy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				runtime := fakecri.New(testImage)
				cut := 3 // starts that are cut short
				runtime.Program = func(string, *runtimeapi.ContainerConfig) fakecri.Program {
					if cut--; cut >= 0 {
						return fakecri.Program{StartErr: errors.New("failed to create containerd task: context canceled")}
					}
					return fakecri.Program{}
				}
				n := newNode(t, runtime)
				n.start(newPod("web", func(p *corev1.Pod) { p.Spec.RestartPolicy = policy }))
				n.within(10*time.Second, "ready", func() bool { return isReady(n.pod("web")) })
				status := n.pod("web").Status.ContainerStatuses[0]
				if status.RestartCount != 0 || status.LastTerminationState.Terminated != nil {
					t.Errorf("the container counts as restarted: %+v", status)
				}
				if got := starts(runtime); len(got) != 1 || got[0] != "start app/0" {
					t.Errorf("the runtime did %v, want one start of the first instance", runtime.Log())
				}
				n.end()
			})
		})
	}
}

// A program that cannot be started is another matter.
func TestStartErrorCountsAsARun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, programs(map[string]fakecri.Program{"app": {StartErr: errors.New("no such program")}}))
		n.start(newPod("web"))
		n.within(time.Minute, "restarted", func() bool { return n.pod("web").Status.ContainerStatuses[0].RestartCount > 1 })
		n.end()
	})
}
