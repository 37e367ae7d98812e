package manifest

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/rbac"
	rbacvalidation "k8s.io/kubernetes/pkg/apis/rbac/validation"

	"github.com/pleachdev/pleach/reconcile"
)

// The kinds of the group rbac.authorization.k8s.io, which say who may ask nodes for what.

var roleKind = kind{
	new: func() reconcile.K8sObject { return &rbacv1.Role{} }, namespaced: true,
	validate: func(o runtime.Object) field.ErrorList { return rbacvalidation.ValidateRole(o.(*rbac.Role)) },
	update: func(o, old runtime.Object) field.ErrorList {
		return rbacvalidation.ValidateRoleUpdate(o.(*rbac.Role), old.(*rbac.Role))
	},
}

var clusterRoleKind = kind{
	new: func() reconcile.K8sObject { return &rbacv1.ClusterRole{} },
	validate: func(o runtime.Object) field.ErrorList {
		return rbacvalidation.ValidateClusterRole(o.(*rbac.ClusterRole), rbacvalidation.ClusterRoleValidationOptions{})
	},
	update: func(o, old runtime.Object) field.ErrorList {
		return rbacvalidation.ValidateClusterRoleUpdate(o.(*rbac.ClusterRole), old.(*rbac.ClusterRole), rbacvalidation.ClusterRoleValidationOptions{})
	},
}

var roleBindingKind = kind{
	new: func() reconcile.K8sObject { return &rbacv1.RoleBinding{} }, namespaced: true,
	validate: func(o runtime.Object) field.ErrorList {
		return rbacvalidation.ValidateRoleBinding(o.(*rbac.RoleBinding))
	},
	update: func(o, old runtime.Object) field.ErrorList {
		return rbacvalidation.ValidateRoleBindingUpdate(o.(*rbac.RoleBinding), old.(*rbac.RoleBinding))
	},
}

var clusterRoleBindingKind = kind{
	new: func() reconcile.K8sObject { return &rbacv1.ClusterRoleBinding{} },
	validate: func(o runtime.Object) field.ErrorList {
		return rbacvalidation.ValidateClusterRoleBinding(o.(*rbac.ClusterRoleBinding))
	},
	update: func(o, old runtime.Object) field.ErrorList {
		return rbacvalidation.ValidateClusterRoleBindingUpdate(o.(*rbac.ClusterRoleBinding), old.(*rbac.ClusterRoleBinding))
	},
}
