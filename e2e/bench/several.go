package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pleachdev/pleach/e2e/lab"
)

// nodes runs measured on that many nodes of a new laboratory, once all have accepted the first commit.
func (b *bench) nodes(count int, measured func(*flock) error) error {
	return b.laboratory(count, func(f *flock) error {
		if err := f.begin(); err != nil {
			return err
		}
		return measured(f)
	})
}

// laboratory runs work on that many nodes of a new laboratory, which are off.
func (b *bench) laboratory(count int, work func(*flock) error) (err error) {
	l, err := lab.Open("")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	options := b.options
	f := &flock{bench: &bench{options: options, task: b.task}, lab: l}
	defer func() { b.table.rows = append(b.table.rows, f.table.rows...) }()
	defer f.keepLogs()
	if err := f.setUp(count); err != nil {
		return err
	}
	return work(f)
}

// begin switches all nodes on, and waits until they have accepted the newest commit.
func (f *flock) begin() error {
	for _, m := range f.machines {
		if err := m.Start(f.ctx); err != nil {
			return err
		}
		if _, err := f.startAgentOn(m); err != nil {
			return err
		}
	}
	return f.follows(f.machines...)
}

// follows waits until machines have accepted the newest commit.
func (f *flock) follows(machines ...*member) error {
	for _, m := range machines {
		if err := f.await(m.Name+" follows", func(ctx context.Context) error {
			s, err := m.api.Status(ctx)
			if err == nil && s.Head.ID != f.repo.Head() {
				err = fmt.Errorf("its head is %.12s", s.Head.ID)
			}
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// three measures pushes to three nodes, and what they ask of the Git server.
func (b *bench) three() error {
	return b.nodes(3, func(f *flock) error {
		began := f.traffic()
		for _, n := range []int{3, 6} {
			m, err := f.pushes(fmt.Sprintf("push-%d", n), f.runs, n, nil)
			if err != nil {
				return err
			}
			p50, p95 := quantile(m.total, .5), quantile(m.total, .95)
			f.table.judge("three", fmt.Sprintf("git push → %d new pods on 3 nodes Ready, p50 of %d", n, len(m.total)), seconds(p50), "≤ 1.20 s", p50 <= 1200*time.Millisecond)
			f.table.judge("three", "the same, p95", seconds(p95), "≤ 2.50 s", p95 <= 2500*time.Millisecond)
			f.table.add("three", "processor time of the nodes per pod, p50", millis(quantile(m.cpu, .5)/time.Duration(n)))
			f.addSteps("three", m)
		}
		f.judgeTraffic("three", "3 nodes while all that was pushed and removed", began)
		return f.quiet("three")
	})
}

// traffic is what the machines have asked of the Git server so far.
type traffic struct {
	at            time.Time
	reads, pushes int
}

func (f *flock) traffic() traffic {
	t := traffic{at: time.Now()}
	// A read asks what refs there are, be it a poll on a connection that stays open or the beginning of
	// a fetch. A pack that is sent thereupon belongs to it.
	for _, r := range f.requests.all() {
		ours := slices.ContainsFunc(f.machines, func(m *member) bool { return m.Addr.String() == r.Client })
		if ours && (r.Action == "info/refs" || r.Action == "git-upload-pack" && r.Protocol != "") {
			t.reads++
		}
	}
	for _, p := range f.git.Pushes() {
		if p.Ref != branch {
			t.pushes++
		}
	}
	return t
}

func (f *flock) judgeTraffic(benchmark, what string, began traffic) {
	now := f.traffic()
	elapsed := now.at.Sub(began.at)
	reads, pushes := float64(now.reads-began.reads)/elapsed.Seconds(), float64(now.pushes-began.pushes)/elapsed.Minutes()
	f.table.judge(benchmark, what+": reads of the Git server a second", fmt.Sprintf("%.2f", reads), "≤ 1", reads <= 1)
	f.table.judge(benchmark, what+": pushes to it a minute", fmt.Sprintf("%.1f", pushes), "≤ 6", pushes <= 6)
}

// quiet measures the traffic of some minutes in which nothing happens.
func (f *flock) quiet(benchmark string) error {
	began := f.traffic()
	if err := f.pause(time.Duration(f.count(120, 20)) * time.Second); err != nil {
		return err
	}
	f.judgeTraffic(benchmark, fmt.Sprintf("%d nodes, nothing happens", len(f.machines)), began)
	return nil
}

// loss measures how soon the pods of a node that was switched off are Ready elsewhere. No node is lost
// twice, as one that comes and goes is waited for longer.
func (b *bench) loss() error {
	return b.nodes(5, func(f *flock) error {
		d := deployment{"web", 20, "1"}
		if err := f.deploy(d); err != nil {
			return err
		}
		var took []time.Duration
		kept, begun := 0, 0
		for _, m := range f.machines[1:f.count(5, 2)] {
			if err := f.settle(); err != nil {
				return err
			}
			pods, err := f.pods(f.ctx, d)
			if err != nil {
				return err
			}
			lost := 0
			before := map[string]bool{}
			for _, p := range pods {
				before[p.Name] = true
				if p.Spec.NodeName == m.Name {
					lost++
				}
			}
			watched := f.watch(f.ctx, d)
			began := time.Now()
			if err := m.PowerOff(); err != nil {
				watched.cancel()
				return err
			}
			known := map[string]time.Time{}
			for len(known) < lost {
				select {
				case s := <-watched.events:
					if _, ok := known[s.pod.Name]; !ok && !s.deleted && !before[s.pod.Name] && isReady(s.pod) {
						known[s.pod.Name] = s.at
					}
				case err := <-watched.failed:
					watched.cancel()
					return fmt.Errorf("%s was lost: %d of %d pods are ready elsewhere: %w", m.Name, len(known), lost, err)
				}
			}
			watched.cancel()
			for _, at := range known {
				took = append(took, at.Sub(began))
			}
			fmt.Fprintf(os.Stderr, "    %s with %d pods: %s\n", m.Name, lost, seconds(quantile(took[len(took)-lost:], 1)))
			pods, err = f.pods(f.ctx, d)
			if err != nil {
				return err
			}
			begun += len(before) - lost
			for _, p := range pods {
				if before[p.Name] && p.Spec.NodeName != m.Name {
					kept++
				}
			}
			if err := m.Start(f.ctx); err != nil {
				return err
			}
			if _, err := f.startAgentOn(m); err != nil {
				return err
			}
			if err := f.follows(m); err != nil {
				return err
			}
			if err := f.pause(time.Duration(f.count(45, 15)) * time.Second); err != nil { // until it counts again everywhere
				return err
			}
		}
		p50, p95 := quantile(took, .5), quantile(took, .95)
		f.table.judge("loss", fmt.Sprintf("one of 5 nodes killed → its pods Ready elsewhere, p50 of %d pods", len(took)), seconds(p50), "≤ 12.00 s", p50 <= 12*time.Second)
		f.table.judge("loss", "the same, p95", seconds(p95), "≤ 20.00 s", p95 <= 20*time.Second)
		f.table.judge("loss", "pods of other nodes that were replaced meanwhile", fmt.Sprint(begun-kept), "0", begun == kept)
		return nil
	})
}

// afterCommit is how long the agents are left alone with a commit.
const afterCommit = 5 * time.Second

// twenty measures a flock of 20: how soon all have accepted what one has, the traffic, and what an
// agent costs there.
func (b *bench) twenty() error {
	return b.nodes(20, func(f *flock) error {
		d := deployment{"web", 60, "1"}
		if err := f.deploy(d); err != nil {
			return err
		}
		// Until all that the start set off has ended: twenty nodes share the machine's processors.
		if err := f.pause(time.Duration(f.count(60, 30)) * time.Second); err != nil {
			return err
		}
		var spread, work []time.Duration
		for i := range f.count(10, 2) {
			f.repo.Write("apps/bench/note.yaml", fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: note\n  namespace: bench\ndata:\n  n: %q\n", fmt.Sprint(i)))
			f.commit(fmt.Sprint("note ", i))
			before, err := f.agents()
			if err != nil {
				return err
			}
			began := time.Now()
			f.repo.Push()
			if err := f.pause(afterCommit); err != nil { // asking the agents would take their time
				return err
			}
			if err := f.follows(f.machines...); err != nil {
				return err
			}
			after, err := f.agents()
			if err != nil {
				return err
			}
			spent := time.Duration(0)
			for i := range after {
				spent += after[i].CPU - before[i].CPU
			}
			work = append(work, spent)
			took, err := f.acceptedWithin(began)
			if err != nil {
				return err
			}
			spread = append(spread, took)
			fmt.Fprintf(os.Stderr, "    %s: %s\n", f.repo.Head()[:12], seconds(took))
		}
		p50, worst := quantile(spread, .5), quantile(spread, 1)
		f.table.judge("twenty", fmt.Sprintf("first of 20 nodes accepted a commit → the last: p50, worst of %d", len(spread)), seconds(p50)+", "+seconds(worst), "≤ 0.50 s", worst <= 500*time.Millisecond)
		if err := f.pause(time.Duration(f.count(60, 5)) * time.Second); err != nil {
			return err
		}
		before, err := f.agents()
		if err != nil {
			return err
		}
		began := time.Now()
		if err := f.quiet("twenty"); err != nil {
			return err
		}
		after, err := f.agents()
		if err != nil {
			return err
		}
		elapsed := time.Since(began)
		var pss []int64
		var share []float64
		for i := range after {
			pss = append(pss, after[i].PSS)
			share = append(share, float64(after[i].CPU-before[i].CPU)/float64(elapsed)*100)
		}
		all := 0.0
		for _, s := range share {
			all += s / 100
		}
		commit := (quantile(work, .5) - time.Duration(all*float64(afterCommit))) / time.Duration(len(share))
		f.table.add("twenty", "processor time of an agent for a commit, with its own and the others' documents, mean of 20", millis(commit))
		slices.Sort(pss)
		slices.Sort(share)
		last := len(pss) - 1
		f.table.judge("twenty", "agent in a flock of 20 with 60 pods, PSS: median, largest", megabytes(pss[last/2])+", "+megabytes(pss[last]), "≤ 70 MB", pss[last] <= 70e6)
		f.table.judge("twenty", "the same, of a core when nothing happens: median, largest", fmt.Sprintf("%.2f %%, %.2f %%", share[last/2], share[last]), "≤ 2 %", share[last] <= 2)
		return nil
	})
}

// acceptedWithin reads from the agents' logs how long after the first the last of them accepted the
// newest commit. The logs have milliseconds.
func (f *flock) acceptedWithin(since time.Time) (time.Duration, error) {
	var first, last time.Time
	head := f.repo.Head()
	for _, m := range f.machines {
		var at time.Time
		if err := lines(filepath.Join(f.lab.Dir, m.Name+"-agent.log"), func(line string) {
			v := fields(line)
			t, err := time.Parse(time.RFC3339Nano, v["time"])
			if err == nil && v["msg"] == "accepted" && at.IsZero() && !t.Before(since.Truncate(time.Millisecond)) && v["head"] == head {
				at = t
			}
		}); err != nil {
			return 0, err
		}
		if at.IsZero() {
			return 0, fmt.Errorf("the log of %s does not say when it accepted %.12s", m.Name, head)
		}
		if first.IsZero() || at.Before(first) {
			first = at
		}
		last = later(last, at)
	}
	return last.Sub(first), nil
}

// agents is what each machine's agent has used.
func (f *flock) agents() ([]lab.Usage, error) {
	var out []lab.Usage
	for _, m := range f.machines {
		u, err := lab.UsageOf(m.Agent().PID())
		if err != nil {
			return nil, err
		}
		out = append(out, u)
	}
	return out, nil
}
