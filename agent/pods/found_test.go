package pods

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// After the machine was started anew nothing starts before it is resumed, and nothing counts as ready.
func TestFoundWaitsToBeResumed(t *testing.T) {
	for _, forget := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t, nil)
			n.hold = true
			for _, name := range []string{"resumed", "stopped", "waits"} {
				n.start(newPod(name))
			}
			n.start(newPod("ended", func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }))
			n.within(time.Second, "ready", func() bool { return isReady(n.pod("resumed")) && isReady(n.pod("stopped")) && isReady(n.pod("waits")) })
			n.runtime.Exit("ended", "app", 0)
			n.within(time.Minute, "ended", func() bool { return n.pod("ended").Status.Phase == corev1.PodSucceeded })
			settle(time.Minute)

			n.end()
			n.runtime.PowerOff(forget)
			log := len(n.runtime.Log())
			n.open(n.dir)
			n.within(time.Minute, "looked", func() bool {
				select {
				case <-n.m.Looked():
					return true
				default:
					return false
				}
			})
			for _, p := range n.m.Pods() {
				if isReady(p) {
					t.Errorf("forget=%v: %s counts as ready, and does not run", forget, p.Name)
				}
			}
			settle(10 * time.Minute)
			if did := n.runtime.Log()[log:]; len(did) > 0 {
				t.Errorf("forget=%v: before anything was resumed: %v", forget, did)
			}
			if found := n.m.Found(); !slices.Equal(found, []types.UID{"uid-resumed", "uid-stopped", "uid-waits"}) {
				t.Errorf("forget=%v: found %v", forget, found)
			}

			n.m.Resume("uid-resumed")
			if err := n.m.Stop("uid-stopped", "its slot was given away"); err != nil {
				t.Fatal(err)
			}
			n.within(time.Minute, "one runs and one is gone", func() bool { return isReady(n.pod("resumed")) && n.pod("stopped") == nil })
			if found := n.m.Found(); !slices.Equal(found, []types.UID{"uid-waits"}) || isReady(n.pod("waits")) {
				t.Errorf("forget=%v: found %v", forget, found)
			}

			// An agent that starts again on the running machine takes over the one that runs, and no more.
			n.restart()
			settle(time.Minute)
			if found := n.m.Found(); !slices.Equal(found, []types.UID{"uid-waits"}) || !isReady(n.pod("resumed")) {
				t.Errorf("forget=%v: after a restart found %v", forget, found)
			}
			n.end()
		})
	}
}
