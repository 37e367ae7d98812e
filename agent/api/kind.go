package api

import (
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/pleachdev/pleach/reconcile"
)

// Kind is a kind of object that the API serves.
type Kind struct {
	Kind       string
	Group      string
	Resource   string // plural, lower case: "pods"
	Short      []string
	Namespaced bool
	// Workload kinds have a rollout and a reconcile.WorkloadStatus.
	Workload bool
	// New returns an empty object to decode into.
	New func() reconcile.K8sObject
}

// Kinds lists them in the order in which "all" prints them.
var Kinds = []Kind{
	{"Pod", "", "pods", []string{"po"}, true, true, func() reconcile.K8sObject { return new(corev1.Pod) }},
	{"DaemonSet", "apps", "daemonsets", []string{"ds"}, true, true, func() reconcile.K8sObject { return new(appsv1.DaemonSet) }},
	{"Deployment", "apps", "deployments", []string{"deploy"}, true, true, func() reconcile.K8sObject { return new(appsv1.Deployment) }},
	{"ReplicaSet", "apps", "replicasets", []string{"rs"}, true, true, func() reconcile.K8sObject { return new(appsv1.ReplicaSet) }},
	{"ConfigMap", "", "configmaps", []string{"cm"}, true, false, func() reconcile.K8sObject { return new(corev1.ConfigMap) }},
	{"Secret", "", "secrets", nil, true, false, func() reconcile.K8sObject { return new(corev1.Secret) }},
	{"Role", rbacv1.GroupName, "roles", nil, true, false, func() reconcile.K8sObject { return new(rbacv1.Role) }},
	{"RoleBinding", rbacv1.GroupName, "rolebindings", nil, true, false, func() reconcile.K8sObject { return new(rbacv1.RoleBinding) }},
	{"ClusterRole", rbacv1.GroupName, "clusterroles", nil, false, false, func() reconcile.K8sObject { return new(rbacv1.ClusterRole) }},
	{"ClusterRoleBinding", rbacv1.GroupName, "clusterrolebindings", nil, false, false, func() reconcile.K8sObject { return new(rbacv1.ClusterRoleBinding) }},
	{"Namespace", "", "namespaces", []string{"ns"}, false, false, func() reconcile.K8sObject { return new(corev1.Namespace) }},
	{"Node", "", "nodes", []string{"no"}, false, false, func() reconcile.K8sObject { return new(corev1.Node) }},
	{"Event", "", "events", []string{"ev"}, true, false, func() reconcile.K8sObject { return new(corev1.Event) }},
}

// FindKind finds a kind by what people type: "pod", "pods", "po", "Pod", "deployments.apps".
func FindKind(word string) (Kind, error) {
	lower := strings.ToLower(word)
	name, group, _ := strings.Cut(lower, ".")
	for _, k := range Kinds {
		if group != "" && group != k.Group && !strings.HasSuffix(group, "."+k.Group) {
			continue
		}
		if name == k.Resource || name == strings.ToLower(k.Kind) || slices.Contains(k.Short, name) {
			return k, nil
		}
	}
	var known []string
	for _, k := range Kinds {
		known = append(known, k.Resource)
	}
	return Kind{}, fmt.Errorf("%s: no such kind of object; there are %s", word, strings.Join(known, ", "))
}

// GroupResource is the kind's name in errors: pods, deployments.apps.
func (k Kind) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: k.Group, Resource: k.Resource}
}
