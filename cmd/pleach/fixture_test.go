package main

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/manifest"
	"github.com/pleachdev/pleach/gitsync/statusbranch"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/state"
)

// The laboratory of these tests: a flock of three nodes as node-1 knows it, in the middle of a
// rollout. Times lie whole days back, so that ages print the same whenever the tests run.

const day = 24 * time.Hour

func commit(char byte, age time.Duration) reconcile.Commit {
	id := make([]byte, 40)
	for i := range id {
		id[i] = char
	}
	return reconcile.Commit{ID: string(id), Level: int64(char), Time: time.Now().Add(-age)}
}

func meta(namespace, name string, labels map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name, Labels: labels, Generation: 2,
		UID: types.UID("uid-" + name), CreationTimestamp: metav1.NewTime(time.Now().Add(-100 * day)),
	}
}

var webLabels = map[string]string{"app": "web"}

func webTemplate(image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: webLabels},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "app", Image: image, Command: []string{"/app", "--port=8080"},
			Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}},
			Env: []corev1.EnvVar{
				{Name: "MODE", Value: "fast"},
				{Name: "PASSWORD", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
					LocalObjectReference: corev1.LocalObjectReference{Name: "login"}, Key: "password",
				}}},
			},
			Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("64Mi")},
				Limits:   corev1.ResourceList{"memory": resource.MustParse("128Mi")},
			},
			ReadinessProbe: &corev1.Probe{
				ProbeHandler:   corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Port: intstr.FromString("http"), Scheme: "HTTP"}},
				TimeoutSeconds: 1, PeriodSeconds: 10, SuccessThreshold: 1, FailureThreshold: 3,
			},
			VolumeMounts: []corev1.VolumeMount{{Name: "settings", MountPath: "/etc/web", ReadOnly: true}},
		}}, Volumes: []corev1.Volume{{Name: "settings", VolumeSource: corev1.VolumeSource{
			ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}},
		}}}},
	}
}

func fixtureAccepted() *gitsync.Accepted {
	older, current, refused := commit('a', 100*day), commit('b', 2*day), commit('c', day)
	deployment := &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: meta("default", "web", webLabels),
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(3)), Selector: &metav1.LabelSelector{MatchLabels: webLabels}, Template: webTemplate("example.com/web:2"),
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{
				MaxUnavailable: new(intstr.FromInt32(0)), MaxSurge: new(intstr.FromInt32(1)),
			}},
		},
	}
	daemons := &appsv1.DaemonSet{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "DaemonSet"},
		ObjectMeta: meta("tools", "watcher", map[string]string{"app": "watcher"}),
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "watcher"}},
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "watcher", Image: "example.com/watcher:1"}}}},
		},
	}
	settings := &corev1.ConfigMap{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: meta("default", "settings", nil),
		Data: map[string]string{"mode": "fast", "motd": "hello\nworld"},
	}
	login := &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: meta("default", "login", nil),
		Type: corev1.SecretTypeOpaque, Data: map[string][]byte{"password": []byte("correct horse")},
		StringData: map[string]string{"user": "ann"},
	}
	login.Annotations = map[string]string{corev1.LastAppliedConfigAnnotation: `{"data":{"password":"correct horse"}}`}
	object := func(o reconcile.K8sObject, app, path string, line int, templates ...reconcile.Template) reconcile.Object {
		return reconcile.Object{Source: reconcile.Source{App: app, Path: path, Line: line}, Commit: current, Object: o, Templates: templates}
	}
	node := func(name string, n int) *corev1.Node {
		o := &corev1.Node{ObjectMeta: meta("", name, map[string]string{"zone": string(rune('a' + n))})}
		o.Spec.PodCIDRs = []string{"10.8." + string(rune('0'+n)) + ".0/24"}
		return o
	}
	return &gitsync.Accepted{
		Head:          refused,
		Cluster:       v1alpha1.Cluster{ObjectMeta: metav1.ObjectMeta{Name: "demo"}},
		ClusterCommit: older,
		Nodes:         []*corev1.Node{node("node-1", 1), node("node-2", 2), node("node-3", 3)},
		Apps: []gitsync.App{
			{Name: "tools", Commit: current, Objects: []reconcile.Object{object(daemons, "tools", "tools/watcher.yaml", 1)}},
			{Name: "web", Commit: current, Objects: []reconcile.Object{
				object(settings, "web", "web/settings.yaml", 1),
				object(deployment, "web", "web/deploy.yaml", 3,
					reconcile.Template{Revision: "7c9f4d5b6a", Commit: current, Spec: webTemplate("example.com/web:2")},
					reconcile.Template{Revision: "5d8e7f6a9b", Commit: older, Spec: webTemplate("example.com/web:1")}),
				object(login, "web", "web/login.yaml", 1),
			}},
		},
		Refusals: []gitsync.Refusal{{
			Commit: refused, Subject: "web: more replicas", Author: "Ann <ann@example.com>", App: "web",
			Reason: "the manifests have errors", Running: current,
			Problems: []manifest.Problem{{App: "web", Path: "web/deploy.yaml", Line: 14, Field: "spec.replicas", Reason: `want a whole number, got "three"`}},
		}, {
			Commit: refused, Subject: "tools: \x1b[31mred", Author: "Eve <eve@example.com>", App: "tools",
			Reason: "signed by a key that trust/allowed_signers does not know: SHA256:abc", Running: current,
		}},
		Warnings: []manifest.Problem{{App: "web", Path: "web/service.yaml", Line: 1, Object: "v1 Service web", Reason: "not supported yet"}},
	}
}

