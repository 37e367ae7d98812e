package cgroup2_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

const (
	root      = "/pleach" // the agent's default
	delegated = service + "/pods"
)

// TestNode is one story: the subtests share a machine and build on one another.
func TestNode(t *testing.T) {
	if os.Getenv("PLEACH_TESTS") != "cgroup2" {
		t.Skip("skipped: boots a virtual machine, for minutes; make test-cgroup2 runs it")
	}
	needMachine(t)
	n := newNode(t)
	defer n.logs()
	n.sub("the hierarchy", hierarchy)
	n.sub("capacity", capacity)
	n.apply("web.yaml", "classes.yaml", "oom.yaml")
	n.sub("probes and exec", probesAndExec)
	n.sub("limits", limits)
	n.sub("a CPU limit holds", throttled)
	n.sub("out of memory", outOfMemory)
	n.sub("another manager of the root", otherManager)
	n.sub("kill the agent", killAgent)
	n.sub("remove the pods", removePods)
	n.sub("below the agent's own service", below)
}

// hierarchy makes sure that this is the machine which the test is about.
func hierarchy(n *node) {
	for line := range strings.Lines(n.run("cat", "/proc/mounts")) {
		if f := strings.Fields(line); f[2] == "cgroup" || f[2] == "cgroup2" && f[1] != "/sys/fs/cgroup" {
			n.t.Errorf("want cgroup2 at /sys/fs/cgroup alone: %s", line)
		}
	}
	for _, want := range []string{"cpuset", "cpu", "io", "memory", "pids"} {
		if have := n.read("cgroup.controllers"); !slices.Contains(strings.Fields(have), want) {
			n.t.Fatalf("the kernel has the controllers %s; want %s as well", have, want)
		}
	}
}

// capacity is the machine's, whatever the agent itself may use.
func capacity(n *node) {
	must(n.t, n.write(service+"/memory.max", strconv.Itoa(512<<20)))
	must(n.t, n.write(service+"/cpu.max", "50000 100000"))
	n.killAgent("-TERM")
	n.startAgent(service)
	must(n.t, n.write(service+"/cpu.max", "max"))

	var total int64
	for line := range strings.Lines(n.run("cat", "/proc/meminfo")) {
		if _, err := fmt.Sscanf(line, "MemTotal: %d kB", &total); err == nil {
			break
		}
	}
	var got corev1.Node
	n.wait("the agent has said what the machine has", func(ctx context.Context) error {
		if err := n.get(ctx, &got, "node", nodeName); err != nil {
			return err
		}
		if got.Status.Capacity == nil {
			return errors.New("the node has no capacity yet")
		}
		return nil
	})
	if memory := got.Status.Capacity.Memory().Value(); total == 0 || memory != total<<10 {
		n.t.Errorf("memory: capacity %d; the machine has %d", memory, total<<10)
	}
	if cpu := got.Status.Capacity.Cpu().MilliValue(); cpu != 1000 {
		n.t.Errorf("cpu: capacity %dm; the machine has 1000m", cpu)
	}
}

func probesAndExec(n *node) {
	pod := n.ready("web")
	if c := pod.Status.ContainerStatuses[0]; c.RestartCount != 0 {
		n.t.Errorf("restarted %d times: %+v", c.RestartCount, c.LastTerminationState)
	}
	// In its own cgroup namespace the container sees its own limit, and nothing above.
	if got := strings.TrimSpace(n.run("/bin/pleach", "exec", n.ready("guaranteed").Name, "--", "cat", "/sys/fs/cgroup/memory.max")); got != strconv.Itoa(32<<20) {
		n.t.Errorf("memory.max inside: %s", got)
	}
	if got := strings.TrimSpace(n.run("/bin/pleach", "exec", n.ready("besteffort").Name, "--", "cat", "/proc/self/cgroup")); got != "0::/" {
		n.t.Errorf("the cgroup inside: %s", got)
	}
}

