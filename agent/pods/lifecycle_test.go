package pods

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pleachdev/pleach/agent/pods/fakecri"
)

// programs scripts containers by name.
func programs(by map[string]fakecri.Program) *fakecri.Runtime {
	r := fakecri.New(testImage)
	r.Program = func(_ string, config *runtimeapi.ContainerConfig) fakecri.Program {
		return by[config.GetMetadata().GetName()]
	}
	return r
}

// starts are the lines of the runtime's log that begin with "start".
func starts(r *fakecri.Runtime) []string {
	return slices.DeleteFunc(r.Log(), func(l string) bool { return !strings.HasPrefix(l, "start ") })
}

func TestCrashLoopBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, programs(map[string]fakecri.Program{"app": {RunFor: time.Second, ExitCode: 3}}))
		began := time.Now()
		n.start(newPod("web"))
		// It runs a second each time; the first restart is immediate, then 10 s, 20 s … 5 min.
		at := time.Duration(0)
		for restart, delay := range []time.Duration{0, 0, 10, 20, 40, 80, 160, 300, 300} {
			if restart > 0 {
				at += time.Second + delay*time.Second
			}
			n.within(at-time.Since(began)+time.Second/2, "restart", func() bool { return len(starts(n.runtime)) == restart+1 })
			if early := at - time.Since(began); early > time.Second/2 {
				t.Errorf("restart %d came %s early", restart, early)
			}
		}
		settle(2 * time.Second)
		c := n.pod("web").Status.ContainerStatuses[0]
		if c.State.Waiting == nil || c.State.Waiting.Reason != "CrashLoopBackOff" || !strings.Contains(c.State.Waiting.Message, "back-off 5m0s") ||
			c.LastTerminationState.Terminated == nil || c.LastTerminationState.Terminated.ExitCode != 3 || c.RestartCount != 8 {
			t.Errorf("status: %+v", c)
		}
		// Only the last dead instance is kept.
		if _, containers := n.runtime.Count(); containers != 2 && containers != 1 {
			t.Errorf("%d containers are kept", containers)
		}
		n.end()
	})
}

func TestBackOffIsForgottenAfterTenMinutes(t *testing.T) {
	b := backOff{}
	now := time.Now()
	b = b.next(now)
	b = b.next(now.Add(20 * time.Second))
	if b.Delay != 20*time.Second {
		t.Fatalf("delay %s; want 20s", b.Delay)
	}
	late := now.Add(20*time.Second + resetBackOff + time.Second)
	if !b.until(late).Equal(late) {
		t.Error("a container that ran for 10 minutes is restarted at once")
	}
	if b = b.next(late); b.Delay != minBackOff {
		t.Errorf("delay %s; want %s", b.Delay, minBackOff)
	}
}

func TestRestartPolicies(t *testing.T) {
	for _, c := range []struct {
		policy   corev1.RestartPolicy
		exit     int32
		oom      bool
		phase    corev1.PodPhase
		reason   string
		restarts bool
	}{
		{corev1.RestartPolicyNever, 0, false, corev1.PodSucceeded, "Completed", false},
		{corev1.RestartPolicyNever, 1, false, corev1.PodFailed, "Error", false},
		{corev1.RestartPolicyNever, 137, true, corev1.PodFailed, "OOMKilled", false},
		{corev1.RestartPolicyOnFailure, 0, false, corev1.PodSucceeded, "Completed", false},
		{corev1.RestartPolicyOnFailure, 1, false, corev1.PodRunning, "", true},
		{corev1.RestartPolicyAlways, 0, false, corev1.PodRunning, "", true},
	} {
		t.Run(string(c.policy)+"/"+c.reason, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, programs(map[string]fakecri.Program{"app": {RunFor: time.Second, ExitCode: c.exit, OOM: c.oom}}))
				n.start(newPod("web", func(p *corev1.Pod) { p.Spec.RestartPolicy = c.policy }))
				settle(5 * time.Minute)
				p := n.pod("web")
				if p.Status.Phase != c.phase {
					t.Errorf("phase %s; want %s", p.Status.Phase, c.phase)
				}
				if got := len(starts(n.runtime)) > 1; got != c.restarts {
					t.Errorf("restarted %v; want %v", got, c.restarts)
				}
				if s := p.Status.ContainerStatuses[0].State.Terminated; c.reason != "" && (s == nil || s.Reason != c.reason) {
					t.Errorf("state %+v; want reason %s", s, c.reason)
				}
				// A finished pod stays finished whatever happens to agent and machine.
				if !c.restarts {
					n.end()
					n.runtime.PowerOff(true)
					n.open(n.dir)
					settle(time.Minute)
					if p := n.pod("web"); p.Status.Phase != c.phase || len(starts(n.runtime)) != 1 {
						t.Errorf("after a power failure: %s", n.describe())
					}
				}
				n.end()
			})
		})
	}
}

func sidecar(name string) corev1.Container {
	c := newContainer(name)
	c.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
	return c
}

