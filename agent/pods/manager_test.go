package pods

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/agent/pods/fakecri"
)

func TestPodRunsAndStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		n.start(newPod("web"))
		n.within(time.Second, "ready", func() bool { return isReady(n.pod("web")) })
		p := n.pod("web")
		if p.Status.Phase != corev1.PodRunning || p.Status.PodIP == "" || p.Status.HostIP != "192.0.2.1" {
			t.Errorf("status: %+v", p.Status)
		}
		if err := n.m.Stop(p.UID, "test"); err != nil {
			t.Fatal(err)
		}
		if n.pod("web").DeletionTimestamp == nil {
			t.Error("a pod that is being stopped has no deletionTimestamp")
		}
		if err := n.m.Start(newPod("web")); !errors.Is(err, ErrStopping) {
			t.Errorf("start of a pod that is being stopped: %v", err)
		}
		n.within(time.Second, "gone", func() bool { return n.pod("web") == nil })
		if s, c := n.runtime.Count(); s+c != 0 {
			t.Errorf("left behind: %d sandboxes, %d containers", s, c)
		}
		n.end()
	})
}

func TestTwoPodsDoNotWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runtime := fakecri.New(testImage)
		runtime.Latency = time.Second
		n := newNode(t, runtime)
		for _, name := range []string{"a", "b", "c"} {
			n.start(newPod(name, func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, newContainer("second")) }))
		}
		// Sandbox, create, start: one second each, for all pods and containers side by side.
		n.within(3*time.Second+50*time.Millisecond, "all ready", func() bool {
			return isReady(n.pod("a")) && isReady(n.pod("b")) && isReady(n.pod("c"))
		})
		n.end()
	})
}