func pod(name, revision, image string, ready bool) *corev1.Pod {
	template := webTemplate(image)
	p := &corev1.Pod{ObjectMeta: meta("default", name, webLabels), Spec: template.Spec}
	p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", UID: "uid-web", Controller: new(true)}}
	p.CreationTimestamp = metav1.NewTime(time.Now().Add(-2 * day))
	p.Annotations = map[string]string{reconcile.AnnotationRevision: revision}
	p.Spec.NodeName = "node-1"
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	p.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, HostIP: "192.0.2.1", PodIP: "10.8.1.5", PodIPs: []corev1.PodIP{{IP: "10.8.1.5"}}, QOSClass: corev1.PodQOSBurstable,
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: status}},
		ContainerStatuses: []corev1.ContainerStatus{{
			Name: "app", Image: image, Ready: ready, ContainerID: "containerd://" + name,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(time.Now().Add(-2 * day))}},
		}},
	}
	return p
}

func instance(name, revision, node string, ordinal int32, ready bool) reconcile.Instance {
	return reconcile.Instance{
		Slot: reconcile.Slot{Workload: "uid-web", Ordinal: ordinal}, Revision: revision, Epoch: 1, Node: node, Boot: 1,
		Claimed: time.Now().Add(-2 * day), Kind: "Deployment", Namespace: "default", Owner: "web", Name: name,
		UID: types.UID("uid-" + name), Phase: corev1.PodRunning, Ready: ready, Cause: commit('b', 0).ID,
	}
}

func document(node string, instances ...reconcile.Instance) *reconcile.Document {
	resources := corev1.ResourceList{"cpu": resource.MustParse("2"), "memory": resource.MustParse("4Gi"), "pods": resource.MustParse("110")}
	return &reconcile.Document{
		Node: node, Boot: 1, Seq: 1, Head: commit('c', day), Capacity: resources, Allocatable: resources,
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2." + node[len(node)-1:]}, {Type: corev1.NodeHostName, Address: node}},
		Conditions: []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "AgentReady", Message: "the agent is ready",
			LastTransitionTime: metav1.NewTime(time.Now().Add(-10 * day)),
		}},
		NodeInfo:  corev1.NodeSystemInfo{KernelVersion: "6.1.0", OSImage: "Debian 12", ContainerRuntimeVersion: "containerd://2.4.2", KubeletVersion: "v0.1.0", Architecture: "amd64", OperatingSystem: "linux"},
		Instances: instances,
	}
}

