package cricontract_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pleachdev/pleach/agent/containerd"
	"github.com/pleachdev/pleach/agent/podlogs"
	"github.com/pleachdev/pleach/agent/pods/cricontract"
)

var idleFor = flag.Duration("idle", 3*time.Second, "how long to measure an idle node; a listing comes every 30s")

func TestContainerdKeepsTheContract(t *testing.T) {
	if !inside(t) {
		return
	}
	n := newNode(t)
	cricontract.Run(t, cricontract.Subject{
		Runtime: n.runtime, Images: n.images, Image: n.image, NoImage: n.noImage,
		LogDir: filepath.Join(n.dir, "contract-logs"), CgroupParent: n.cgroup + "/contract",
	})
}

// newPod is a pod with one container "app", changed by the given functions.
func (n *node) newPod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("uid-" + name)},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: new(int64(5)),
			Containers: []corev1.Container{{Name: "app", Image: n.image}},
		},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

// once makes a pod run a command once.
func once(args ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.Containers[0].Args = args
	}
}

func (n *node) logs(p *corev1.Pod, previous bool) string {
	n.t.Helper()
	var out bytes.Buffer
	if err := n.m.Logs(n.t.Context(), &out, p.UID, previous, podlogs.Options{Container: "app"}); err != nil {
		n.t.Fatal(err)
	}
	return out.String()
}

func TestPodsOnContainerd(t *testing.T) {
	if !inside(t) {
		return
	}
	n := newNode(t)
	n.run()
	t.Run("latency", n.latency)
	t.Run("once", n.runsOnce)
	t.Run("identity", n.identity)
	t.Run("volumes", n.volumes)
	t.Run("probes", n.probes)
	t.Run("resources", n.resources)
	t.Run("crash", n.crashes)
	t.Run("follow", n.follow)
	t.Run("rotation", n.rotation)
	t.Run("idle", n.idle)
	t.Run("adoption", n.adoption)
	t.Run("runtime killed", n.runtimeKilled)
	t.Run("runtime killed in a start", n.runtimeKilledInAStart)
	n.stopAll()
}

func (n *node) latency(t *testing.T) {
	for i := range 6 {
		name := fmt.Sprintf("latency-%d", i)
		began := time.Now()
		n.start(n.newPod(name, func(p *corev1.Pod) {
			p.Spec.Containers[0].Args = []string{"serve", "8080", "-"}
			p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
				ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(8080)}}, PeriodSeconds: 10,
			}
		}))
		var sandbox, running time.Duration
		n.within(time.Minute, "ready", func() bool {
			p := n.pod(name)
			if sandbox == 0 && p.Status.PodIP != "" {
				sandbox = time.Since(began)
			}
			if running == 0 && p.Status.ContainerStatuses[0].State.Running != nil {
				running = time.Since(began)
			}
			return ready(p)
		})
		t.Logf("start of pod %d: sandbox %s, running %s, ready %s", i, sandbox.Round(time.Millisecond), running.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
		began = time.Now()
		if err := n.m.Stop(types.UID("uid-"+name), "test"); err != nil {
			t.Fatal(err)
		}
		n.within(time.Minute, "gone", func() bool { return n.pod(name) == nil })
		t.Logf("stop of pod %d: %s", i, time.Since(began).Round(time.Millisecond))
	}
}

func (n *node) phase(name string, want corev1.PodPhase) *corev1.Pod {
	n.t.Helper()
	n.within(time.Minute, name+" is "+string(want), func() bool { return n.pod(name).Status.Phase == want })
	return n.pod(name)
}

func (n *node) runsOnce(t *testing.T) {
	n.start(n.newPod("well", once("exit", "0")))
	n.start(n.newPod("badly", once("die", "/dev/termination-log", "last words")))
	n.phase("well", corev1.PodSucceeded)
	p := n.phase("badly", corev1.PodFailed)
	if s := p.Status.ContainerStatuses[0].State.Terminated; s == nil || s.ExitCode != 1 || s.Reason != "Error" || s.Message != "last words" {
		t.Errorf("state: %+v", s)
	}
}

