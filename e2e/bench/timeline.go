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

// milestones of a push, in their order. Each is also the name of the step that ends there.
var milestones = []string{
	"the server has the commit",
	"git push returns",
	"hint arrives, agent asks for the ref",
	"ref and commit fetched",
	"commit verified, rendered, accepted",
	"decided; 3 pods on disk",
	"containerd asked for 3 sandboxes",
	"network set up, shim started",
	"sandboxes run",
	"containers created",
	"containers started",
	"Ready seen through the API",
}

// reached notes a milestone; of several times the last one stays.
func (t timeline) reached(milestone string, at time.Time) {
	if at.After(t.at[milestone]) {
		t.at[milestone] = at
	}
}

// timeline reads how a push went from the Git server, the agent's log and containerd's.
func (f *flock) timeline(d deployment, began time.Time) (timeline, error) {
	t := timeline{began, map[string]time.Time{}}
	for _, r := range f.requests.all() {
		if r.Client != f.node.Addr.String() || r.Began.Before(began) {
			continue
		}
		// The first fetch is that of the branch; one of the status branch may follow.
		_, asked := t.at[milestones[2]]
		_, fetched := t.at[milestones[3]]
		switch {
		case !asked:
			t.reached(milestones[2], r.Began)
		case !fetched && r.Action == "git-upload-pack" && r.Protocol == "":
			t.reached(milestones[3], r.Ended)
		}
	}
	if err := f.agentLog(began, func(at time.Time, v map[string]string) {
		switch {
		case v["msg"] == "accepted" && t.at[milestones[4]].IsZero():
			t.reached(milestones[4], at)
		case startOf(d, v):
			t.reached(milestones[5], at)
		}
	}); err != nil {
		return t, err
	}
	return t, f.containerdTimes(t, d)
}

// startOf tells whether a line of the agent's log is the decision to start a pod of d.
func startOf(d deployment, v map[string]string) bool {
	return v["msg"] == "acting" && v["action"] == string(reconcile.Start) && strings.HasPrefix(v["pod"], "bench/"+d.name+"-")
}

// firstStart is when the agent first decided to start a pod of d.
func (f *flock) firstStart(d deployment, since time.Time) (first time.Time, err error) {
	err = f.agentLog(since, func(at time.Time, v map[string]string) {
		if first.IsZero() && startOf(d, v) {
			first = at
		}
	})
	return first, err
}

// agentLog calls visit for the agent's log lines of a time and later.
func (f *flock) agentLog(since time.Time, visit func(at time.Time, fields map[string]string)) error {
	return lines(filepath.Join(f.lab.Dir, nodeName+"-agent.log"), func(line string) {
		v := fields(line)
		// It has milliseconds only.
		if at, err := time.Parse(time.RFC3339Nano, v["time"]); err == nil && !at.Before(since.Truncate(time.Millisecond)) {
			visit(at, v)
		}
	})
}

// containerdTimes reads milestones from containerd's log. It names a pod when it is asked for a
// sandbox, and sandboxes and containers by their ids from then on.
func (f *flock) containerdTimes(t timeline, d deployment) error {
	var sandboxes, containers []string
	has := func(list []string, text string) bool {
		return slices.ContainsFunc(list, func(id string) bool { return strings.Contains(text, id) })
	}
	return lines(filepath.Join(f.agentDir(), "logs", "containerd.log"), func(line string) {
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
			t.reached(milestones[8], at)
		case ofPod && strings.Contains(text, "RunPodSandbox for"):
			t.reached(milestones[6], at)
		case strings.Contains(text, "connecting to shim") && len(containers) == 0:
			t.reached(milestones[7], at)
		case strings.Contains(text, "CreateContainer within sandbox") && strings.Contains(text, "returns container id") && has(sandboxes, text):
			containers = append(containers, lastQuoted(text))
			t.reached(milestones[9], at)
		case strings.Contains(text, "StartContainer for") && strings.Contains(text, "returns successfully") && has(containers, text):
			t.reached(milestones[10], at)
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

func (r *requests) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = nil
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