// limits are in the right files of pods and containers. Weights of pods follow from requests as the
// kubelet's do (KEP-2254): 100m is 102 shares, and 1 + (102-2)*9999/262142 is 4. Those of containers
// are runc's, by another formula; they compare the containers of one pod only.
func limits(n *node) {
	web, guaranteed, besteffort := n.ready("web"), n.ready("guaranteed"), n.ready("besteffort")
	webGroup, guaranteedGroup, besteffortGroup := group(root, "burstable", web), group(root, "", guaranteed), group(root, "besteffort", besteffort)
	for _, try := range []struct{ file, want string }{
		{webGroup + "/memory.max", strconv.Itoa(96 << 20)},
		{webGroup + "/cpu.max", "80000 100000"},
		{webGroup + "/cpu.weight", "4"},
		{webGroup + "/pids.max", "max"},
		{guaranteedGroup + "/memory.max", strconv.Itoa(32 << 20)},
		{guaranteedGroup + "/cpu.max", "5000 100000"},
		{guaranteedGroup + "/cpu.weight", "2"},
		{besteffortGroup + "/memory.max", "max"},
		{besteffortGroup + "/cpu.max", "max 100000"},
		{besteffortGroup + "/cpu.weight", "1"},
		{root + "/besteffort/cpu.weight", "1"},
		{root + "/burstable/cpu.weight", "4"},
		{containerGroup(webGroup, web) + "/memory.max", strconv.Itoa(96 << 20)},
		{containerGroup(webGroup, web) + "/memory.oom.group", "1"},
		{containerGroup(webGroup, web) + "/cpu.max", "80000 100000"},
		{containerGroup(webGroup, web) + "/cpu.weight", "17"},
		{containerGroup(webGroup, web) + "/memory.swap.max", "0"},
		{containerGroup(besteffortGroup, besteffort) + "/memory.swap.max", "0"},
	} {
		if got := n.read(try.file); got != try.want {
			n.t.Errorf("%s: %s; want %s", try.file, got, try.want)
		}
	}
	for _, g := range []string{webGroup, guaranteedGroup, besteffortGroup} {
		// The sandbox and the container.
		if got := n.read(g + "/pids.current"); got == "0" {
			n.t.Errorf("%s: %s processes", g, got)
		}
		for _, want := range []string{"cpuset", "cpu", "io", "memory", "pids"} {
			if have := n.read(g + "/cgroup.controllers"); !slices.Contains(strings.Fields(have), want) {
				n.t.Errorf("%s has the controllers %s; want %s as well", g, have, want)
			}
		}
	}
}

func throttled(n *node) {
	pod := n.ready("guaranteed")
	n.wait("the container is throttled", func(context.Context) error {
		stat := n.read(containerGroup(group(root, "", pod), pod) + "/cpu.stat")
		_, count, _ := strings.Cut(stat, "nr_throttled ")
		if count, _, _ = strings.Cut(count, "\n"); count == "" || count == "0" {
			return fmt.Errorf("cpu.stat: %s", stat)
		}
		return nil
	})
}

func outOfMemory(n *node) {
	n.wait("the pod is killed for its memory", func(ctx context.Context) error {
		pod, err := n.pod(ctx, "oom")
		if err != nil {
			return err
		}
		if len(pod.Status.ContainerStatuses) != 1 || pod.Status.ContainerStatuses[0].State.Terminated == nil {
			return fmt.Errorf("%s: %+v", pod.Status.Phase, pod.Status.ContainerStatuses)
		}
		if end := pod.Status.ContainerStatuses[0].State.Terminated; pod.Status.Phase != corev1.PodFailed || end.Reason != "OOMKilled" || end.ExitCode != 137 {
			n.t.Errorf("%s: %+v; want Failed, OOMKilled, 137", pod.Status.Phase, end)
		}
		return nil
	})
	if pod := n.ready("web"); pod.Status.ContainerStatuses[0].RestartCount != 0 {
		n.t.Error("another pod was restarted")
	}
}

