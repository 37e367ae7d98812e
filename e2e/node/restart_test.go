package node_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// runs is what may not change while a pod goes on: container ids and restart counts.
type runs struct {
	name       string
	containers string
}

// runsOf describes every pod, by uid.
func runsOf(pods []*corev1.Pod) map[string]runs {
	all := map[string]runs{}
	for _, p := range pods {
		r := runs{name: p.Name}
		for _, c := range p.Status.ContainerStatuses {
			r.containers += fmt.Sprintf("%s %s restarts=%d;", c.Name, c.ContainerID, c.RestartCount)
		}
		all[string(p.UID)] = r
	}
	return all
}

// TestAgentRestart replaces the agent under 50 pods. Each is found again and none notices.
func TestAgentRestart(t *testing.T) {
	t.Parallel()
	f := newFlock(t)
	const name, replicas = "default/many", 50
	f.repo.Write(appDir+"/many.yaml", web("many", "6.14.1", replicas))
	f.deploy("many pods")
	f.waitReady(name, replicas)
	before, pids := runsOf(f.pods(name)), f.pids()
	if len(pids) != 2*replicas {
		t.Fatalf("%d containers and sandboxes run, want %d", len(pids), 2*replicas)
	}
	must(t, f.leases())

	for _, end := range []struct {
		how string
		do  func() error
	}{
		{"killed", f.node.KillAgent},
		{"stopped", f.stopAgent},
	} {
		must(t, end.do())
		began := time.Now()
		f.startAgent()
		f.wait("all pods are ready again", func(ctx context.Context) error { return f.complete(ctx, name, replicas) })
		t.Logf("%s, and started anew: all pods known and ready after %.2f s", end.how, time.Since(began).Seconds())
		time.Sleep(3 * time.Second) // what the new agent does wrong, it does soon
		f.samePIDs(pids)
		after := runsOf(f.pods(name))
		for uid, was := range before {
			if after[uid] != was {
				t.Errorf("%s: before %v, and after the agent was %s %v", was.name, was.containers, end.how, after[uid].containers)
			}
		}
		if len(after) != replicas {
			t.Errorf("%d pods are there after the agent was %s, want %d", len(after), end.how, replicas)
		}
		must(t, f.leases())
	}

	f.repo.Remove(appDir + "/many.yaml")
	f.deploy("no pods")
	f.wait("nothing is left", func(ctx context.Context) error {
		if n := len(f.pids()); n > 0 {
			return fmt.Errorf("%d containers and sandboxes run", n)
		}
		return f.leases()
	})
}

// stopAgent asks the agent to end and waits for it.
func (f *flock) stopAgent() error {
	agent := f.node.Agent()
	if err := agent.Signal(15); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	return agent.Wait(ctx)
}

// TestPowerOff pulls the plug of the whole node and switches it on again: the same pods run again, and
// a rollout that was under way goes on.
func TestPowerOff(t *testing.T) {
	t.Parallel()
	f := newFlock(t)
	f.repo.Write(appDir+"/web.yaml", web("web", "6.14.1", 3))
	f.repo.Write(appDir+"/bare.yaml", bare)
	f.repo.Write(appDir+"/once.yaml", once)
	f.deploy("pods of several kinds")
	running := map[string]int{"default/web": 3, "default/bare": 1}
	for name, n := range running {
		f.waitReady(name, n)
	}
	f.wait("the pod that runs once has ended", func(context.Context) error {
		if phase := f.pods("default/once")[0].Status.Phase; phase != corev1.PodSucceeded {
			return fmt.Errorf("its phase is %s", phase)
		}
		return nil
	})
	before := map[string]*corev1.Pod{}
	for _, p := range f.pods("") {
		before[string(p.UID)] = p
	}
	if len(before) != 5 {
		t.Fatalf("%d pods are there, want 5", len(before))
	}

	for times := int32(1); times <= 2; times++ {
		must(t, f.node.PowerOff())
		must(t, f.node.Start(t.Context()))
		f.startAgent()
		f.wait("everything runs again", func(ctx context.Context) error {
			for name, n := range running {
				if err := f.complete(ctx, name, n); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				pods, err := f.listPods(ctx, name)
				if err != nil {
					return err
				}
				for _, p := range pods {
					if _, err := f.get(ctx, "http://"+p.Status.PodIP+":9898/version"); err != nil {
						return err
					}
				}
			}
			return nil
		})
		for _, p := range f.pods("") {
			was := before[string(p.UID)]
			if was == nil {
				t.Errorf("pod %s (%s) is another one than before", p.Name, p.UID)
				continue
			}
			delete(before, string(p.UID))
			want := times // as the kubelet counts a reboot
			if p.Name == "once" {
				want = 0
				if p.Status.Phase != corev1.PodSucceeded {
					t.Errorf("pod once had succeeded and is %s", p.Status.Phase)
				}
			}
			if got := p.Status.ContainerStatuses[0].RestartCount; got != want {
				t.Errorf("after power-off %d pod %s counts %d restarts, want %d: %+v", times, p.Name, got, want, p.Status.ContainerStatuses[0])
			}
			before[string(p.UID)] = p
		}
		if len(before) != 5 {
			t.Errorf("of 5 pods %d are there again", len(before))
		}
		if n := len(f.pids()); n != 2*4 {
			t.Errorf("%d containers and sandboxes run, want those of 4 pods", n)
		}
		f.wait("addresses of the pods alone are leased", func(context.Context) error { return f.leases() })
	}

	random := seed(t)
	for i := range 4 {
		tag := []string{"6.14.2", "6.14.3"}[i%2]
		f.repo.Write(appDir+"/web.yaml", web("web", tag, 3))
		f.deploy("web: " + tag)
		time.Sleep(time.Duration(random.Int64N(int64(2 * time.Second))))
		must(t, f.node.PowerOff())
		must(t, f.node.Start(t.Context()))
		f.startAgent()
		f.waitReady("default/web", 3)
		if got := f.versions("default/web"); got[tag] != 3 {
			t.Errorf("after a power-off in the rollout of %s the pods are of versions %v", tag, got)
		}
	}
	f.waitReady("default/bare", 1)
	f.wait("addresses of the pods alone are leased", func(context.Context) error { return f.leases() })
}

const once = `apiVersion: v1
kind: Pod
metadata:
  name: once
  namespace: default
  labels:
    app: once
spec:
  restartPolicy: Never
  hostNetwork: true
  containers:
  - name: box
    image: box:1
    command: [sh, -c, echo done]
`
