package policy

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/pleachdev/pleach/reconcile"
)

// Access is what a person asks of a node, as Kubernetes names it: to create pods/exec, to get pods/log.
type Access struct {
	Principals  []string // of the person's key in trust/allowed_signers
	Verb        string
	Group       string // "" for Kubernetes' core
	Resource    string // "pods"
	Subresource string // "exec", "log"; "" for none
	Namespace   string
	Name        string // of the object
}

// String is "create pods/exec in namespace shop".
func (a Access) String() string {
	return fmt.Sprintf("%s %s in namespace %s", a.Verb, a.resource(), a.Namespace)
}

func (a Access) resource() string {
	if a.Subresource == "" {
		return a.Resource
	}
	return a.Resource + "/" + a.Subresource
}

// Grant is what allows an access.
type Grant struct {
	Binding, Role string // "RoleBinding shop/on-call", "ClusterRole pod-access"
	Source        reconcile.Source
}

// String is "RoleBinding shop/on-call (access/on-call.yaml:1)".
func (g Grant) String() string {
	return fmt.Sprintf("%s of %s (%s:%d)", g.Role, g.Binding, g.Source.Path, g.Source.Line)
}

// everybody is the group that all who sign belong to.
const everybody = "system:authenticated"

// Allow asks the Roles and bindings among objects, by the rules of Kubernetes' RBAC authorizer, whether
// a is allowed, and by what: the first binding in the objects' order. What no rule allows is refused. A
// User is a principal of trust/allowed_signers; of groups there is system:authenticated.
func Allow(objects iter.Seq[reconcile.Object], a Access) (Grant, bool) {
	rules := map[rbacv1.RoleRef][]rbacv1.PolicyRule{} // of ClusterRoles, and of the namespace's Roles
	for o := range objects {
		switch r := o.Object.(type) {
		case *rbacv1.Role:
			if r.Namespace == a.Namespace {
				rules[rbacv1.RoleRef{Kind: "Role", Name: r.Name}] = r.Rules
			}
		case *rbacv1.ClusterRole:
			rules[rbacv1.RoleRef{Kind: "ClusterRole", Name: r.Name}] = r.Rules
		}
	}
	for o := range objects {
		var subjects []rbacv1.Subject
		var ref rbacv1.RoleRef
		g := Grant{Source: o.Source}
		switch b := o.Object.(type) {
		case *rbacv1.RoleBinding:
			if b.Namespace != a.Namespace {
				continue
			}
			subjects, ref, g.Binding = b.Subjects, b.RoleRef, "RoleBinding "+b.Namespace+"/"+b.Name
		case *rbacv1.ClusterRoleBinding:
			subjects, ref, g.Binding = b.Subjects, b.RoleRef, "ClusterRoleBinding "+b.Name
		default:
			continue
		}
		g.Role, ref.APIGroup = ref.Kind+" "+ref.Name, ""
		if slices.ContainsFunc(subjects, a.by) && slices.ContainsFunc(rules[ref], a.allowedBy) {
			return g, true
		}
	}
	return Grant{}, false
}

func (a Access) by(s rbacv1.Subject) bool {
	switch s.Kind {
	case rbacv1.UserKind:
		return slices.Contains(a.Principals, s.Name)
	case rbacv1.GroupKind:
		return s.Name == everybody && len(a.Principals) > 0
	}
	return false
}

func (a Access) allowedBy(r rbacv1.PolicyRule) bool {
	return has(r.Verbs, a.Verb) && has(r.APIGroups, a.Group) &&
		slices.ContainsFunc(r.Resources, func(resource string) bool {
			return resource == rbacv1.ResourceAll || resource == a.resource() ||
				a.Subresource != "" && resource == "*/"+a.Subresource
		}) &&
		(len(r.ResourceNames) == 0 || slices.Contains(r.ResourceNames, a.Name))
}

func has(list []string, want string) bool {
	return slices.Contains(list, "*") || slices.Contains(list, want)
}

// Proposal is a manifest that would allow a, for people to commit.
func (a Access) Proposal() string {
	const form = `apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: NAME, namespace: NAMESPACE}
rules: [{apiGroups: ["GROUP"], resources: [RESOURCE], verbs: [VERB]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: NAME, namespace: NAMESPACE}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: NAME}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "USER"}]
`
	return strings.NewReplacer(
		"NAMESPACE", a.Namespace, "NAME", strings.ReplaceAll(a.resource(), "/", "-"), "GROUP", a.Group,
		"RESOURCE", a.resource(), "VERB", a.Verb, "USER", a.Principals[0]).Replace(form)
}
