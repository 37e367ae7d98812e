package main

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pleachdev/pleach/e2e/lab"
	"github.com/pleachdev/pleach/reconcile"
)

// A timeline says when one push had come how far. Where three pods do the same it is the last one's
// time that counts.
type timeline struct {
	began time.Time
	at    map[string]time.Time
}

// Milestones of a push. Each is also the name of the step that ends there.
const (
	held      = "the server has the commit"
	returned  = "git push returns"
	asked     = "hint arrives, agent asks for the ref"
	fetched   = "ref and commit fetched"
	accepted  = "commit verified, rendered, accepted"
	everybody = "accepted by all nodes"
	decided   = "decided; pods on disk"
	requested = "containerd asked for sandboxes"
	connected = "network set up, shim started"
	sandboxed = "sandboxes run"
	created   = "containers created"
	started   = "containers started"
	shown     = "Ready seen through the API"
)

// milestones in their order.
var milestones = []string{
	held, returned, asked, fetched, accepted, everybody, decided, requested, connected, sandboxed, created, started, shown,
}

// reached notes a milestone; of several times the last one stays.
func (t timeline) reached(milestone string, at time.Time) {
	if at.After(t.at[milestone]) {
		t.at[milestone] = at
	}
}

// timeline reads how a push went from the Git server and the logs of agents and their containerds.
func (f *flock) timeline(d deployment, began, there time.Time) (timeline, error) {
	t := timeline{began, map[string]time.Time{held: there}}
	for _, r := range f.requests.all() {
		at := slices.IndexFunc(f.machines, func(m *member) bool { return m.Addr.String() == r.Client })
		if at < 0 || r.Began.Before(there) {
			continue
		}
		// The first fetch is that of the branch; one of the status branch may follow.
		switch {
		case t.at[asked].IsZero():
			t.reached(asked, r.Began)
		case t.at[fetched].IsZero() && r.Action == "git-upload-pack" && r.Protocol == "":
			t.reached(fetched, r.Ended)
		}
	}
	for _, m := range f.machines {
		known := false
		if err := f.agentLog(m, there, func(at time.Time, v map[string]string) {
			switch {
			case v["msg"] == "accepted" && !known:
				known = true
				if first := t.at[accepted]; first.IsZero() || at.Before(first) {
					t.at[accepted] = at
				}
				if len(f.machines) > 1 {
					t.reached(everybody, at)
				}
			case startOf(d, v):
				t.reached(decided, at)
			}
		}); err != nil {
			return t, err
		}
		if err := m.containerdTimes(t, d); err != nil {
			return t, err
		}
	}
	return t, nil
}

// startOf tells whether a line of the agent's log is the decision to start a pod of d.
func startOf(d deployment, v map[string]string) bool {
	return v["msg"] == "acting" && v["action"] == string(reconcile.Start) && strings.HasPrefix(v["pod"], "bench/"+d.name+"-")
}

// firstStart is when the node's agent first decided to start a pod of d.
func (f *flock) firstStart(d deployment, since time.Time) (first time.Time, err error) {
	err = f.agentLog(f.machines[0], since, func(at time.Time, v map[string]string) {
		if first.IsZero() && startOf(d, v) {
			first = at
		}
	})
	return first, err
}

// agentLog calls visit for the log lines of a machine's agent from a time on.
func (f *flock) agentLog(m *member, since time.Time, visit func(at time.Time, fields map[string]string)) error {
	return lines(filepath.Join(f.lab.Dir, m.Name+"-agent.log"), func(line string) {
		v := fields(line)
		// It has milliseconds only.
		if at, err := time.Parse(time.RFC3339Nano, v["time"]); err == nil && !at.Before(since.Truncate(time.Millisecond)) {
			visit(at, v)
		}
	})
}

// containerdTimes reads milestones from containerd's log. It names a pod when it is asked for a
// sandbox, and sandboxes and containers by their ids from then on.
func (m *member) containerdTimes(t timeline, d deployment) error {
	var sandboxes, containers []string
	has := func(list []string, text string) bool {
		return slices.ContainsFunc(list, func(id string) bool { return strings.Contains(text, id) })
	}
	return lines(filepath.Join(m.dir(), "logs", "containerd.log"), func(line string) {
		v := fields(line)
		at, err := time.Parse(time.RFC3339Nano, strings.Trim(v["time"], `"`))
		if err != nil || at.Before(t.began) {
			return
		}
		text := v["msg"]
		// Quotes within the message are escaped.
		ofPod := strings.Contains(text, "name:\\\""+d.name+"-")
		switch {
		case ofPod && strings.Contains(text, "RunPodSandbox for") && strings.Contains(text, "returns sandbox id"):
			sandboxes = append(sandboxes, lastQuoted(text))
			t.reached(sandboxed, at)
		case ofPod && strings.Contains(text, "RunPodSandbox for"):
			t.reached(requested, at)
		case strings.Contains(text, "connecting to shim") && len(containers) == 0:
			t.reached(connected, at)
		case strings.Contains(text, "CreateContainer within sandbox") && strings.Contains(text, "returns container id") && has(sandboxes, text):
			containers = append(containers, lastQuoted(text))
			t.reached(created, at)
		case strings.Contains(text, "StartContainer for") && strings.Contains(text, "returns successfully") && has(containers, text):
			t.reached(started, at)
		}
	})
}

// lastQuoted is the last quoted word of a log message, whose quotes are escaped.
func lastQuoted(text string) string {
	parts := strings.Split(strings.TrimSuffix(text, `"`), `\"`)
	if len(parts) < 3 {
		return text
	}
	return parts[len(parts)-2]
}

// step is a milestone over many pushes: the medians.
type step struct {
	name     string
	at, took time.Duration
}

// summary takes the median of each step: how long after the push's start it had come so far, and how
// long after what came before.
func summary(timelines []timeline) []step {
	var steps []step
	var before time.Duration
	for _, name := range milestones {
		var at []time.Duration
		for _, t := range timelines {
			if when, ok := t.at[name]; ok {
				at = append(at, when.Sub(t.began))
			}
		}
		if len(at) == 0 {
			continue
		}
		s := step{name: name, at: quantile(at, .5)}
		s.took, before = s.at-before, s.at
		steps = append(steps, s)
	}
	return steps
}

// requests collects what the Git server is asked.
type requests struct {
	mu   sync.Mutex
	list []lab.Request
}

func (r *requests) add(one lab.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, one)
}

// all returns the requests by their beginning.
func (r *requests) all() []lab.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(slices.Values(r.list), func(a, b lab.Request) int { return a.Began.Compare(b.Began) })
}

// lines calls f for each line of a file.
func lines(path string, f func(line string)) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	scanner := bufio.NewScanner(file)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		f(scanner.Text())
	}
	return scanner.Err()
}
