package cgroup2_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/e2e/lab"
)

const (
	nodeName = "node-1"
	user     = "alice@example.org"
	appDir   = "apps/test"
	service  = "/system.slice/pleach.service" // the group in which systemd starts the agent
)

// node is a machine that runs an agent, with the repository that it follows.
type node struct {
	*machine
	lab          *lab.Lab
	repo         *lab.Repo
	remote       string // as the machine sees it
	introduction string
	agent        int // process id
}

// newNode boots a machine and starts an agent on it that follows a new repository.
func newNode(t *testing.T) *node {
	t.Helper()
	l := lab.New(t)
	ctx := t.Context()
	n := &node{machine: &machine{t: t}, lab: l}
	git, err := l.GitServer()
	must(t, err)
	must(t, git.Create(ctx, "flock"))
	registry, err := l.Registry()
	must(t, err)
	pushImages(t, registry)

	root := filepath.Join(l.Dir, "root")
	dir := filepath.Join(root, "var", "lib", "pleach")
	program, err := lab.Pleach()
	must(t, err)
	install(t, program, filepath.Join(root, "bin", "pleach"))
	key, err := lab.NewKey(ctx, l.Dir, user)
	must(t, err)
	config := filepath.Join(l.Dir, "config")
	output(t, "", filepath.Join(root, "bin", "pleach"), "init", config, "--cluster", "test", "--node", nodeName, "--dir", dir,
		"--signing-key", key.File, "--author-name", "Alice", "--author-email", user)
	n.repo = l.OpenRepo(t, key, config)
	n.introduction = n.repo.Head()
	n.repo.Git("remote", "add", "origin", git.URL("flock"))
	n.remote = "http://" + onHost(t, git.Address()) + "/flock.git"
	mirror := "http://" + onHost(t, registry.Address())
	hosts := filepath.Join(dir, "registries", "_default", "hosts.toml")
	must(t, os.MkdirAll(filepath.Dir(hosts), 0o755))
	must(t, os.WriteFile(hosts, fmt.Appendf(nil, "server = %q\n\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", mirror, mirror), 0o644))

	n.repo.Replace("pleach.yaml", "name: hello", "name: test")
	n.repo.Replace("pleach.yaml", "path: apps/hello", "path: "+appDir)
	n.repo.Remove("apps/hello")
	n.apply()

	n.machine = boot(t, l, root)
	n.makeService(service)
	n.startAgent(service)
	return n
}

// sub runs a subtest, which may start another agent.
func (n *node) sub(name string, test func(n *node)) {
	n.t.Run(name, func(t *testing.T) {
		s := *n
		s.machine = n.in(t)
		s.repo = n.lab.OpenRepo(t, n.repo.Key, n.repo.Dir)
		defer func() { n.agent = s.agent }() // also when the test ends in the middle
		test(&s)
	})
}

// onHost is an address of a server of the lab as the machine sees it.
func onHost(t *testing.T, address string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	must(t, err)
	return net.JoinHostPort(hostAddr, port)
}

// pushImages fills the registry, which stands for every registry of the world.
func pushImages(t *testing.T, registry *lab.Registry) {
	t.Helper()
	ctx := t.Context()
	podinfo, err := lab.Podinfo(ctx, "1")
	must(t, err)
	busybox, err := lab.Recipe{Files: map[string]lab.File{"/tmp/.keep": {}}, Config: v1.Config{Env: []string{"PATH=/bin"}}}.WithShell(ctx)
	must(t, err)
	box, err := busybox.Image()
	must(t, err)
	for name, image := range map[string]v1.Image{"library/podinfo:1": podinfo, "library/box:1": box} {
		_, err := registry.Push(ctx, name, image)
		must(t, err)
	}
}

// apply makes files of testdata the app's only objects and pushes them.
func (n *node) apply(files ...string) {
	n.repo.Remove(appDir)
	n.repo.Write(appDir+"/.gitkeep", "")
	for _, name := range files {
		body, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			n.t.Fatal(err)
		}
		n.repo.Write(appDir+"/"+name, string(body))
	}
	n.repo.Commit("the app is " + strings.Join(files, ", "))
	n.repo.Git("push", "--quiet", "origin", "HEAD:main")
}

