package manifest

import (
	"context"
	"fmt"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	known "k8s.io/client-go/kubernetes/scheme"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/apps"
	appsinstall "k8s.io/kubernetes/pkg/apis/apps/install"
	appsvalidation "k8s.io/kubernetes/pkg/apis/apps/validation"
	"k8s.io/kubernetes/pkg/apis/core"
	coreinstall "k8s.io/kubernetes/pkg/apis/core/install"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	rbacinstall "k8s.io/kubernetes/pkg/apis/rbac/install"

	"github.com/pleachdev/pleach/reconcile"
)

// scheme knows how Kubernetes defaults, converts and validates the kinds that are accepted. Feature
// gates stay at the pinned Kubernetes' own defaults: two nodes that set them differently would
// disagree about what a manifest says.
var scheme = newScheme()

func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	coreinstall.Install(s)
	appsinstall.Install(s)
	rbacinstall.Install(s)
	return s
}

// kind is an accepted kind.
type kind struct {
	new        func() reconcile.K8sObject
	namespaced bool
	template   func(reconcile.K8sObject) *corev1.PodTemplateSpec // nil for kinds without pods
	validate   func(internal runtime.Object) field.ErrorList
	update     func(internal, old runtime.Object) field.ErrorList
}

var kinds = map[schema.GroupVersionKind]kind{
	rbacv1.SchemeGroupVersion.WithKind("Role"):               roleKind,
	rbacv1.SchemeGroupVersion.WithKind("ClusterRole"):        clusterRoleKind,
	rbacv1.SchemeGroupVersion.WithKind("RoleBinding"):        roleBindingKind,
	rbacv1.SchemeGroupVersion.WithKind("ClusterRoleBinding"): clusterRoleBindingKind,
	corev1.SchemeGroupVersion.WithKind("Pod"): {
		new: func() reconcile.K8sObject { return &corev1.Pod{} }, namespaced: true,
		template: func(o reconcile.K8sObject) *corev1.PodTemplateSpec {
			p := o.(*corev1.Pod)
			t := &corev1.PodTemplateSpec{Spec: p.Spec}
			t.Labels, t.Annotations = p.Labels, p.Annotations
			return t
		},
		validate: func(o runtime.Object) field.ErrorList {
			p := o.(*core.Pod)
			opts := podutil.GetValidationOptionsFromPodSpecAndMeta(&p.Spec, nil, &p.ObjectMeta, nil)
			opts.ResourceIsPod = true
			return corevalidation.ValidatePodCreate(p, opts)
		},
		update: func(o, old runtime.Object) field.ErrorList {
			p, q := o.(*core.Pod), old.(*core.Pod)
			opts := podutil.GetValidationOptionsFromPodSpecAndMeta(&p.Spec, &q.Spec, &p.ObjectMeta, &q.ObjectMeta)
			opts.ResourceIsPod = true
			return corevalidation.ValidatePodUpdate(p, q, opts)
		},
	},
	corev1.SchemeGroupVersion.WithKind("ConfigMap"): {
		new: func() reconcile.K8sObject { return &corev1.ConfigMap{} }, namespaced: true,
		validate: func(o runtime.Object) field.ErrorList {
			return corevalidation.ValidateConfigMap(o.(*core.ConfigMap))
		},
		update: func(o, old runtime.Object) field.ErrorList {
			return corevalidation.ValidateConfigMapUpdate(o.(*core.ConfigMap), old.(*core.ConfigMap))
		},
	},
	corev1.SchemeGroupVersion.WithKind("Secret"): {
		new: func() reconcile.K8sObject { return &corev1.Secret{} }, namespaced: true,
		validate: func(o runtime.Object) field.ErrorList {
			return corevalidation.ValidateSecret(o.(*core.Secret))
		},
		update: func(o, old runtime.Object) field.ErrorList {
			return corevalidation.ValidateSecretUpdate(o.(*core.Secret), old.(*core.Secret))
		},
	},
	corev1.SchemeGroupVersion.WithKind("Namespace"): {
		new: func() reconcile.K8sObject { return &corev1.Namespace{} },
		validate: func(o runtime.Object) field.ErrorList {
			return corevalidation.ValidateNamespace(o.(*core.Namespace))
		},
		update: func(o, old runtime.Object) field.ErrorList {
			return corevalidation.ValidateNamespaceUpdate(o.(*core.Namespace), old.(*core.Namespace))
		},
	},
	appsv1.SchemeGroupVersion.WithKind("Deployment"): {
		new: func() reconcile.K8sObject { return &appsv1.Deployment{} }, namespaced: true,
		template: func(o reconcile.K8sObject) *corev1.PodTemplateSpec { return &o.(*appsv1.Deployment).Spec.Template },
		validate: func(o runtime.Object) field.ErrorList {
			d := o.(*apps.Deployment)
			return appsvalidation.ValidateDeployment(d, podutil.GetValidationOptionsFromPodTemplate(&d.Spec.Template, nil))
		},
		update: func(o, old runtime.Object) field.ErrorList {
			d, q := o.(*apps.Deployment), old.(*apps.Deployment)
			return appsvalidation.ValidateDeploymentUpdate(d, q, podutil.GetValidationOptionsFromPodTemplate(&d.Spec.Template, &q.Spec.Template))
		},
	},
	appsv1.SchemeGroupVersion.WithKind("ReplicaSet"): {
		new: func() reconcile.K8sObject { return &appsv1.ReplicaSet{} }, namespaced: true,
		template: func(o reconcile.K8sObject) *corev1.PodTemplateSpec { return &o.(*appsv1.ReplicaSet).Spec.Template },
		validate: func(o runtime.Object) field.ErrorList {
			r := o.(*apps.ReplicaSet)
			return appsvalidation.ValidateReplicaSet(r, podutil.GetValidationOptionsFromPodTemplate(&r.Spec.Template, nil))
		},
		update: func(o, old runtime.Object) field.ErrorList {
			r, q := o.(*apps.ReplicaSet), old.(*apps.ReplicaSet)
			return appsvalidation.ValidateReplicaSetUpdate(r, q, podutil.GetValidationOptionsFromPodTemplate(&r.Spec.Template, &q.Spec.Template))
		},
	},
	appsv1.SchemeGroupVersion.WithKind("DaemonSet"): {
		new: func() reconcile.K8sObject { return &appsv1.DaemonSet{} }, namespaced: true,
		template: func(o reconcile.K8sObject) *corev1.PodTemplateSpec { return &o.(*appsv1.DaemonSet).Spec.Template },
		validate: func(o runtime.Object) field.ErrorList {
			d := o.(*apps.DaemonSet)
			return appsvalidation.ValidateDaemonSet(d, podutil.GetValidationOptionsFromPodTemplate(&d.Spec.Template, nil))
		},
		update: func(o, old runtime.Object) field.ErrorList {
			d, q := o.(*apps.DaemonSet), old.(*apps.DaemonSet)
			// An API server counts the templates of a DaemonSet itself.
			d.Spec.TemplateGeneration = q.Spec.TemplateGeneration
			if !equality.Semantic.DeepEqual(d.Spec.Template, q.Spec.Template) {
				d.Spec.TemplateGeneration++
			}
			return appsvalidation.ValidateDaemonSetUpdate(d, q, podutil.GetValidationOptionsFromPodTemplate(&d.Spec.Template, &q.Spec.Template))
		},
	},
}

