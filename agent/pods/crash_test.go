package pods

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/agent/pods/fakecri"
)

// A crash ends a manager at one step, as kill -9 does: the connection to the runtime is cut there,
// and the next manager finds the disk as it was then.
type crash struct {
	mu    sync.Mutex
	at    int // the step to end at, counted from 0
	seen  int
	where string // the step's name, once it has happened
	n     *node
	copy  string // the disk as the next manager finds it
}

func (c *crash) step(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.where != "" {
		return
	}
	if c.seen++; c.seen <= c.at {
		return
	}
	c.where = name
	c.n.client.Cut()
	// Other goroutines may be about to rename a file that is being copied.
	var err error
	for try := range 10 {
		c.copy = filepath.Join(c.n.t.TempDir(), fmt.Sprint(try))
		if err = os.CopyFS(c.copy, os.DirFS(c.n.dir)); err == nil {
			return
		}
	}
	c.n.t.Errorf("copy the disk: %v", err)
}

// name is the step at which the crash has happened; "" before.
func (c *crash) name() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.where
}

// TestKillAnywhere runs a pod's whole life and kills the manager at every step of it, in turn.
func TestKillAnywhere(t *testing.T) {
	steps := 0
	for at := 0; ; at++ {
		happened := false
		synctest.Test(t, func(t *testing.T) { happened = killAt(t, at) })
		if !happened {
			steps = at
			break
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("killed at %d steps", steps)
	if steps < 40 {
		t.Errorf("only %d steps were seen; the hooks are not called", steps)
	}
}

func killAt(t *testing.T, at int) bool {
	runtime := programs(map[string]fakecri.Program{"init": {RunFor: time.Second}, "app": {StopTakes: time.Second}})
	c := &crash{at: at}
	runtime.Call = func(name string) {
		// A kill between two questions is one before the next change.
		if !strings.Contains(name, "List") && !strings.Contains(name, "Status") {
			c.step(name)
		}
	}
	n := &node{t: t, runtime: runtime, objects: &objects{}, step: c.step}
	c.n = n
	n.open(t.TempDir())

	pod := newPod("web", func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{newContainer("init"), sidecar("helper")}
		p.Spec.Containers = append(p.Spec.Containers, newContainer("second"))
	})
	// carryOn starts the next manager once the first has been killed.
	over := false
	carryOn := func() {
		if c.name() != "" && !over {
			over = true
			n.end()
			n.step = nil
			n.open(c.copy)
		}
	}
	do := func(what string, f func() error) {
		t.Helper()
		err := f()
		carryOn()
		if err != nil || over {
			// The agent asks again after a restart; asking twice is harmless.
			if err := f(); err != nil {
				t.Fatalf("%s after a kill at step %d (%s): %v", what, at, c.name(), err)
			}
		}
	}
	await := func(what string, ok func() bool) {
		t.Helper()
		n.within(time.Minute, fmt.Sprintf("%s with a kill at step %d (%s)", what, at, c.name()), func() bool { carryOn(); return ok() })
	}

	do("start", func() error { return n.m.Start(pod) })
	await("ready", func() bool { return isReady(n.pod("web")) })
	runtime.Exit("web", "second", 1)
	await("restarted", func() bool {
		p := n.pod("web")
		if !isReady(p) {
			return false
		}
		for _, s := range p.Status.ContainerStatuses {
			if s.Name == "second" {
				return s.RestartCount == 1 && s.LastTerminationState.Terminated != nil
			}
		}
		return false
	})
	do("stop", func() error { return n.m.Stop(pod.UID, "test") })
	await("gone", func() bool { return n.pod("web") == nil })
	settle(5 * time.Second) // what a crash left behind is removed in the background
	carryOn()
	settle(5 * time.Second)

	for what, count := range runtime.Starts() {
		if count > 1 {
			t.Errorf("kill at step %d (%s): %s was started %d times", at, c.name(), what, count)
		}
	}
	for _, want := range []string{"uid-web/app/0", "uid-web/second/0", "uid-web/second/1"} {
		if runtime.Starts()[want] != 1 {
			t.Errorf("kill at step %d (%s): %s was not started", at, c.name(), want)
		}
	}
	if extra := runtime.Starts()["uid-web/app/1"]; extra > 0 {
		t.Errorf("kill at step %d (%s): a healthy container was started again: %v", at, c.name(), runtime.Log())
	}
	if s, cs := runtime.Count(); s+cs > 0 || n.pod("web") != nil {
		t.Errorf("kill at step %d (%s): left behind %d sandboxes, %d containers: %v", at, c.name(), s, cs, runtime.Log())
	}
	if left, err := os.ReadDir(filepath.Join(n.dir, "pods")); err != nil || len(left) > 0 {
		t.Errorf("kill at step %d (%s): left on disk %v, %v", at, c.name(), left, err)
	}
	n.end()
	return c.name() != ""
}

func TestPowerFailure(t *testing.T) {
	for _, forget := range []bool{false, true} {
		t.Run(fmt.Sprintf("forget=%v", forget), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, nil)
				n.start(newPod("web", func(p *corev1.Pod) { p.Spec.InitContainers = nil }))
				n.start(newPod("once", func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }))
				n.within(time.Second, "ready", func() bool { return isReady(n.pod("web")) && isReady(n.pod("once")) })
				n.runtime.Exit("web", "app", 1)
				n.within(time.Minute, "restarted", func() bool {
					return isReady(n.pod("web")) && n.pod("web").Status.ContainerStatuses[0].RestartCount == 1
				})
				n.end()
				n.runtime.PowerOff(forget)
				n.open(n.dir)
				n.within(time.Minute, "runs again", func() bool {
					p := n.pod("web")
					return isReady(p) && p.Status.ContainerStatuses[0].RestartCount == 2
				})
				n.within(time.Minute, "a pod that never restarts has failed", func() bool { return n.pod("once").Status.Phase == corev1.PodFailed })
				n.end()
			})
		})
	}
}

func TestCleanRestartTouchesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		n.hold = true // what runs is taken over unasked
		probed := func(p *corev1.Pod) {
			p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"ready"}}}, PeriodSeconds: 10}
		}
		n.start(newPod("web", probed))
		n.within(time.Second, "ready", func() bool { return isReady(n.pod("web")) })
		settle(time.Minute)
		before := n.pod("web")
		log := len(n.runtime.Log())
		n.restart()
		for range 100 {
			if !isReady(n.pod("web")) {
				t.Fatalf("not ready after a restart: %s", n.describe())
			}
			settle(10 * time.Millisecond)
		}
		// On disk, as everywhere in Kubernetes, times are whole seconds.
		since := before.Status.Conditions[4].LastTransitionTime.Rfc3339Copy()
		if after := n.pod("web"); after.Status.ContainerStatuses[0].ContainerID != before.Status.ContainerStatuses[0].ContainerID ||
			!after.Status.Conditions[4].LastTransitionTime.Equal(&since) {
			t.Errorf("before %+v, after %+v", before.Status, after.Status)
		}
		for _, l := range n.runtime.Log()[log:] {
			if l != "exec app/0 ready" {
				t.Errorf("the restart did: %s", l)
			}
		}
		n.end()
	})
}

func TestStrangersAreLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := fakecri.New(testImage)
		other := &node{t: t, runtime: r, objects: &objects{}}
		other.open(t.TempDir())
		other.start(newPod("mine"))
		other.within(time.Second, "ready", func() bool { return isReady(other.pod("mine")) })
		other.end()
		// Another node's manager shares the runtime; the sandbox carries another node's name.
		n := &node{t: t, runtime: r, objects: &objects{}}
		n.client = r.Connect()
		n.dir = t.TempDir()
		n.m = New(Config{Dir: n.dir, LogDir: n.dir, Runtime: n.client, Images: n.client.Images(), Lookup: n.objects, NodeName: "n2", Mounts: plain{}})
		n.run()
		settle(time.Minute)
		if s, c := r.Count(); s != 1 || c != 1 {
			t.Errorf("%d sandboxes, %d containers; the other's were touched", s, c)
		}
		n.end()
	})
}
