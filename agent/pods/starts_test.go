package pods

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/agent/pods/fakecri"
)

// slowStart is a node with a pod whose only container is being started, for a second.
func slowStart(t *testing.T, change ...func(*corev1.Pod)) *node {
	runtime := fakecri.New(testImage)
	runtime.Latency = time.Second
	asked := make(chan struct{})
	first := sync.OnceFunc(func() { close(asked) })
	runtime.Call = func(name string) {
		if name == "StartContainer" {
			first()
		}
	}
	n := newNode(t, runtime)
	n.start(newPod("web", change...))
	<-asked
	settle(100 * time.Millisecond)
	return n
}

// An agent dies while a container is being started. The start goes on without it, and the next agent waits
// for it: the container is started once and by nobody restarted, whatever its policy allows.
func TestAgentDiesInAStart(t *testing.T) {
	for _, policy := range []corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyNever} {
		t.Run(string(policy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := slowStart(t, func(p *corev1.Pod) {
					p.Spec.RestartPolicy = policy
					p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"hook"}}}}
				})
				n.client.Cut()
				n.restart()
				n.within(10*time.Second, "ready", func() bool { return isReady(n.pod("web")) })
				status := n.pod("web").Status.ContainerStatuses[0]
				if status.RestartCount != 0 || status.LastTerminationState.Terminated != nil {
					t.Errorf("the container counts as restarted: %+v", status)
				}
				if n.sawEvent("Failed") {
					t.Error("to wait for the start was told as a failure")
				}
				want := []string{"run sandbox web/0", "create app/0", "start app/0", "exec app/0 hook"}
				if got := n.runtime.Log(); !slices.Equal(got, want) {
					t.Errorf("the runtime did %q, want %q", got, want)
				}
				n.end()
			})
		})
	}
}

// A pod that is to end while its container is being started lets it start, and ends it as any other.
func TestStopInAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := slowStart(t)
		if err := n.m.Stop("uid-web", "test"); err != nil {
			t.Fatal(err)
		}
		n.within(time.Minute, "gone", func() bool { return n.pod("web") == nil })
		want := []string{"run sandbox web/0", "create app/0", "start app/0", "stop app/0 30"}
		if got := n.runtime.Log(); len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
			t.Errorf("the runtime did %q, want first %q", got, want)
		}
		n.end()
	})
}

// A program that cannot be started has run, as far as restarts are concerned.
func TestStartErrorCountsAsARun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, programs(map[string]fakecri.Program{"app": {StartErr: errors.New("no such program")}}))
		n.start(newPod("web"))
		n.within(time.Minute, "restarted", func() bool { return n.pod("web").Status.ContainerStatuses[0].RestartCount > 1 })
		n.end()
	})
}