// fill puts the laboratory into a store.
func fill(s *state.Store) {
	s.SetAccepted(fixtureAccepted())
	now := time.Now()
	s.SetRemote(gitsync.Remote{URL: "https://git.example.com/config.git", Branch: "main", LastTry: now.Add(-3 * day), LastOK: now.Add(-3 * day)})
	s.SetStatusPush(statusbranch.Status{Branch: "pleach/status", Commit: commit('d', day).ID, LastTry: now.Add(-4 * day), LastOK: now.Add(-4 * day)})
	s.SetPods([]*corev1.Pod{
		pod("web-7c9f4d5b6a-aaaaa", "7c9f4d5b6a", "example.com/web:2", true),
		pod("web-7c9f4d5b6a-bbbbb", "7c9f4d5b6a", "example.com/web:2", false),
	})
	s.SetDocument(document("node-1",
		instance("web-7c9f4d5b6a-aaaaa", "7c9f4d5b6a", "node-1", 0, true),
		instance("web-7c9f4d5b6a-bbbbb", "7c9f4d5b6a", "node-1", 1, false)))
	remote := instance("web-5d8e7f6a9b-ccccc", "5d8e7f6a9b", "node-2", 2, true)
	remote.PodIP, remote.Restarts = "10.8.2.7", 4
	s.SetDocument(document("node-2", remote))
	source := reconcile.Source{App: "web", Path: "web/deploy.yaml", Line: 3}
	s.SetDecided(&reconcile.Decision{Workloads: []reconcile.WorkloadStatus{
		{
			Source: source, Kind: "Deployment", Namespace: "default", Name: "web", UID: "uid-web", Generation: 2,
			Commit: commit('b', 2*day), Revision: "7c9f4d5b6a", Desired: 3, Current: 3, Updated: 2, Ready: 2, Available: 2,
			Conditions: []metav1.Condition{{Type: "Progressing", Status: "True", Reason: "ReplicaSetUpdated", Message: "the rollout is under way"}},
			Waiting: []reconcile.SlotReason{
				{Slot: reconcile.Slot{Workload: "uid-web", Ordinal: 1}, Node: "node-1", Pod: "web-7c9f4d5b6a-bbbbb", Reason: "container app is not ready"},
				{Slot: reconcile.Slot{Workload: "uid-web", Ordinal: 2}, Node: "node-2", Pod: "web-5d8e7f6a9b-ccccc", Reason: "waits for slot 1 to be ready"},
			},
		},
		{
			Source: reconcile.Source{App: "tools", Path: "tools/watcher.yaml", Line: 1}, Kind: "DaemonSet", Namespace: "tools", Name: "watcher",
			UID: "uid-watcher", Generation: 2, Commit: commit('b', 2*day), Revision: "6b7c8d9e5f", Desired: 2, Current: 2, Updated: 2, Ready: 2, Available: 2,
		},
	}})
	s.SetDecided(&reconcile.Decision{Slots: []reconcile.SlotDecision{
		{
			Slot: reconcile.Slot{Workload: "uid-web", Ordinal: 0}, Kind: "Deployment", Namespace: "default", Owner: "web", Source: source,
			Commit: commit('b', 2*day), Revision: "7c9f4d5b6a", Pod: "web-7c9f4d5b6a-aaaaa", Node: "node-1", Rule: reconcile.RuleKeep,
		},
		{
			Slot: reconcile.Slot{Workload: "uid-web", Ordinal: 2}, Kind: "Deployment", Namespace: "default", Owner: "web", Source: source,
			Commit: commit('b', 2*day), Revision: "7c9f4d5b6a", Pod: "web-5d8e7f6a9b-ccccc", Node: "node-2", Rule: reconcile.RuleRollout,
			Reason: "waits for slot 1 to be ready",
		},
	}})
	for range 3 {
		s.Record(state.Happening{
			Object: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "web-7c9f4d5b6a-bbbbb", UID: "uid-web-7c9f4d5b6a-bbbbb", FieldPath: "spec.containers{app}"},
			Type:   corev1.EventTypeWarning, Reason: "Unhealthy", Message: "Readiness probe failed: connection refused", Host: "node-1",
			At: now.Add(-5 * day),
		})
	}
}