func (n *node) identity(t *testing.T) {
	n.start(n.newPod("identity", once("id"), func(p *corev1.Pod) {
		p.Spec.SecurityContext = &corev1.PodSecurityContext{
			RunAsUser: new(int64(1001)), RunAsGroup: new(int64(1002)), FSGroup: new(int64(1003)), RunAsNonRoot: new(true),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		}
		p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		}
	}))
	p := n.phase("identity", corev1.PodSucceeded)
	got := n.logs(p, false)
	for _, want := range []string{"uid 1001 gid 1002", "1003", "Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000"} {
		if !strings.Contains(got, want) {
			t.Errorf("want %q in\n%s", want, got)
		}
	}
	n.start(n.newPod("root", func(p *corev1.Pod) { p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: new(true)} }))
	n.within(time.Minute, "refused", func() bool {
		w := n.pod("root").Status.ContainerStatuses[0].State.Waiting
		return w != nil && w.Reason == "CreateContainerConfigError" && strings.Contains(w.Message, "image will run as root")
	})
	n.start(n.newPod("user", once("id"), func(p *corev1.Pod) {
		p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: new(true)}
		p.Spec.Containers[0].Image = n.uid
	}))
	if got := n.logs(n.phase("user", corev1.PodSucceeded), false); !strings.Contains(got, "uid 1000") {
		t.Errorf("user of the image: %s", got)
	}
}

func (n *node) volumes(t *testing.T) {
	n.objects.setConfigMap("settings", map[string]string{"greeting": "hello\n", "who": "world\n"})
	n.objects.secrets = map[string]*corev1.Secret{"token": {Data: map[string][]byte{"key": []byte("s3cret\n")}}}
	host := filepath.Join(n.dir, "host")
	if err := os.MkdirAll(filepath.Join(host, "inner"), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{"inner/file": "from the host\n", "outside": "must not show\n"} {
		if err := os.WriteFile(filepath.Join(host, path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/shadow", filepath.Join(host, "escape")); err != nil {
		t.Fatal(err)
	}
	withVolumes := func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{
			{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}},
			{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "token"}}},
			{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: resource.NewQuantity(1<<20, resource.BinarySI)}}},
			{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host, Type: new(corev1.HostPathDirectory)}}},
			{Name: "info", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "name", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}},
			}}}},
		}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{
			{Name: "config", MountPath: "/config"},
			{Name: "secret", MountPath: "/secret"},
			{Name: "memory", MountPath: "/memory"},
			{Name: "host", MountPath: "/file", SubPath: "inner/file", ReadOnly: true},
			{Name: "info", MountPath: "/info"},
		}
	}
	n.start(n.newPod("volumes", withVolumes, once("cat", "/config/greeting", "/secret/key", "/file", "/info/name", "/etc/hosts")))
	got := n.logs(n.phase("volumes", corev1.PodSucceeded), false)
	for _, want := range []string{"hello\n", "s3cret\n", "from the host\n", "volumes", "\tvolumes\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("want %q in\n%s", want, got)
		}
	}
	n.start(n.newPod("escape", withVolumes, func(p *corev1.Pod) { p.Spec.Containers[0].VolumeMounts[3].SubPath = "escape" }))
	n.within(time.Minute, "escape refused", func() bool {
		w := n.pod("escape").Status.ContainerStatuses[0].State.Waiting
		return w != nil && w.Reason == "CreateContainerConfigError" && strings.Contains(w.Message, "escapes")
	})
	n.start(n.newPod("live", withVolumes, func(p *corev1.Pod) { p.Spec.Containers[0].Args = []string{"serve", "8080", "/config/ready"} }, func(p *corev1.Pod) {
		p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{
			HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(8080)},
		}, PeriodSeconds: 1}
	}))
	n.within(time.Minute, "live runs", func() bool { return n.pod("live").Status.Phase == corev1.PodRunning })
	n.objects.setConfigMap("settings", map[string]string{"greeting": "hi\n", "ready": "yes\n"})
	n.m.ConfigChanged()
	n.within(time.Minute, "the mounted volume follows", func() bool { return ready(n.pod("live")) })
}

func (n *node) probes(t *testing.T) {
	n.start(n.newPod("probed", func(p *corev1.Pod) {
		c := &p.Spec.Containers[0]
		c.StartupProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/app", "exit", "0"}}}, PeriodSeconds: 10, FailureThreshold: 3}
		c.LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/app", "cat", "/data/alive"}}}, PeriodSeconds: 1, FailureThreshold: 1}
		c.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/app", "die", "/data/alive", "yes"}}}}
		p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		c.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
		c.Lifecycle = nil
	}))
	// The file never appears: liveness fails, and the container is restarted.
	n.within(time.Minute, "restarted", func() bool { return n.pod("probed").Status.ContainerStatuses[0].RestartCount > 0 })
}

