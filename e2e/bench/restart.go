package main

import (
	"context"
	"fmt"
	"time"
)

// restart measures how soon a new agent knows all pods again. None of them may notice.
func (f *flock) restart() error {
	n := f.count(50, 5)
	d := deployment{"many", n, "1"}
	if err := f.deploy(d); err != nil {
		return err
	}
	before, err := f.pods(f.ctx, d)
	if err != nil {
		return err
	}
	was := map[string]string{}
	for _, p := range before {
		was[p.Name] = p.Status.ContainerStatuses[0].ContainerID
	}
	var took []time.Duration
	for range f.count(5, 1) {
		if err := f.settle(); err != nil {
			return err
		}
		if err := f.node.KillAgent(); err != nil {
			return err
		}
		began := time.Now()
		if _, err := f.startAgent(); err != nil {
			return err
		}
		if err := f.await("re-adopt the pods", func(ctx context.Context) error { return f.adopted(ctx, d, n, began) }); err != nil {
			return err
		}
		took = append(took, time.Since(began))
	}
	restarted := 0
	after, err := f.pods(f.ctx, d)
	if err != nil {
		return err
	}
	for _, p := range after {
		if c := p.Status.ContainerStatuses[0]; c.RestartCount > 0 || was[p.Name] != c.ContainerID {
			restarted++
		}
	}
	p50 := quantile(took, .5)
	f.table.judge("restart", fmt.Sprintf("agent killed and started anew → its API shows all %d pods Ready, p50", n), seconds(p50), "≤ 2.00 s", p50 <= 2*time.Second)
	f.table.judge("restart", "containers restarted meanwhile", fmt.Sprint(restarted), "0", restarted == 0)
	return f.remove(d)
}

// adopted tells whether the agent that was started at a time shows all pods ready and has looked at
// each: what it shows at first is what the one before wrote down.
func (f *flock) adopted(ctx context.Context, d deployment, n int, began time.Time) error {
	pods, err := f.pods(ctx, d)
	if err != nil {
		return err
	}
	ready, looked := 0, 0
	for _, p := range pods {
		if isReady(p) {
			ready++
		}
	}
	if err := f.agentLog(f.machines[0], began, func(_ time.Time, v map[string]string) {
		if v["msg"] == `"observed for the first time"` {
			looked++
		}
	}); err != nil {
		return err
	}
	if ready < n || looked < n {
		return fmt.Errorf("%d of %d pods are ready, %d were looked at", ready, n, looked)
	}
	return nil
}
