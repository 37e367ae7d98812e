package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/pleachdev/pleach/agent/api"
	"github.com/pleachdev/pleach/e2e/lab"
	"github.com/pleachdev/pleach/reconcile"
)

// flock is nodes with what they follow. What is said of the node is said of the first.
type flock struct {
	*bench

	lab          *lab.Lab
	git          *lab.GitServer
	machines     []*member
	node         *lab.Node
	repo         *lab.Repo
	api          *api.Client
	introduction string
	image        string
	requests     requests
}

const (
	nodeName = "bench"
	port     = "7433"
	branch   = "refs/heads/main"
	patience = 2 * time.Minute // with anything
)

// member is one node of the flock.
type member struct {
	*lab.Node
	api *api.Client
}

// dir is the agent's directory as seen from outside of the machine.
func (m *member) dir() string { return filepath.Join(m.Dir, "pleach") }

// agentDir is the agent's directory as seen from outside of the node.
func (f *flock) agentDir() string { return filepath.Join(f.node.Dir, "pleach") }

// setUp makes the servers, the image, the config repository and nodes that are off.
func (f *flock) setUp(count int) error {
	program, err := filepath.Abs(f.pleach)
	if err != nil {
		return err
	}
	if _, err := os.Stat(program); err != nil {
		return fmt.Errorf("%w: make build makes it", err)
	}
	if f.pleach, err = f.lab.Keep(program, "pleach"); err != nil {
		return err
	}
	if _, err := f.lab.NewUnderlay(); err != nil {
		return err
	}
	if f.git, err = f.lab.GitServer(); err != nil {
		return err
	}
	if err := f.git.Create(f.ctx, "flock"); err != nil {
		return err
	}
	f.git.Watch(f.requests.add)
	registry, err := f.lab.Registry()
	if err != nil {
		return err
	}
	image, err := lab.Podinfo(f.ctx, "1.0")
	if err != nil {
		return err
	}
	if _, err := registry.Push(f.ctx, "podinfo:1.0", image); err != nil {
		return err
	}
	f.image = registry.NodeAddress() + "/podinfo:1.0"
	for i := range count {
		name := nodeName
		if i > 0 {
			name = fmt.Sprintf("%s-%d", nodeName, i+1)
		}
		node, err := f.lab.NewNode(f.ctx, name)
		if err != nil {
			return err
		}
		m := &member{Node: node}
		m.api = api.NewClient(filepath.Join(m.dir(), api.SocketName))
		if err := registry.Mirror(filepath.Join(m.dir(), "registries")); err != nil {
			return err
		}
		f.machines = append(f.machines, m)
	}
	f.node, f.api = f.machines[0].Node, f.machines[0].api
	f.git.Hint(branch, "http://"+f.node.Addr.String()+":"+port+"/hint", "")
	return f.initRepo()
}

// initRepo writes the config repository: one app without objects.
func (f *flock) initRepo() error {
	const user = "bench@pleach.example"
	key, err := lab.NewKey(f.ctx, f.lab.Dir, user)
	if err != nil {
		return err
	}
	dir := filepath.Join(f.lab.Dir, "config")
	var nodes []lab.Enrolled
	for _, m := range f.machines {
		nodes = append(nodes, lab.Enrolled{Name: m.Name, Dir: m.dir(), Address: m.Addr.String()})
	}
	if f.introduction, err = lab.Enrol(f.ctx, f.pleach, dir, "bench", key, "Bench", nodes...); err != nil {
		return err
	}
	f.repo = f.lab.OpenRepo(f, key, dir)
	f.repo.Git("remote", "add", "origin", f.git.URL("flock"))
	f.repo.Replace("pleach.yaml", "name: hello", "name: bench")
	f.repo.Replace("pleach.yaml", "path: apps/hello", "path: apps/bench")
	f.repo.Remove("apps/hello")
	f.repo.Write("apps/bench/namespace.yaml", "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: bench\n")
	f.repo.Commit("an app without workloads")
	f.repo.Push()
	return nil
}