func (n *node) resources(t *testing.T) {
	n.start(n.newPod("bounded", func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{
			Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("32Mi")},
		}
	}))
	p := n.phase("bounded", corev1.PodRunning)
	if p.Status.QOSClass != corev1.PodQOSBurstable {
		t.Errorf("QoS class %s", p.Status.QOSClass)
	}
	group := n.cgroup + "/burstable/pod" + string(p.UID)
	for _, try := range []struct{ v1, v2, want1, want2 string }{
		{"/sys/fs/cgroup/memory" + group + "/memory.limit_in_bytes", "/sys/fs/cgroup" + group + "/memory.max", "67108864", "67108864"},
		{"/sys/fs/cgroup/cpu" + group + "/cpu.cfs_quota_us", "/sys/fs/cgroup" + group + "/cpu.max", "50000", "50000 100000"},
		{"/sys/fs/cgroup/cpu" + group + "/cpu.shares", "/sys/fs/cgroup" + group + "/cpu.weight", "102", "4"},
	} {
		path, want := try.v1, try.want1
		if _, err := os.Stat(path); err != nil {
			path, want = try.v2, try.want2
		}
		got, err := os.ReadFile(path)
		if err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s: %q, %v; want %s", path, got, err, want)
		}
	}
}

func (n *node) crashes(t *testing.T) {
	n.start(n.newPod("crash", func(p *corev1.Pod) { p.Spec.Containers[0].Args = []string{"exit", "7"} }))
	n.within(time.Minute, "CrashLoopBackOff", func() bool {
		c := n.pod("crash").Status.ContainerStatuses[0]
		return c.State.Waiting != nil && c.State.Waiting.Reason == "CrashLoopBackOff" && c.RestartCount == 1 &&
			c.LastTerminationState.Terminated != nil && c.LastTerminationState.Terminated.ExitCode == 7
	})
	n.start(n.newPod("no-image", func(p *corev1.Pod) { p.Spec.Containers[0].Image = n.noImage }))
	n.within(time.Minute, "ImagePullBackOff", func() bool {
		c := n.pod("no-image").Status.ContainerStatuses[0]
		return c.State.Waiting != nil && c.State.Waiting.Reason == "ImagePullBackOff"
	})
	n.start(n.newPod("oom", once("eat", fmt.Sprint(256<<20)), func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("32Mi")}
	}))
	p := n.phase("oom", corev1.PodFailed)
	if s := p.Status.ContainerStatuses[0].State.Terminated; s == nil || s.Reason != "OOMKilled" || s.ExitCode != 137 {
		t.Errorf("out of memory: %+v", p.Status.ContainerStatuses[0].State)
	}
}

func (n *node) follow(t *testing.T) {
	n.start(n.newPod("talk", once("say", "something", "here")))
	p := n.phase("talk", corev1.PodRunning)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	done := make(chan error, 1)
	go func() { done <- n.m.Logs(ctx, &out, p.UID, false, podlogs.Options{Container: "app", Follow: true}) }()
	time.Sleep(300 * time.Millisecond)
	status := n.pod("talk").Status.ContainerStatuses[0]
	_, id, _ := strings.Cut(status.ContainerID, "://")
	if err := n.runtime.StopContainer(t.Context(), id, 5); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil || out.String() != "something here\n" {
		t.Errorf("followed: %q, %v", out.String(), err)
	}
}

// The runtime goes on in a new file when a log was rotated, and nothing is lost.
func (n *node) rotation(t *testing.T) {
	n.start(n.newPod("spam", once("spam", fmt.Sprint(podlogs.MaxSize))))
	p := n.phase("spam", corev1.PodRunning)
	_, id, _ := strings.Cut(p.Status.ContainerStatuses[0].ContainerID, "://")
	path := podlogs.Path(n.m.LogDirOf(p), "app", 0)
	n.within(time.Minute, "the log is large", func() bool {
		info, err := os.Stat(path)
		return err == nil && info.Size() > podlogs.MaxSize
	})
	if err := podlogs.Rotate(path, func() error { return n.runtime.ReopenContainerLog(t.Context(), id) }); err != nil {
		t.Fatal(err)
	}
	n.within(time.Minute, "the whole log", func() bool { return len(n.logs(p, false)) == (podlogs.MaxSize+99)/100*100 })
}

// idle measures what the manager costs beside ten pods that do nothing, two with probes.
func (n *node) idle(t *testing.T) {
	for i := range 10 {
		n.start(n.newPod(fmt.Sprintf("idle-%d", i), func(p *corev1.Pod) {
			p.Spec.Containers[0].Args = []string{"serve", "8080", "-"}
			if i < 2 {
				p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
					ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(8080)}}, PeriodSeconds: 10,
				}
			}
		}))
	}
	n.within(time.Minute, "idle pods ready", func() bool {
		for i := range 10 {
			if !ready(n.pod(fmt.Sprintf("idle-%d", i))) {
				return false
			}
		}
		return true
	})
	for _, name := range []string{"crash", "probed", "escape", "no-image", "root"} {
		if err := n.m.Stop(types.UID("uid-"+name), "not idle"); err != nil {
			t.Fatal(err)
		}
	}
	n.within(time.Minute, "the others are gone", func() bool { return n.pod("crash") == nil && n.pod("probed") == nil })
	var before, after syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &before); err != nil {
		t.Fatal(err)
	}
	span := *idleFor
	time.Sleep(span)
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &after); err != nil {
		t.Fatal(err)
	}
	used := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	t.Logf("idle with %d pods: %s of CPU in %s, %.2f %% of a core", len(n.m.Pods()), used, span, 100*used.Seconds()/span.Seconds())
}