// makeService makes the group of a systemd service, with the controllers that a service with limits has.
func (n *node) makeService(group string) {
	n.t.Helper()
	parent := "/"
	for step := range strings.SplitSeq(strings.Trim(group, "/"), "/") {
		must(n.t, n.write(path.Join(parent, "cgroup.subtree_control"), "+cpu +memory +pids"))
		parent = path.Join(parent, step)
		n.run("/bin/busybox", "mkdir", "-p", path.Join("/sys/fs/cgroup", parent))
	}
}

// startAgent starts the agent in a group and waits until it answers.
func (n *node) startAgent(group string, flags ...string) {
	n.t.Helper()
	r, err := n.try(n.t.Context(), command{
		Args: append([]string{
			"/bin/pleach", "agent", "--node", nodeName, "--remote", n.remote, "--introduction", n.introduction,
			"--poll-interval", "2s",
		}, flags...),
		Cgroup: group, Log: "/var/log/agent.log",
	})
	must(n.t, err)
	n.agent = r.PID
	n.wait("the agent answers", func(ctx context.Context) error {
		_, err := n.ask(ctx, "/bin/pleach", "get", "nodes")
		return err
	})
}

// killAgent ends the agent as nobody expects it and waits until it is gone.
func (n *node) killAgent(signal string) {
	n.t.Helper()
	n.run("kill", signal, strconv.Itoa(n.agent))
	n.wait("the agent is gone", func(ctx context.Context) error {
		if _, err := n.ask(ctx, "kill", "-0", strconv.Itoa(n.agent)); err == nil {
			return errors.New("it lives")
		}
		return nil
	})
}

// get decodes what "pleach get" prints with -o json.
func (n *node) get(ctx context.Context, object any, args ...string) error {
	out, err := n.ask(ctx, append([]string{"/bin/pleach", "get", "-o", "json"}, args...)...)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), object)
}

// pod is the only pod with the label app=name.
func (n *node) pod(ctx context.Context, app string) (*corev1.Pod, error) {
	var list corev1.PodList
	if err := n.get(ctx, &list, "pods", "-l", "app="+app); err != nil {
		return nil, err
	}
	if len(list.Items) != 1 {
		return nil, fmt.Errorf("%d pods with app=%s, want 1", len(list.Items), app)
	}
	return &list.Items[0], nil
}

// ready waits until the pod of an app is ready.
func (n *node) ready(app string) *corev1.Pod {
	n.t.Helper()
	var pod *corev1.Pod
	n.wait("the pod of "+app+" is ready", func(ctx context.Context) error {
		var err error
		if pod, err = n.pod(ctx, app); err != nil {
			return err
		}
		if !slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		}) {
			return fmt.Errorf("%s: %+v", pod.Status.Phase, pod.Status.ContainerStatuses)
		}
		return nil
	})
	return pod
}

// group is the control group of a pod: class is "" for Guaranteed.
func group(root, class string, pod *corev1.Pod) string {
	return path.Join(root, class, "pod"+string(pod.UID))
}

// containerGroup is the control group of a pod's only container.
func containerGroup(podGroup string, pod *corev1.Pod) string {
	_, id, _ := strings.Cut(pod.Status.ContainerStatuses[0].ContainerID, "://")
	return path.Join(podGroup, id)
}

// processes lists all processes in groups below root, sorted.
func (n *node) processes(root string) []string {
	n.t.Helper()
	out := strings.Fields(n.run("find", path.Join("/sys/fs/cgroup", root), "-name", "cgroup.procs", "-exec", "cat", "{}", ";"))
	slices.Sort(out)
	return out
}

// logs prints the ends of the machine's logs when a test has failed.
func (n *node) logs() {
	if !n.t.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, file := range []string{"/var/log/agent.log", "/var/lib/pleach/logs/containerd.log"} {
		out, err := n.ask(ctx, "/bin/busybox", "tail", "-n", "40", file)
		n.t.Logf("%s: %v\n%s", file, err, out)
	}
}
