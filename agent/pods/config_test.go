package pods

import (
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pleachdev/pleach/agent/images"
)

func list(cpu, memory string) corev1.ResourceList {
	l := corev1.ResourceList{}
	if cpu != "" {
		l[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		l[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	return l
}

func TestQOSClassAndOOMScore(t *testing.T) {
	const capacity = 8 << 30
	for _, c := range []struct {
		name             string
		requests, limits corev1.ResourceList
		class            corev1.PodQOSClass
		oom              int64
		shares, quota    int64
	}{
		{"nothing", nil, nil, corev1.PodQOSBestEffort, 1000, 2, 0},
		{"limits only", nil, list("1", "1Gi"), corev1.PodQOSGuaranteed, -997, 1024, 100_000},
		{"equal", list("500m", "1Gi"), list("500m", "1Gi"), corev1.PodQOSGuaranteed, -997, 512, 50_000},
		{"request below limit", list("100m", "4Gi"), list("1", "8Gi"), corev1.PodQOSBurstable, 500, 102, 100_000},
		{"memory only", list("", "800Mi"), list("", "800Mi"), corev1.PodQOSBurstable, 903, 2, 0},
		{"all of the node", list("", "8Gi"), nil, corev1.PodQOSBurstable, 3, 2, 0},
		{"tiny limit", nil, list("1m", ""), corev1.PodQOSBurstable, 999, 2, 1000},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := newPod("web")
			pod.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: c.requests, Limits: c.limits}
			if got := QOSClass(pod); got != c.class {
				t.Errorf("class %s; want %s", got, c.class)
			}
			r := containerResources(pod, &pod.Spec.Containers[0], capacity)
			if r.OomScoreAdj != c.oom || r.CpuShares != c.shares || r.CpuQuota != c.quota {
				t.Errorf("oom %d, shares %d, quota %d; want %d, %d, %d", r.OomScoreAdj, r.CpuShares, r.CpuQuota, c.oom, c.shares, c.quota)
			}
		})
	}
	pod := newPod("mixed")
	pod.Spec.Containers[0].Resources.Limits = list("1", "1Gi")
	pod.Spec.Containers = append(pod.Spec.Containers, newContainer("free"))
	if got := QOSClass(pod); got != corev1.PodQOSBurstable {
		t.Errorf("a bounded beside an unbounded container: %s", got)
	}
	if bounds := podCgroup(pod); bounds.Memory != 0 || bounds.CPUQuota != 0 {
		t.Errorf("the pod is bounded although one container is not: %+v", bounds)
	}
}

func TestSecurity(t *testing.T) {
	unconfined := runtimeapi.SecurityProfile_Unconfined
	pod := newPod("web")
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{
		RunAsUser: new(int64(1)), RunAsGroup: new(int64(2)), SupplementalGroups: []int64{3}, FSGroup: new(int64(4)),
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: new("../../x.json")},
	}
	c := &pod.Spec.Containers[0]
	got, err := containerSecurity(pod, c, images.Image{}, "/profiles")
	if err != nil {
		t.Fatal(err)
	}
	if got.GetRunAsUser().GetValue() != 1 || got.GetRunAsGroup().GetValue() != 2 || !reflect.DeepEqual(got.GetSupplementalGroups(), []int64{3, 4}) ||
		got.GetSeccomp().GetLocalhostRef() != "/profiles/x.json" || len(got.GetMaskedPaths()) == 0 || len(got.GetReadonlyPaths()) == 0 {
		t.Errorf("of the pod: %v", got)
	}
	c.SecurityContext = &corev1.SecurityContext{RunAsUser: new(int64(9)), Privileged: new(true), ProcMount: new(corev1.UnmaskedProcMount)}
	got, err = containerSecurity(pod, c, images.Image{}, "/profiles")
	if err != nil {
		t.Fatal(err)
	}
	if got.GetRunAsUser().GetValue() != 9 || !got.GetPrivileged() || got.GetSeccomp().GetProfileType() != unconfined || len(got.GetMaskedPaths()) != 0 {
		t.Errorf("of the container: %v", got)
	}
	if sandbox := sandboxSecurity(pod); !sandbox.GetPrivileged() {
		t.Errorf("sandbox of a privileged container: %v", sandbox)
	}
	plainPod := newPod("plain")
	got, err = containerSecurity(plainPod, &plainPod.Spec.Containers[0], images.Image{UID: new(int64(77))}, "")
	if err != nil || got.GetRunAsUser().GetValue() != 77 || got.GetSeccomp().GetProfileType() != unconfined {
		t.Errorf("nothing asked for: %v, %v", got, err)
	}
	for _, c := range []struct {
		name  string
		user  *int64
		image images.Image
		ok    bool
	}{
		{"root by spec", new(int64(0)), images.Image{UID: new(int64(5))}, false},
		{"user by spec", new(int64(5)), images.Image{}, true},
		{"root by image", nil, images.Image{}, false},
		{"uid 0 by image", nil, images.Image{UID: new(int64(0))}, false},
		{"uid by image", nil, images.Image{UID: new(int64(5))}, true},
		{"name by image", nil, images.Image{User: "nginx"}, false},
	} {
		sc := corev1.SecurityContext{RunAsNonRoot: new(true), RunAsUser: c.user}
		if err := checkNonRoot(&sc, "app", c.image); (err == nil) != c.ok {
			t.Errorf("runAsNonRoot, %s: %v", c.name, err)
		}
	}
}

