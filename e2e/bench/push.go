package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/pleachdev/pleach/e2e/lab"
)

const pushed = 3 // replicas that each push to one node brings

// push measures from the start of "git push" to three new pods seen ready, with a hint.
func (f *flock) push() error {
	m, err := f.pushes("push", f.runs, pushed, nil)
	if err != nil {
		return err
	}
	total := m.total
	const what = "git push → 3 new pods Ready"
	p50, p95 := quantile(total, .5), quantile(total, .95)
	f.table.judge("push", what+", p50", seconds(p50), "≤ 1.00 s", p50 <= time.Second)
	f.table.judge("push", what+", p95", seconds(p95), "≤ 2.00 s", p95 <= 2*time.Second)
	f.table.add("push", what+", all "+fmt.Sprint(len(total)), fmt.Sprintf("%s to %s", seconds(slices.Min(total)), seconds(slices.Max(total))))
	f.table.add("push", "the server has the commit → 3 Ready, p50", seconds(quantile(m.held, .5)))
	f.table.add("push", "processor time of the node per pod, p50", millis(quantile(m.cpu, .5)/pushed))
	f.addSteps("push", m)
	return nil
}

func (f *flock) addSteps(benchmark string, m measured) {
	for _, s := range m.steps {
		f.table.add(benchmark, "· "+s.name, fmt.Sprintf("%4d ms, at %4d ms", s.took.Milliseconds(), s.at.Milliseconds()))
	}
}

// poll measures the same without hints.
func (f *flock) poll() error {
	if err := f.restartAgent("--listen", "", "--poll-interval", "1s"); err != nil {
		return err
	}
	// Pushes come at any moment between two polls.
	chance := rand.New(rand.NewPCG(1, 2))
	m, err := f.pushes("poll", f.count(f.runs, 2), pushed, func() time.Duration { return time.Duration(chance.Int64N(int64(time.Second))) })
	if err != nil {
		return err
	}
	f.table.add("poll", "git push → 3 new pods Ready without hint, polling each second, mean", seconds(mean(m.total)))
	return f.restartAgent()
}

// measured is what some pushes took.
type measured struct {
	total []time.Duration // from the start of "git push" until all pods were ready
	held  []time.Duration // the same since the server had the commit
	cpu   []time.Duration // of the nodes' processes meanwhile
	steps []step
}

// pushes pushes n deployments, each alone on the nodes.
func (f *flock) pushes(prefix string, n, replicas int, pause func() time.Duration) (m measured, err error) {
	var timelines []timeline
	for i := range n + 1 {
		d := deployment{fmt.Sprintf("%s-%d", prefix, i), replicas, "1"}
		f.write(d)
		f.commit("deploy " + d.name)
		if pause != nil {
			time.Sleep(pause())
		}
		watched := f.watch(f.ctx, d)
		before, err := f.cpu()
		if err != nil {
			return m, err
		}
		began := time.Now()
		f.repo.Push()
		back := time.Now()
		ready, err := watched.ready(replicas, d.version)
		if err != nil {
			watched.cancel()
			return m, err
		}
		last := latest(ready)
		watched.cancel()
		after, err := f.cpu()
		if err != nil {
			return m, err
		}
		server := f.git.Pushes()
		at := slices.IndexFunc(server, func(p lab.Push) bool { return p.After == f.repo.Head() })
		if err := f.settle(); err != nil {
			return m, err
		}
		if i > 0 { // the first one pulls the image, on each node
			t, err := f.timeline(d, began, server[at].Time)
			if err != nil {
				return m, err
			}
			t.reached(returned, back)
			t.reached(shown, last)
			timelines = append(timelines, t)
			m.total = append(m.total, last.Sub(began))
			m.held = append(m.held, last.Sub(server[at].Time))
			m.cpu = append(m.cpu, after-before)
			fmt.Fprintf(os.Stderr, "    %s: %s\n", d.name, seconds(last.Sub(began)))
		}
		if err := f.remove(d); err != nil {
			return m, err
		}
	}
	m.steps = summary(timelines)
	return m, nil
}

// cpu is what the processes of all nodes have used.
func (f *flock) cpu() (all time.Duration, err error) {
	for _, m := range f.machines {
		used, err := m.CPU()
		if err != nil {
			return 0, err
		}
		all += used
	}
	return all, nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