func (n *node) adoption(t *testing.T) {
	before := map[string]string{}
	for _, p := range n.m.Pods() {
		before[p.Name] = p.Status.ContainerStatuses[0].ContainerID
	}
	n.end()
	n.start(n.newPod("late")) // written down though nobody works
	began := time.Now()
	n.run()
	<-n.m.Looked()
	for _, uid := range n.m.Found() {
		n.m.Resume(uid) // nothing of it runs
	}
	n.within(time.Minute, "all adopted", func() bool {
		for _, p := range n.m.Pods() {
			if p.Name == "live" && !ready(p) || p.Name == "late" && p.Status.Phase != corev1.PodRunning {
				return false
			}
		}
		return true
	})
	t.Logf("adopted %d pods in %s", len(before), time.Since(began).Round(time.Millisecond))
	for _, p := range n.m.Pods() {
		if p.Name == "live" || p.Name == "bounded" {
			if id := p.Status.ContainerStatuses[0].ContainerID; id != before[p.Name] {
				t.Errorf("pod %s was restarted: %s, then %s", p.Name, before[p.Name], id)
			}
		}
	}
}

// A runtime that is killed and comes back finds its containers running, and so does the manager; a
// container that ended meanwhile is started again.
func (n *node) runtimeKilled(t *testing.T) {
	n.start(n.newPod("steady"))
	n.phase("steady", corev1.PodRunning)
	n.start(n.newPod("ends", func(p *corev1.Pod) { p.Spec.Containers[0].Args = []string{"sleep", "1"} }))
	n.within(time.Minute, "ends runs", func() bool { return n.pod("ends").Status.ContainerStatuses[0].State.Running != nil })
	before := n.pod("steady").Status.ContainerStatuses[0].ContainerID
	n.killRuntime()
	n.start(n.newPod("after"))
	n.within(time.Minute, "a pod that was asked for meanwhile runs", func() bool { return n.pod("after").Status.Phase == corev1.PodRunning })
	n.within(time.Minute, "a container that ended meanwhile was started again", func() bool { return n.pod("ends").Status.ContainerStatuses[0].RestartCount > 0 })
	if got := n.pod("steady").Status.ContainerStatuses[0]; got.ContainerID != before || got.State.Running == nil {
		t.Errorf("a healthy container was touched: %+v", got)
	}
}

// runtimeKilledInAStart kills the daemon at moments of a container's start. The shim carries the start to its
// end: the program runs once, and the next daemon finds it running.
func (n *node) runtimeKilledInAStart(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	const kills = 3
	for i := range kills {
		name := fmt.Sprintf("killed-%d", i)
		runs := filepath.Join(dir, name)
		n.start(n.newPod(name, func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "dir", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}}}}
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "dir", MountPath: "/dir"}}
			p.Spec.Containers[0].Args = []string{"count", "/dir/" + name}
		}))
		n.within(time.Minute, name+" is created", func() bool { return n.saw(name + " Created:") })
		delay := time.Duration(10+20*i) * time.Millisecond
		time.Sleep(delay)
		n.killRuntime()
		n.phase(name, corev1.PodRunning)
		n.within(time.Minute, name+" has run", func() bool { fi, err := os.Stat(runs); return err == nil && fi.Size() > 0 })
		status := n.pod(name).Status.ContainerStatuses[0]
		if got, err := os.ReadFile(runs); err != nil || string(got) != "ran\n" || status.RestartCount != 0 {
			t.Errorf("killed %s after it was created: the container said %q, %v; its status is %+v", delay, got, err, status)
		}
	}
}

// killRuntime ends the daemon as kill -9 does.
func (n *node) killRuntime() {
	n.t.Helper()
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		n.t.Fatal(err)
	}
	killed := 0
	for _, path := range commands {
		line, err := os.ReadFile(path)
		if err != nil || string(line) != containerd.ProcessName+"\x00"+n.dir+"\x00" {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			n.t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			n.t.Fatal(err)
		}
		killed++
	}
	if killed != 1 {
		n.t.Fatalf("killed %d daemons; want 1", killed)
	}
}
