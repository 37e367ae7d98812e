package policy

import (
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/pleachdev/pleach/reconcile"
)

func named(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

func rule(verb, group, resource string, names ...string) []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{{Verbs: []string{verb}, APIGroups: []string{group}, Resources: []string{resource}, ResourceNames: names}}
}

func subject(kind, name string) []rbacv1.Subject { return []rbacv1.Subject{{Kind: kind, Name: name}} }

func seq(objects ...reconcile.K8sObject) (out []reconcile.Object) {
	for i, o := range objects {
		out = append(out, reconcile.Object{Object: o, Source: reconcile.Source{Path: "access.yaml", Line: i + 1}})
	}
	return out
}

func TestAllow(t *testing.T) {
	role := func(namespace string, r []rbacv1.PolicyRule) *rbacv1.Role {
		return &rbacv1.Role{ObjectMeta: named(namespace, "r"), Rules: r}
	}
	clusterRole := func(r []rbacv1.PolicyRule) *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{ObjectMeta: named("", "r"), Rules: r}
	}
	binding := func(namespace, refKind string, s []rbacv1.Subject) *rbacv1.RoleBinding {
		return &rbacv1.RoleBinding{ObjectMeta: named(namespace, "b"), Subjects: s, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: refKind, Name: "r"}}
	}
	clusterBinding := func(s []rbacv1.Subject) *rbacv1.ClusterRoleBinding {
		return &rbacv1.ClusterRoleBinding{ObjectMeta: named("", "b"), Subjects: s, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "r"}}
	}
	ada, exec := subject("User", "ada"), rule("create", "", "pods/exec")
	for _, tt := range []struct {
		name    string
		objects []reconcile.Object
		want    bool
	}{
		{"nothing", nil, false},
		{"role and binding", seq(role("shop", exec), binding("shop", "Role", ada)), true},
		{"binding first", seq(binding("shop", "Role", ada), role("shop", exec)), true},
		{"role elsewhere", seq(role("other", exec), binding("shop", "Role", ada)), false},
		{"binding elsewhere", seq(role("shop", exec), binding("other", "Role", ada)), false},
		{"cluster role by a binding", seq(clusterRole(exec), binding("shop", "ClusterRole", ada)), true},
		{"cluster role by a binding elsewhere", seq(clusterRole(exec), binding("other", "ClusterRole", ada)), false},
		{"cluster binding", seq(clusterRole(exec), clusterBinding(ada)), true},
		{"role for a cluster role", seq(role("shop", exec), binding("shop", "ClusterRole", ada)), false},
		{"somebody else", seq(clusterRole(exec), clusterBinding(subject("User", "eve"))), false},
		{"a node's name as a user", seq(clusterRole(exec), clusterBinding(subject("ServiceAccount", "ada"))), false},
		{"everybody", seq(clusterRole(exec), clusterBinding(subject("Group", "system:authenticated"))), true},
		{"a group of her name", seq(clusterRole(exec), clusterBinding(subject("Group", "ada"))), false},
		{"another verb", seq(clusterRole(rule("get", "", "pods/exec")), clusterBinding(ada)), false},
		{"another group", seq(clusterRole(rule("create", "apps", "pods/exec")), clusterBinding(ada)), false},
		{"pods alone", seq(clusterRole(rule("create", "", "pods")), clusterBinding(ada)), false},
		{"log", seq(clusterRole(rule("create", "", "pods/log")), clusterBinding(ada)), false},
		{"all", seq(clusterRole(rule("*", "*", "*")), clusterBinding(ada)), true},
		{"any exec", seq(clusterRole(rule("create", "", "*/exec")), clusterBinding(ada)), true},
		{"this pod", seq(clusterRole(rule("create", "", "pods/exec", "web")), clusterBinding(ada)), true},
		{"another pod", seq(clusterRole(rule("create", "", "pods/exec", "db")), clusterBinding(ada)), false},
	} {
		a := Access{Principals: []string{"ada"}, Verb: "create", Resource: "pods", Subresource: "exec", Namespace: "shop", Name: "web"}
		if g, ok := Allow(slices.Values(tt.objects), a); ok != tt.want || ok && !strings.Contains(g.String(), "access.yaml:") {
			t.Errorf("%s: %v by %q, want %v", tt.name, ok, g, tt.want)
		}
		a.Principals = nil
		if _, ok := Allow(slices.Values(tt.objects), a); ok {
			t.Errorf("%s: nobody is allowed", tt.name)
		}
	}
}

// What is proposed to a person who was refused is what would have allowed it.
func TestProposalAllows(t *testing.T) {
	a := Access{Principals: []string{"ada@example.com"}, Verb: "get", Resource: "pods", Subresource: "log", Namespace: "shop", Name: "web"}
	role, binding, ok := strings.Cut(a.Proposal(), "---\n")
	var r rbacv1.Role
	var b rbacv1.RoleBinding
	if !ok || yaml.UnmarshalStrict([]byte(role), &r) != nil || yaml.UnmarshalStrict([]byte(binding), &b) != nil {
		t.Fatalf("not YAML: %s", a.Proposal())
	}
	if g, ok := Allow(slices.Values(seq(&r, &b)), a); !ok {
		t.Errorf("%v\n%s", g, a.Proposal())
	}
}
