package state

import (
	"reflect"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/statusbranch"
	"github.com/pleachdev/pleach/gitsync/trust"
	"github.com/pleachdev/pleach/reconcile"
)

// Kubernetes' comparison panics at a field that it cannot read. So every type that rows are made of
// has exported fields alone, or a comparison of its own.
func TestEverythingCanBeCompared(t *testing.T) {
	seen := map[reflect.Type]bool{}
	for _, own := range []any{time.Time{}, resource.Quantity{}, metav1.Time{}, metav1.MicroTime{}, &trust.AllowedSigners{}} {
		seen[reflect.TypeOf(own)] = true
	}
	var walk func(reflect.Type, string)
	walk = func(typ reflect.Type, path string) {
		if seen[typ] {
			return
		}
		seen[typ] = true
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Array:
			walk(typ.Elem(), path+"[]")
		case reflect.Map:
			walk(typ.Key(), path+" key")
			walk(typ.Elem(), path+"[]")
		case reflect.Struct:
			for f := range typ.Fields() {
				if !f.IsExported() {
					t.Errorf("%s.%s cannot be compared", path, f.Name)
					continue
				}
				walk(f.Type, path+"."+f.Name)
			}
		default: // plain values, and interfaces, whose contents are listed below
		}
	}
	for _, row := range []any{
		gitsync.Accepted{},
		gitsync.Remote{},
		statusbranch.Status{},
		reconcile.Document{},
		Member{},
		reconcile.WorkloadStatus{},
		reconcile.SlotDecision{},
		corev1.Pod{},
		// what a reconcile.Object holds
		appsv1.Deployment{},
		appsv1.ReplicaSet{},
		appsv1.DaemonSet{},
		rbacv1.Role{},
		rbacv1.ClusterRole{},
		rbacv1.RoleBinding{},
		rbacv1.ClusterRoleBinding{},
		corev1.ConfigMap{},
		corev1.Secret{},
		corev1.Namespace{},
		corev1.Node{},
	} {
		walk(reflect.TypeOf(row), reflect.TypeOf(row).String())
	}
}