var nodeKind = corev1.SchemeGroupVersion.WithKind("Node")

// extensions are kinds of Kubernetes that client-go's scheme does not hold.
var extensions = map[schema.GroupKind]bool{
	{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}: true,
	{Group: "apiregistration.k8s.io", Kind: "APIService"}:             true,
}

// checkKind says what is to be done with a kind that is not accepted.
func checkKind(gvk schema.GroupVersionKind) Problem {
	name := gvk.GroupVersion().String() + " " + gvk.Kind
	switch {
	case gvk == nodeKind:
		return Problem{Reason: "a Node belongs into nodes/<name>.yaml, not into an app"}
	case gvk.Group == "kustomize.config.k8s.io":
		return Problem{Reason: "a kustomization inside a folder of plain manifests is not built: make its folder an app of its own, or put a kustomization.yaml above that names it"}
	case gvk.Group == "pleach.dev":
		return Problem{Reason: name + " belongs into pleach.yaml, not into an app"}
	}
	for k := range kinds {
		if k.Kind == gvk.Kind && (k.Group == gvk.Group || known.Scheme.Recognizes(gvk)) {
			return Problem{Reason: fmt.Sprintf("%s is no longer served by Kubernetes: write apiVersion: %s", name, k.GroupVersion())}
		}
	}
	if known.Scheme.Recognizes(gvk) || extensions[gvk.GroupKind()] {
		return Problem{Held: true, Reason: "not supported yet; Pleach leaves it out, the rest of the app goes on"}
	}
	return Problem{Reason: "unknown apiVersion and kind: " + name}
}

