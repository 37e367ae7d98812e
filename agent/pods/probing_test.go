package pods

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/agent/pods/fakecri"
)

// answers are exec probes whose outcome a test switches: the command's first word picks the switch.
type answers struct{ startup, ready, alive atomic.Bool }

func (a *answers) exec(_ context.Context, command []string) (string, int32, error) {
	ok := map[string]*atomic.Bool{"startup": &a.startup, "ready": &a.ready, "alive": &a.alive}[command[0]].Load()
	if ok {
		return "", 0, nil
	}
	return "no", 1, nil
}

func execProbe(command string, period int32) *corev1.Probe {
	return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{command}}}, PeriodSeconds: period, FailureThreshold: 2}
}

func TestProbesDecide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a answers
		a.alive.Store(true)
		n := newNode(t, programs(map[string]fakecri.Program{"app": {Exec: a.exec, IgnoreTERM: true}}))
		n.start(newPod("web", func(p *corev1.Pod) {
			c := &p.Spec.Containers[0]
			c.StartupProbe, c.ReadinessProbe, c.LivenessProbe = execProbe("startup", 100), execProbe("ready", 10), execProbe("alive", 10)
			c.LivenessProbe.TerminationGracePeriodSeconds = new(int64(3))
		}))
		settle(30 * time.Second)
		if s := n.pod("web").Status.ContainerStatuses[0]; *s.Started || s.Ready || slices.Contains(n.runtime.Log(), "exec app/0 ready") {
			t.Errorf("the startup probe does not gate the others: %s", n.describe())
		}
		a.startup.Store(true)
		n.within(101*time.Second, "started", func() bool { return *n.pod("web").Status.ContainerStatuses[0].Started })
		if isReady(n.pod("web")) {
			t.Error("ready before the readiness probe passed")
		}
		a.ready.Store(true)
		n.within(11*time.Second, "ready", func() bool { return isReady(n.pod("web")) })
		a.ready.Store(false)
		n.within(21*time.Second, "unready", func() bool { return !isReady(n.pod("web")) })
		if got := n.pod("web").Status.ContainerStatuses[0].RestartCount; got != 0 {
			t.Errorf("readiness restarted the container %d times", got)
		}
		a.ready.Store(true)
		n.within(11*time.Second, "ready again", func() bool { return isReady(n.pod("web")) })
		a.alive.Store(false)
		n.within(24*time.Second, "condemned and restarted", func() bool { return n.pod("web").Status.ContainerStatuses[0].RestartCount == 1 })
		if !slices.Contains(n.runtime.Log(), "stop app/0 3") {
			t.Errorf("the probe's own grace period was not used: %v", n.runtime.Log())
		}
		a.alive.Store(true)
		n.within(time.Minute, "ready once more", func() bool { return isReady(n.pod("web")) })
		n.end()
	})
}

func TestPostStartGatesReadiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fail := true
		n := newNode(t, programs(map[string]fakecri.Program{"app": {Exec: func(context.Context, []string) (string, int32, error) {
			time.Sleep(5 * time.Second)
			if fail {
				fail = false
				return "", 1, nil
			}
			return "", 0, nil
		}}}))
		n.start(newPod("web", func(p *corev1.Pod) {
			p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"hello"}}}}
		}))
		settle(3 * time.Second)
		if isReady(n.pod("web")) {
			t.Error("ready while its postStart hook runs")
		}
		n.within(30*time.Second, "ready after the second try", func() bool {
			return isReady(n.pod("web")) && n.pod("web").Status.ContainerStatuses[0].RestartCount == 1
		})
		if !n.sawEvent("FailedPostStartHook") {
			t.Error("no event about the hook that failed")
		}
		n.end()
	})
}

// A sandbox that dies under a running pod is replaced, and everything in it starts again.
func TestSandboxIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, programs(map[string]fakecri.Program{"init": {RunFor: time.Second}}))
		n.start(newPod("web", func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{newContainer("init")} }))
		n.within(5*time.Second, "ready", func() bool { return isReady(n.pod("web")) })
		ip := n.pod("web").Status.PodIP
		n.runtime.PowerOff(false)
		n.within(2*relist, "ready in a new sandbox", func() bool { return isReady(n.pod("web")) && n.pod("web").Status.PodIP != ip })
		want := []string{"start init/0", "start app/0", "start init/1", "start app/1"}
		if got := starts(n.runtime); !slices.Equal(got, want) {
			t.Errorf("started %v; want %v", got, want)
		}
		if sandboxes, _ := n.runtime.Count(); sandboxes != 1 {
			t.Errorf("%d sandboxes", sandboxes)
		}
		n.end()
	})
}