// startAgent starts the node's agent and returns at once.
func (f *flock) startAgent(flags ...string) (*lab.Process, error) {
	return f.startAgentOn(f.machines[0], flags...)
}

func (f *flock) startAgentOn(m *member, flags ...string) (*lab.Process, error) {
	args := []string{
		f.pleach, "agent", "--node", m.Name, "--remote", f.git.NodeURL("flock"), "--introduction", f.introduction,
		"--listen", ":" + port, "--log-level", "debug",
	}
	return m.StartAgent(append(args, flags...)...)
}

// restartAgent replaces the agent by one with other flags, and waits until it is at work.
func (f *flock) restartAgent(flags ...string) error {
	if err := f.node.KillAgent(); err != nil {
		return err
	}
	if _, err := f.startAgent(flags...); err != nil {
		return err
	}
	if err := f.await("the agent answers", func(ctx context.Context) error {
		_, err := f.api.Status(ctx)
		return err
	}); err != nil {
		return err
	}
	return f.settle()
}

// await waits until a condition holds.
func (f *flock) await(what string, condition lab.Condition) error {
	ctx, cancel := context.WithTimeout(f.ctx, patience)
	defer cancel()
	if err := lab.Poll(ctx, condition); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// commit commits the work tree without pushing it.
func (f *flock) commit(message string) { f.repo.Commit(message) }

// settle gives what a change set off, such as the status push, the time to end.
func (f *flock) settle() error {
	select {
	case <-f.ctx.Done():
		return f.ctx.Err()
	case <-time.After(2 * time.Second):
		return nil
	}
}

// deployment is one of the sample app as its manifest has it, with less asked for so that many fit.
type deployment struct {
	name     string
	replicas int
	version  string // in the pods' environment: another one is another revision
}

func (d deployment) path() string { return "apps/bench/" + d.name + ".yaml" }

func (f *flock) write(d deployment) {
	f.repo.Write(d.path(), fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata:
  name: %[1]s
  namespace: bench
spec:
  replicas: %[2]d
  strategy:
    rollingUpdate:
      maxSurge: 1
      maxUnavailable: 0
  selector:
    matchLabels:
      app: %[1]s
  template:
    metadata:
      labels:
        app: %[1]s
        version: "%[3]s"
    spec:%[5]s
      containers:
        - name: podinfo
          image: %[4]s
          command: ["./podinfo", "--port=9898", "--level=info"]
          ports:
            - name: http
              containerPort: 9898
          livenessProbe:
            httpGet:
              path: /healthz
              port: http
          readinessProbe:
            httpGet:
              path: /readyz
              port: http
          resources:
            requests:
              cpu: 10m
              memory: 16Mi
            limits:
              memory: 64Mi
`, d.name, d.replicas, d.version, f.image, f.apart(d)))
}

// apart is the rule that spreads a deployment over the nodes, where there are several.
func (f *flock) apart(d deployment) string {
	if len(f.machines) == 1 {
		return ""
	}
	return fmt.Sprintf(`
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              app: %s`, d.name)
}

// release pushes a deployment and waits until all of its pods are ready. It returns when the push began,
// and when the last pod was seen ready.
func (f *flock) release(d deployment) (began, last time.Time, err error) {
	f.write(d)
	f.commit(fmt.Sprintf("%s at version %s", d.name, d.version))
	watched := f.watch(f.ctx, d)
	defer watched.cancel()
	began = time.Now()
	f.repo.Push()
	ready, err := watched.ready(d.replicas, d.version)
	return began, latest(ready), err
}

// deploy is release for who does not ask how long it takes.
func (f *flock) deploy(d deployment) error {
	_, _, err := f.release(d)
	return err
}

// remove pushes a deployment's removal and waits until its pods are gone.
func (f *flock) remove(d deployment) error {
	f.repo.Remove(d.path())
	f.commit("remove " + d.name)
	f.repo.Push()
	err := f.await("remove "+d.name, func(ctx context.Context) error {
		pods, err := f.pods(ctx, d)
		if err == nil && len(pods) > 0 {
			err = fmt.Errorf("%d pods are left", len(pods))
		}
		return err
	})
	return errors.Join(err, f.settle())
}

func (f *flock) pods(ctx context.Context, d deployment) ([]*corev1.Pod, error) {
	objects, err := f.api.List(ctx, api.Kinds[0], api.ListOptions{Namespace: "bench", Selector: "app=" + d.name})
	if err != nil {
		return nil, err
	}
	pods := make([]*corev1.Pod, len(objects))
	for i, o := range objects {
		pods[i] = o.(*corev1.Pod)
	}
	return pods, nil
}

// watcher sees a deployment's pods through the agent's API, as "kubectl get -w" would.
type watcher struct {
	d      deployment
	cancel context.CancelFunc
	events chan seen
	failed chan error
	ctx    context.Context
}

// seen is a pod at the moment when somebody outside saw it so.
type seen struct {
	at      time.Time
	deleted bool
	pod     *corev1.Pod
}

// watch returns when the watch stands.
func (f *flock) watch(ctx context.Context, d deployment) *watcher {
	ctx, cancel := context.WithTimeout(ctx, patience)
	w := &watcher{d: d, cancel: cancel, ctx: ctx, events: make(chan seen, 1024), failed: make(chan error, 1)}
	stands := make(chan struct{})
	go func() {
		w.failed <- f.api.Watch(ctx, api.Kinds[0], api.ListOptions{Namespace: "bench", Selector: "app=" + d.name},
			func(e watch.EventType, o reconcile.K8sObject) error {
				if e == watch.Bookmark {
					close(stands)
					return nil
				}
				w.events <- seen{time.Now(), e == watch.Deleted, o.(*corev1.Pod)}
				return nil
			})
	}()
	select {
	case <-stands:
	case <-ctx.Done():
	}
	return w
}

// ready waits until n pods of a version have been seen ready, and returns when each was.
func (w *watcher) ready(n int, version string) (map[string]time.Time, error) {
	ready := map[string]time.Time{}
	for len(ready) < n {
		select {
		case s := <-w.events:
			if _, known := ready[s.pod.Name]; !known && !s.deleted && s.pod.Labels["version"] == version && isReady(s.pod) {
				ready[s.pod.Name] = s.at
			}
		case err := <-w.failed:
			return nil, fmt.Errorf("%s: %d of %d pods ready: %w", w.d.name, len(ready), n, err)
		}
	}
	return ready, nil
}

// latest is when the last pod was ready.
func latest(ready map[string]time.Time) (last time.Time) {
	for _, at := range ready {
		last = later(last, at)
	}
	return last
}

func isReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// keepLogs copies the lab's logs to where they were asked for.
func (f *flock) keepLogs() {
	if f.logs == "" {
		return
	}
	if err := os.MkdirAll(f.logs, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return
	}
	files, _ := filepath.Glob(filepath.Join(f.lab.Dir, "*.log"))
	if len(f.machines) == 1 { // of several they have the same names
		inside, _ := filepath.Glob(filepath.Join(f.agentDir(), "logs", "*.log"))
		files = append(files, inside...)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(filepath.Join(f.logs, filepath.Base(file)), text, 0o644)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}
}

// fields of a log line in slog's text form, by name.
func fields(line string) map[string]string {
	found := map[string]string{}
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimLeft(line, " ") {
		name, rest, ok := strings.Cut(line, "=")
		if !ok {
			break
		}
		var value string
		if strings.HasPrefix(rest, `"`) {
			end := 1
			for end < len(rest) && rest[end] != '"' {
				if rest[end] == '\\' {
					end++
				}
				end++
			}
			value, line = rest[:min(end+1, len(rest))], rest[min(end+1, len(rest)):]
		} else {
			value, line, _ = strings.Cut(rest, " ")
		}
		found[name] = value
	}
	return found
}
