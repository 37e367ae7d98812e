package node_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// rolling keeps every pod of the old version until a new one is there.
var rolling = []string{"strategy:", "  rollingUpdate:", "    maxSurge: 1", "    maxUnavailable: 0"}

// TestFailingVersions rolls out versions that do not come up: the old pods stay, and the rollout
// says why it goes no further.
func TestFailingVersions(t *testing.T) {
	t.Parallel()
	f := newFlock(t)
	spec := append([]string{"progressDeadlineSeconds: 4"}, rolling...)
	for _, c := range []struct{ name, tag, reason string }{
		{"crash", "crashing", "CrashLoopBackOff"},
		{"unready", "unready", "is not ready yet"},
	} {
		f.run(c.name, func(f *flock) {
			workload, file := "default/"+c.name, appDir+"/"+c.name+".yaml"
			f.repo.Write(file, web(c.name, "6.14.1", 2, spec...))
			f.deploy(c.name + ": deploy")
			f.waitReady(workload, 2)
			before := f.pids()
			f.repo.Write(file, web(c.name, c.tag, 2, spec...))
			f.during(bounds{workload: workload, available: 2, running: 3}, func() {
				bad := f.deploy(c.name + ": a version that does not come up")
				f.waitWaiting(workload, c.reason)
				f.wait("the deadline passes", func(ctx context.Context) error {
					w, err := f.workload(ctx, workload)
					if err != nil {
						return err
					}
					if got := condition(w, "Progressing"); got != "ProgressDeadlineExceeded" {
						return fmt.Errorf("Progressing says %s", got)
					}
					return nil
				})
				if out := f.kubectl("status"); !strings.Contains(out, c.reason) {
					f.t.Errorf("pleach status does not say %q:\n%s", c.reason, out)
				}
				f.repo.Revert(bad)
				f.repo.Push()
				f.waitReady(workload, 2)
			})
			f.samePIDs(before)
			w, err := f.workload(f.t.Context(), workload)
			must(f.t, err)
			if got := condition(w, "Progressing"); got != "NewReplicaSetAvailable" {
				f.t.Errorf("after the revert Progressing says %s", got)
			}
		})
	}
}

// TestWorkloads goes through the kinds of workloads and strategies.
func TestWorkloads(t *testing.T) {
	t.Parallel()
	f := newFlock(t)
	file := func(name string) string { return appDir + "/" + name + ".yaml" }
	recreate := []string{"strategy:", "  type: Recreate"}
	f.repo.Write(file("scaled"), web("scaled", "6.14.1", 1))
	f.repo.Write(file("recreated"), web("recreated", "6.14.1", 2, recreate...))
	f.repo.Write(file("paused"), web("paused", "6.14.1", 1))
	daemon := strings.NewReplacer("kind: Deployment", "kind: DaemonSet", "  replicas: 1\n", "").Replace(web("daemon", "6.14.1", 1))
	f.repo.Write(file("daemon"), daemon)
	f.repo.Write(file("bare"), bare)
	f.deploy("workloads of every kind")
	for name, n := range map[string]int{"scaled": 1, "recreated": 2, "paused": 1, "daemon": 1, "bare": 1} {
		f.waitReady("default/"+name, n)
	}

	f.run("scale up and down", func(f *flock) {
		before := f.pids()
		for _, n := range []int{3, 1} {
			f.repo.Write(file("scaled"), web("scaled", "6.14.1", n))
			f.deploy(fmt.Sprintf("scaled: %d replicas", n))
			f.waitReady("default/scaled", n)
		}
		f.samePIDs(before)
	})
	f.run("Recreate", func(f *flock) {
		f.repo.Write(file("recreated"), web("recreated", "6.14.2", 2, recreate...))
		f.alongside("old and new pods never run side by side", func(ctx context.Context) error {
			pods, err := f.listPods(ctx, "default/recreated")
			if err != nil {
				return err
			}
			images := map[string]int{}
			for _, p := range pods {
				if s := p.Status.ContainerStatuses; len(s) > 0 && s[0].State.Running != nil {
					images[s[0].Image]++
				}
			}
			if len(images) > 1 {
				return fmt.Errorf("pods run with %v", images)
			}
			return nil
		}, func() {
			f.deploy("recreated: 6.14.2")
			f.waitReady("default/recreated", 2)
		})
	})
	f.run("paused", func(f *flock) {
		f.repo.Write(file("paused"), web("paused", "6.14.2", 1, "paused: true"))
		f.deploy("paused: 6.14.2, but not now")
		f.waitWaiting("default/paused", "paused")
		w, err := f.workload(f.t.Context(), "default/paused")
		must(f.t, err)
		if got := condition(w, "Progressing"); got != "DeploymentPaused" || w.Updated != 0 || w.Available != 1 {
			f.t.Errorf("Progressing says %s, with %d updated and %d available pods", got, w.Updated, w.Available)
		}
		f.repo.Write(file("paused"), web("paused", "6.14.2", 1))
		f.deploy("paused: now")
		f.waitReady("default/paused", 1)
	})
	f.run("DaemonSet", func(f *flock) {
		f.repo.Write(file("daemon"), strings.ReplaceAll(daemon, "6.14.1", "6.14.2"))
		f.deploy("daemon: 6.14.2")
		f.waitReady("default/daemon", 1)
		if got := f.versions("default/daemon"); got["6.14.2"] != 1 {
			f.t.Errorf("it runs %v", got)
		}
	})
	f.run("a pod with the host's network", func(f *flock) {
		pod := f.pods("default/bare")[0]
		if pod.Status.PodIP != f.node.Addr.String() || pod.Name != "bare" {
			f.t.Errorf("pod %s has address %s, want bare with the node's, %s", pod.Name, pod.Status.PodIP, f.node.Addr)
		}
		f.wait("it is reached from other machines", func(ctx context.Context) error {
			conn, err := f.lab.Underlay().DialContext(ctx, "tcp", f.node.Addr.String()+":9898")
			if err == nil {
				err = conn.Close()
			}
			return err
		})
	})
	f.run("traffic", func(f *flock) {
		pods := f.pods("default/recreated")
		for what, address := range map[string]string{
			"another pod": pods[1].Status.PodIP + ":9898/healthz", "itself": pods[0].Status.PodIP + ":9898/healthz",
			"the node": f.node.Addr.String() + ":9898/healthz", "another machine": f.registry.NodeAddress() + "/v2/",
		} {
			if out, err := f.try("exec", pods[0].Name, "--", "podcli", "check", "http", address); err != nil {
				f.t.Errorf("from a pod to %s: %s%v", what, out, err)
			}
		}
	})
	f.run("removed", func(f *flock) {
		f.repo.Remove(file("scaled"), file("recreated"), file("paused"), file("daemon"), file("bare"))
		f.repo.Write(file("last"), web("last", "6.14.1", 1))
		f.deploy("all removed but one that is new")
		f.waitReady("default/last", 1)
		f.wait("the others are gone with their addresses", func(ctx context.Context) error {
			pods, err := f.listPods(ctx, "")
			if err != nil {
				return err
			}
			if n := len(f.pids()); len(pods) != 1 || n != 2 {
				return fmt.Errorf("%d pods, %d containers and sandboxes are there", len(pods), n)
			}
			return f.leases()
		})
	})
}

const bare = `apiVersion: v1
kind: Pod
metadata:
  name: bare
  namespace: default
  labels:
    app: bare
spec:
  hostNetwork: true
  containers:
  - name: web
    image: stefanprodan/podinfo:6.14.1
`