func TestExpand(t *testing.T) {
	values := map[string]string{"A": "1", "B": "$(A)"}
	for in, want := range map[string]string{
		"": "", "plain": "plain", "$(A)": "1", "x$(A)y$(B)z": "x1y$(A)z", "$$(A)": "$(A)", "$$$(A)": "$1", "$(NONE)": "$(NONE)",
		"$(A": "$(A", "$": "$", "a$": "a$", "$x$(A)": "$x1", "$()": "$()",
	} {
		if got := expand(in, values); got != want {
			t.Errorf("%q: %q; want %q", in, got, want)
		}
	}
}

func FuzzExpand(f *testing.F) {
	f.Add("x$(A)$$(B)$")
	f.Fuzz(func(t *testing.T, text string) { expand(text, map[string]string{"A": "1"}) })
}

func TestFields(t *testing.T) {
	pod := newPod("web")
	pod.Labels = map[string]string{"app": "x", "a/b": `q"q`}
	pod.Spec.ServiceAccountName = "robot"
	pod.Spec.Containers[0].Resources = corev1.ResourceRequirements{Limits: list("1500m", ""), Requests: list("", "100Mi")}
	f := fields{pod: pod, container: "app", nodeName: "n1", podIPs: []string{"10.0.0.1", "fd00::1"}, hostIPs: []string{"192.0.2.1"}, capacity: list("4", "8Gi")}
	for path, want := range map[string]string{
		"metadata.name": "web", "metadata.namespace": "default", "metadata.uid": "uid-web", "metadata.labels['app']": "x",
		"metadata.labels": "a/b=\"q\\\"q\"\napp=\"x\"", "metadata.annotations['none']": "", "spec.nodeName": "n1",
		"spec.serviceAccountName": "robot", "status.podIP": "10.0.0.1", "status.podIPs": "10.0.0.1,fd00::1", "status.hostIP": "192.0.2.1",
	} {
		if got, err := f.Field(path); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", path, got, err, want)
		}
	}
	if _, err := f.Field("spec.containers"); err == nil {
		t.Error("no error for a field that cannot be referred to")
	}
	for _, c := range []struct{ resource, divisor, want string }{
		{"limits.cpu", "", "2"}, {"limits.cpu", "1m", "1500"}, {"limits.memory", "1Gi", "8"}, {"requests.memory", "1Mi", "100"}, {"requests.cpu", "", "0"},
	} {
		selector := &corev1.ResourceFieldSelector{Resource: c.resource}
		if c.divisor != "" {
			selector.Divisor = resource.MustParse(c.divisor)
		}
		if got, err := f.Resource(selector); err != nil || got != c.want {
			t.Errorf("%s in %s: %q, %v; want %q", c.resource, c.divisor, got, err, c.want)
		}
	}
}

func TestHostNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		n.start(newPod("web", func(p *corev1.Pod) { p.Spec.HostNetwork = true }))
		n.within(time.Second, "ready", func() bool { return isReady(n.pod("web")) })
		if ip := n.pod("web").Status.PodIP; ip != "192.0.2.1" {
			t.Errorf("the pod's address is %s, want the node's", ip)
		}
		n.end()
	})
}