// otherManager does what systemd does when it reloads: it takes from the root what its own units do
// not need. The kernel refuses as long as pods have it.
func otherManager(n *node) {
	for _, controller := range []string{"cpu", "memory", "pids", "cpuset", "io"} {
		if err := n.write("cgroup.subtree_control", "-"+controller); err == nil || !strings.Contains(err.Error(), "busy") {
			n.t.Errorf("take %s from the root: %v; want that it is busy", controller, err)
		}
	}
}

// killAgent: neither its death nor its return touches a container.
func killAgent(n *node) {
	before := n.processes(root)
	if len(before) < 6 { // three pods, each with its sandbox
		n.t.Fatalf("processes of pods: %v", before)
	}
	n.killAgent("-KILL")
	if got := n.processes(root); !slices.Equal(got, before) {
		n.t.Errorf("after the agent's death: %v; before: %v", got, before)
	}
	n.startAgent(service)
	for _, app := range []string{"web", "guaranteed", "besteffort"} {
		if pod := n.ready(app); pod.Status.ContainerStatuses[0].RestartCount != 0 {
			n.t.Errorf("%s was restarted", app)
		}
	}
	if got := n.processes(root); !slices.Equal(got, before) {
		n.t.Errorf("after the agent's return: %v; before: %v", got, before)
	}
}

// removePods: nothing but the classes is left of the groups.
func removePods(n *node) {
	n.apply()
	n.wait("all pods are gone", func(ctx context.Context) error {
		var list corev1.PodList
		if err := n.get(ctx, &list, "pods", "-A"); err != nil {
			return err
		}
		left := strings.Fields(n.run("find", path.Join("/sys/fs/cgroup", root), "-mindepth", "1", "-type", "d"))
		for i := range left {
			left[i] = strings.TrimPrefix(left[i], "/sys/fs/cgroup"+root)
		}
		slices.Sort(left)
		if len(list.Items) > 0 || !slices.Equal(left, []string{"/besteffort", "/burstable"}) {
			return fmt.Errorf("%d pods; groups %v", len(list.Items), left)
		}
		return nil
	})
}

// below is systemd's delegation: pods live in the service's own group. The kernel then wants the agent
// in a subgroup, beside them (Delegate=yes, DelegateSubgroup=agent), and a message says so.
func below(n *node) {
	n.killAgent("-TERM")
	n.apply("web.yaml")
	n.startAgent(service, "--cgroup-root", delegated)
	n.wait("the pod says what is in its way", func(ctx context.Context) error {
		events, err := n.ask(ctx, "/bin/pleach", "get", "events")
		if err == nil && !strings.Contains(events, "processes run in a control group above the pods") {
			err = fmt.Errorf("events:\n%s", events)
		}
		return err
	})
	n.killAgent("-TERM")

	const subgroup = service + "/agent"
	n.run("/bin/busybox", "mkdir", "/sys/fs/cgroup"+subgroup)
	// Containerd goes on where it was started; systemd would have put it into the subgroup.
	for pid := range strings.FieldsSeq(n.read(service + "/cgroup.procs")) {
		must(n.t, n.write(subgroup+"/cgroup.procs", pid))
	}
	n.startAgent(subgroup, "--cgroup-root", delegated)
	web := n.ready("web")
	g := group(delegated, "burstable", web)
	if got := n.read(g + "/memory.max"); got != strconv.Itoa(96<<20) {
		n.t.Errorf("memory.max: %s", got)
	}
	if have := n.read(g + "/cgroup.controllers"); !slices.Contains(strings.Fields(have), "cpu") {
		n.t.Errorf("controllers: %s", have)
	}
	n.apply()
	n.wait("the group is gone", func(context.Context) error {
		if n.exists(g) {
			return fmt.Errorf("%s is there", g)
		}
		return nil
	})
}
