package node_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// seed is a new one for every run, or that of PLEACH_SEED.
func seed(t *testing.T) *rand.Rand {
	t.Helper()
	n := uint64(time.Now().UnixNano())
	if text := os.Getenv("PLEACH_SEED"); text != "" {
		var err error
		n, err = strconv.ParseUint(text, 10, 64)
		must(t, err)
	}
	t.Logf("PLEACH_SEED=%d repeats these random choices", n)
	return rand.New(rand.NewPCG(n, 0))
}

// register remembers which container every pod has had, as the kernel shows them.
type register struct {
	containers map[string]string  // pod's uid → the container that is not the sandbox
	processes  map[string]process // by container
}

// note looks at the node and returns what contradicts what was seen before: a pod with another
// container, or a container with another process.
func (r *register) note(seen map[string]process) error {
	var errs []error
	for id, p := range seen {
		if p.name != "podinfo" {
			continue // a sandbox, or a container that is just being made
		}
		if had := r.containers[p.pod]; had != "" && had != id {
			errs = append(errs, fmt.Errorf("pod %s had container %.12s and has %.12s", p.pod, had, id))
		}
		if had, ok := r.processes[id]; ok && had != p {
			errs = append(errs, fmt.Errorf("container %.12s had process %v and has %v", id, had, p))
		}
		r.containers[p.pod], r.processes[id] = id, p
	}
	return errors.Join(errs...)
}

// TestKill kills the agent, containerd or both at random moments of rollouts. No container is started
// twice, who is not rolled out answers all the time, and every rollout ends.
func TestKill(t *testing.T) {
	t.Parallel()
	f := newFlock(t)
	random := seed(t)
	const bystander, rolling, kills = "default/bystander", "default/rolling", 50
	tags := []string{"6.14.1", "6.14.2", "6.14.3"}
	rollouts := 0
	write := func() {
		f.repo.Write(appDir+"/rolling.yaml", web("rolling", tags[rollouts%len(tags)], 3,
			"strategy:", "  rollingUpdate:", "    maxSurge: 1", "    maxUnavailable: "+strconv.Itoa(rollouts%2)))
	}
	f.repo.Write(appDir+"/bystander.yaml", web("bystander", tags[0], 2))
	write()
	f.deploy("two workloads")
	f.waitReady(bystander, 2)
	f.waitReady(rolling, 3)
	bystanders, before := f.pods(bystander), f.pids()
	seen := register{map[string]string{}, map[string]process{}}
	killed := map[string]int{}

	f.alongside("the bystanders answer", func(ctx context.Context) error {
		for _, p := range bystanders {
			if _, err := f.get(ctx, "http://"+p.Status.PodIP+":9898/healthz"); err != nil {
				return err
			}
		}
		return nil
	}, func() {
		for i := range kills {
			// A rollout is under way at every kill: the next one begins when the last has ended.
			if i%10 == 0 {
				f.wait("the rollout ends in spite of the kills", func(ctx context.Context) error { return f.ended(ctx, rolling, 3) })
			}
			if f.ended(t.Context(), rolling, 3) == nil {
				rollouts++
				write()
				f.repo.Commit(fmt.Sprintf("rollout %d", rollouts))
				f.repo.Push()
			}
			time.Sleep(time.Duration(random.Int64N(int64(2 * time.Second))))
			who := []string{"agent", "agent", "agent", "containerd", "both"}[random.IntN(5)]
			if who != "agent" {
				// It may be away: killed just before, and not started again yet.
				if _, err := f.node.KillContainerd(); err == nil {
					killed["containerd"]++
				}
			}
			if who != "containerd" {
				must(t, f.node.KillAgent())
				killed["agent"]++
				f.launchAgent()
			}
			if err := seen.note(f.processes()); err != nil {
				t.Errorf("after kill %d, of %s: %v", i+1, who, err)
			}
		}
		f.wait("the last rollout ends", func(ctx context.Context) error { return f.ended(ctx, rolling, 3) })
		f.waitReady(bystander, 2)
	})
	if err := seen.note(f.processes()); err != nil {
		t.Error(err)
	}
	t.Logf("%d rollouts, %d pods were seen, killed were %v", rollouts, len(seen.containers), killed)
	if got := f.versions(rolling); got[tags[rollouts%len(tags)]] != 3 {
		t.Errorf("after rollout %d the pods are of versions %v", rollouts, got)
	}
	now := f.pids()
	for _, p := range bystanders {
		id := strings.TrimPrefix(p.Status.ContainerStatuses[0].ContainerID, "containerd://")
		if now[id] == 0 || now[id] != before[id] {
			t.Errorf("%s: its container %.12s had process %d and has %d", p.Name, id, before[id], now[id])
		}
	}
	for _, p := range f.pods("") {
		if s := p.Status.ContainerStatuses[0]; s.RestartCount != 0 {
			t.Errorf("%s counts %d restarts: %+v", p.Name, s.RestartCount, s)
		}
	}
	f.checkStatusCommits()
	f.wait("addresses of the pods alone are leased", func(context.Context) error { return f.leases() })
}

// ended says what a workload lacks to be as the last pushed commit wants it.
func (f *flock) ended(ctx context.Context, name string, replicas int) error {
	status, err := f.api.Status(ctx)
	if err != nil {
		return err // the agent is just being started
	}
	if status.Head.ID != f.repo.Head() {
		return fmt.Errorf("the node is at commit %s", status.Head.ID)
	}
	return f.complete(ctx, name, replicas)
}
