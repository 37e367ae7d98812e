package node_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/agent/api"
	"github.com/pleachdev/pleach/e2e/lab"
	"github.com/pleachdev/pleach/reconcile"
)

// workload asks for the status of a Deployment, DaemonSet or Pod, "namespace/name". It is an error
// while the node has not decided about the newest commit that it has accepted.
func (f *flock) workload(ctx context.Context, name string) (*reconcile.WorkloadStatus, error) {
	status, err := f.api.Status(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range status.Nodes {
		if n.Name == nodeName && n.Head.ID != status.Head.ID {
			return nil, fmt.Errorf("nothing was decided yet for commit %s", status.Head.ID)
		}
	}
	for _, w := range status.Workloads {
		if w.Namespace+"/"+w.Name == name {
			return w, nil
		}
	}
	return nil, fmt.Errorf("there is no workload %s", name)
}

// waitReady waits until a workload, "namespace/name", is complete with so many pods.
func (f *flock) waitReady(name string, replicas int) {
	f.t.Helper()
	f.wait(fmt.Sprintf("%s has %d pods", name, replicas), func(ctx context.Context) error {
		return f.complete(ctx, name, replicas)
	})
}

// complete says what a workload lacks to be as Git wants it.
func (f *flock) complete(ctx context.Context, name string, replicas int) error {
	w, err := f.workload(ctx, name)
	if err != nil {
		return err
	}
	n := int32(replicas)
	if w.Desired != n || w.Current != n || w.Updated != n || w.Available != n || len(w.Waiting) > 0 {
		var reasons []string
		for _, r := range w.Waiting {
			reasons = append(reasons, r.Reason)
		}
		return fmt.Errorf("%d wanted, %d there, %d up to date, %d ready, %d available %q",
			w.Desired, w.Current, w.Updated, w.Ready, w.Available, reasons)
	}
	if pods, err := f.listPods(ctx, name); err != nil || len(pods) != replicas {
		return fmt.Errorf("%d pods are left (%w)", len(pods), err)
	}
	return nil
}

// kindOf finds a kind of the agent's API.
func kindOf(word string) api.Kind {
	k, err := api.FindKind(word)
	if err != nil {
		panic(err) // a mistake in the test
	}
	return k
}

// listPods asks for the pods with the label app=name in a namespace, sorted by name; name "" is all.
func (f *flock) listPods(ctx context.Context, workload string) ([]*corev1.Pod, error) {
	var options api.ListOptions
	if namespace, name, ok := strings.Cut(workload, "/"); ok {
		options = api.ListOptions{Namespace: namespace, Selector: "app=" + name}
	}
	objects, err := f.api.List(ctx, kindOf("pods"), options)
	if err != nil {
		return nil, err
	}
	pods := make([]*corev1.Pod, len(objects))
	for i, o := range objects {
		pods[i] = o.(*corev1.Pod)
	}
	return pods, nil
}

// pods lists the pods of a workload, "namespace/name", by their label app; "" lists all.
func (f *flock) pods(workload string) []*corev1.Pod {
	f.t.Helper()
	pods, err := f.listPods(f.t.Context(), workload)
	must(f.t, err)
	return pods
}

// podName is the name of a workload's only pod.
func (f *flock) podName(workload string) string {
	f.t.Helper()
	pods := f.pods(workload)
	if len(pods) != 1 {
		f.t.Fatalf("%s has %d pods, want 1", workload, len(pods))
	}
	return pods[0].Name
}

// isReady reports the pod's Ready condition.
func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// process is the first process of a container or of a sandbox.
type process struct {
	pid  int    // on this machine
	name string // as the kernel has it: "podinfo"
	pod  string // uid
}

var inCgroup = regexp.MustCompile(`/pod([-0-9a-f]{36})/([0-9a-f]{64})\n`)

// processes finds the first process of every container and sandbox of the node, by container id,
// whatever the agent says.
func (f *flock) processes() map[string]process {
	f.t.Helper()
	all, err := f.node.Processes()
	must(f.t, err)
	found := map[string]process{}
	for _, p := range all {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID)) // empty when it has just ended
		groups, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.PID))
		_, ids, _ := strings.Cut(string(status), "\nNSpid:")
		ids, _, _ = strings.Cut(ids, "\n")
		// Its ids on this machine, in the node and in the container.
		if ids := strings.Fields(ids); len(ids) != 3 || ids[2] != "1" {
			continue
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(string(status), "Name:\t"), "\n")
		if match := inCgroup.FindSubmatch(groups); match != nil {
			found[string(match[2])] = process{p.PID, name, string(match[1])}
		}
	}
	return found
}

// pids is processes without the names: container id → process id on this machine.
func (f *flock) pids() map[string]int {
	f.t.Helper()
	found := map[string]int{}
	for id, p := range f.processes() {
		found[id] = p.pid
	}
	return found
}

// get asks a pod over HTTP from its node, and returns the answer's body.
func (f *flock) get(ctx context.Context, url string) (string, error) {
	client := http.Client{
		Transport: &http.Transport{DialContext: f.node.DialContext, DisableKeepAlives: true},
		Timeout:   5 * time.Second,
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, response.Status, body)
	}
	return string(body), err
}

// alongside looks at 20 Hz while do goes on, and fails the test when the condition does not hold.
func (f *flock) alongside(what string, holds lab.Condition, do func()) {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.t.Context())
	var looks int
	var broken []string
	var watch sync.WaitGroup
	watch.Go(func() {
		start := time.Now()
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			if err := holds(ctx); err != nil && ctx.Err() == nil {
				broken = append(broken, fmt.Sprintf("after %.2f s: %v", time.Since(start).Seconds(), err))
			}
			looks++
			<-tick.C
		}
	})
	defer func() {
		f.t.Helper()
		cancel()
		watch.Wait()
		if len(broken) > 0 {
			f.t.Errorf("%s: not so in %d of %d looks:\n  %s", what, len(broken), looks, strings.Join(broken[:min(len(broken), 10)], "\n  "))
		}
	}()
	do()
}