// internal converts to the version that Kubernetes' hand-written validation reads.
func internal(o runtime.Object) (runtime.Object, error) {
	gvks, _, err := scheme.ObjectKinds(o)
	if err != nil {
		return nil, err
	}
	return scheme.ConvertToVersion(o, schema.GroupVersion{Group: gvks[0].Group, Version: runtime.APIVersionInternal})
}

// recovered turns a panic of Kubernetes' code into a finding. An API server recovers in every request;
// here one manifest would stop every node.
func recovered(errs *field.ErrorList) {
	if p := recover(); p != nil {
		*errs = field.ErrorList{field.InternalError(nil, fmt.Errorf("validation panicked: %v", p))}
	}
}

// MaxReplicas bounds spec.replicas, which Kubernetes' validation does not: every node plans every slot.
const MaxReplicas = 100_000

func checkReplicas(o reconcile.K8sObject) field.ErrorList {
	var n *int32
	switch x := o.(type) {
	case *appsv1.Deployment:
		n = x.Spec.Replicas
	case *appsv1.ReplicaSet:
		n = x.Spec.Replicas
	}
	if n != nil && *n > MaxReplicas {
		return field.ErrorList{field.Invalid(field.NewPath("spec", "replicas"), *n, fmt.Sprintf("must be at most %d", MaxReplicas))}
	}
	return nil
}

// validateCreate defaults a new object and is what an API server would say of it.
func validateCreate(k kind, o reconcile.K8sObject) (errs field.ErrorList) {
	defer recovered(&errs)
	scheme.Default(o)
	in, err := internal(o.DeepCopyObject())
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	return append(merge(k.validate(in), scheme.Validate(context.Background(), map[string]bool{}, o)), checkReplicas(o)...)
}

// merge joins the findings of hand-written and generated validation: many rules stand in both.
func merge(written, generated field.ErrorList) field.ErrorList {
	type place struct {
		t     field.ErrorType
		field string
	}
	seen := map[place]bool{}
	for _, e := range written {
		seen[place{e.Type, e.Field}] = true
	}
	for _, e := range generated {
		if e.Type != field.ErrorTypeInternal && !e.IsAlpha() && !seen[place{e.Type, e.Field}] {
			written = append(written, e)
		}
	}
	return written
}

// foldStringData does what an API server does with a Secret's stringData.
func foldStringData(s *corev1.Secret) {
	if len(s.StringData) == 0 {
		return
	}
	data := maps.Clone(s.Data)
	if data == nil {
		data = map[string][]byte{}
	}
	for k, v := range s.StringData {
		data[k] = []byte(v)
	}
	s.Data, s.StringData = data, nil
}