func TestInitContainersAndSidecars(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, programs(map[string]fakecri.Program{
			"first": {RunFor: 2 * time.Second}, "second": {RunFor: 3 * time.Second},
			"helper": {StopTakes: time.Second}, "app": {StopTakes: 2 * time.Second},
		}))
		n.start(newPod("web", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{newContainer("first"), sidecar("helper"), newContainer("second")}
		}))
		settle(time.Second)
		if c := n.pod("web").Status.ContainerStatuses[0]; c.State.Waiting == nil || c.State.Waiting.Reason != "PodInitializing" {
			t.Errorf("main container: %+v", c.State)
		}
		n.within(10*time.Second, "ready", func() bool { return isReady(n.pod("web")) })
		want := []string{"start first/0", "start helper/0", "start second/0", "start app/0"}
		if got := starts(n.runtime); !slices.Equal(got, want) {
			t.Errorf("started %v; want %v", got, want)
		}
		// A sidecar that ends is started again, and nothing else is.
		n.runtime.Exit("web", "helper", 1)
		settle(time.Second)
		if got := starts(n.runtime); !slices.Equal(got, append(want, "start helper/1")) {
			t.Errorf("started %v", got)
		}
		if err := n.m.Stop("uid-web", ""); err != nil {
			t.Fatal(err)
		}
		n.within(10*time.Second, "gone", func() bool { return n.pod("web") == nil })
		log := n.runtime.Log()
		if slices.Index(log, "exit app/0 0") > slices.IndexFunc(log, func(l string) bool { return strings.HasPrefix(l, "stop helper/1") }) {
			t.Errorf("the sidecar was stopped before the main container had ended: %v", log)
		}
		n.end()
	})
}

func TestSidecarsDoNotKeepAPodAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, programs(map[string]fakecri.Program{"app": {RunFor: 5 * time.Second}}))
		n.start(newPod("job", func(p *corev1.Pod) {
			p.Spec.RestartPolicy = corev1.RestartPolicyNever
			p.Spec.InitContainers = []corev1.Container{sidecar("helper")}
		}))
		n.within(10*time.Second, "succeeded", func() bool { return n.pod("job").Status.Phase == corev1.PodSucceeded })
		if !slices.ContainsFunc(n.runtime.Log(), func(l string) bool { return strings.HasPrefix(l, "stop helper/0") }) {
			t.Errorf("the sidecar was not stopped: %v", n.runtime.Log())
		}
		n.end()
	})
}

func TestFailedInitContainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, programs(map[string]fakecri.Program{"init": {RunFor: time.Second, ExitCode: 1}}))
		withInit := func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{newContainer("init")} }
		n.start(newPod("never", withInit, func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }))
		n.start(newPod("always", withInit))
		settle(5 * time.Second)
		if p := n.pod("never"); p.Status.Phase != corev1.PodFailed {
			t.Errorf("never: %s", n.describe())
		}
		if p := n.pod("always"); p.Status.Phase != corev1.PodPending || p.Status.InitContainerStatuses[0].State.Waiting.Reason != "CrashLoopBackOff" {
			t.Errorf("always: %s", n.describe())
		}
		n.end()
	})
}

func TestGracePeriod(t *testing.T) {
	for _, c := range []struct {
		name  string
		p     fakecri.Program
		hook  *corev1.LifecycleHandler
		takes time.Duration
		log   string
	}{
		{"obeys", fakecri.Program{StopTakes: 3 * time.Second}, nil, 3 * time.Second, "exit app/0 0"},
		{"ignores", fakecri.Program{IgnoreTERM: true}, nil, 30 * time.Second, "exit app/0 137"},
		{"hook first", fakecri.Program{}, &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 10}}, 10 * time.Second, "stop app/0 20"},
		{"hook uses all", fakecri.Program{IgnoreTERM: true}, &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 60}}, 32 * time.Second, "stop app/0 2"},
		{"exec hook", fakecri.Program{}, &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"bye"}}}, 0, "exec app/0 bye"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, programs(map[string]fakecri.Program{"app": c.p}))
				n.start(newPod("web", func(p *corev1.Pod) {
					if c.hook != nil {
						p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: c.hook}
					}
				}))
				n.within(time.Second, "ready", func() bool { return isReady(n.pod("web")) })
				began := time.Now()
				if err := n.m.Stop("uid-web", ""); err != nil {
					t.Fatal(err)
				}
				n.within(time.Minute, "gone", func() bool { return n.pod("web") == nil })
				if took := time.Since(began).Truncate(time.Second); took != c.takes {
					t.Errorf("took %s; want %s", took, c.takes)
				}
				if !slices.Contains(n.runtime.Log(), c.log) {
					t.Errorf("want %q in %v", c.log, n.runtime.Log())
				}
				n.end()
			})
		})
	}
}

func TestStopWhileItStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := fakecri.New()
		r.Pull = func(ctx context.Context, _ string, _ *runtimeapi.AuthConfig) error { <-ctx.Done(); return ctx.Err() }
		n := newNode(t, r)
		n.start(newPod("web"))
		settle(time.Second)
		if err := n.m.Stop("uid-web", ""); err != nil {
			t.Fatal(err)
		}
		n.within(time.Second, "gone", func() bool { return n.pod("web") == nil })
		n.end()
	})
}

func TestActiveDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		n.start(newPod("web", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = new(int64(60)) }))
		settle(59 * time.Second)
		if p := n.pod("web"); p.Status.Phase != corev1.PodRunning {
			t.Errorf("before the deadline: %s", p.Status.Phase)
		}
		n.within(5*time.Second, "failed", func() bool { return n.pod("web").Status.Phase == corev1.PodFailed })
		if p := n.pod("web"); p.Status.Reason != "DeadlineExceeded" {
			t.Errorf("reason %q", p.Status.Reason)
		}
		n.end()
	})
}

func TestImagePullBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := fakecri.New()
		pulls, broken := 0, true
		r.Pull = func(context.Context, string, *runtimeapi.AuthConfig) error {
			pulls++
			if broken {
				return errors.New("no such image")
			}
			return nil
		}
		n := newNode(t, r)
		n.start(newPod("web"))
		settle(time.Second)
		w := n.pod("web").Status.ContainerStatuses[0].State.Waiting
		if w == nil || w.Reason != "ImagePullBackOff" && w.Reason != "ErrImagePull" || !strings.Contains(w.Message, "no such image") {
			t.Errorf("waiting: %+v", w)
		}
		// 10 s, 20 s, 40 s between the pulls of one image.
		settle(75 * time.Second)
		if pulls != 4 {
			t.Errorf("%d pulls in 76 s; want 4\n%s", pulls, n.describe())
		}
		broken = false
		n.within(90*time.Second, "ready", func() bool { return isReady(n.pod("web")) })
		n.end()
	})
}

func TestMissingConfigWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		n.start(newPod("web", func(p *corev1.Pod) {
			p.Spec.Containers[0].Env = []corev1.EnvVar{
				{Name: "GREETING", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
					LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}, Key: "greeting",
				}}},
				{Name: "TEXT", Value: "$(GREETING), $(POD) $$(POD) $(NOBODY)"},
				{Name: "POD", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
				{Name: "CPU", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu"}}},
				{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
			}
		}))
		settle(time.Minute)
		w := n.pod("web").Status.ContainerStatuses[0].State.Waiting
		if w == nil || w.Reason != "CreateContainerConfigError" || !strings.Contains(w.Message, `configmap "settings" not found`) {
			t.Fatalf("waiting: %+v", w)
		}
		n.objects.set(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "settings"}, Data: map[string]string{"greeting": "hello"}})
		n.m.ConfigChanged()
		n.within(time.Second, "ready", func() bool { return isReady(n.pod("web")) })
		got := map[string]string{}
		for _, e := range n.runtime.Configs()["app"].GetEnvs() {
			got[e.GetKey()] = string(e.GetValue())
		}
		if got["TEXT"] != "hello, $(POD) $(POD) $(NOBODY)" || got["POD"] != "web" || got["CPU"] != "4" || got["IP"] != n.pod("web").Status.PodIP {
			t.Errorf("environment: %v", got)
		}
		n.end()
	})
}

func TestUnrunnablePodSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		n.start(newPod("odd", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "claim", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{}}}}
		}))
		n.start(newPod("web"))
		n.within(time.Second, "the other pod is ready", func() bool { return isReady(n.pod("web")) })
		w := n.pod("odd").Status.ContainerStatuses[0].State.Waiting
		if w == nil || w.Reason != "CreateContainerConfigError" || !strings.Contains(w.Message, "spec.volumes[0] (claim)") {
			t.Errorf("waiting: %+v", w)
		}
		n.end()
	})
}

func TestSandboxFailureIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := fakecri.New(testImage)
		failures := 3
		r.SandboxErr = func(string) error {
			if failures--; failures >= 0 {
				return errors.New("no address left")
			}
			return nil
		}
		n := newNode(t, r)
		n.start(newPod("web"))
		settle(100 * time.Millisecond)
		if w := n.pod("web").Status.ContainerStatuses[0].State.Waiting; w == nil || w.Reason != "ContainerCreating" || !strings.Contains(w.Message, "no address left") {
			t.Errorf("waiting: %+v", w)
		}
		n.within(10*time.Second, "ready", func() bool { return isReady(n.pod("web")) })
		n.end()
	})
}

func TestLostEventsAreMadeUpFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		n.start(newPod("web"))
		n.within(time.Second, "ready", func() bool { return isReady(n.pod("web")) })
		n.runtime.DropEvents()
		n.runtime.Exit("web", "app", 1)
		n.within(2*relist, "restarted", func() bool {
			return n.pod("web").Status.ContainerStatuses[0].RestartCount == 1 && isReady(n.pod("web"))
		})
		n.end()
	})
}
