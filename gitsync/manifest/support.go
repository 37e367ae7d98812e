package manifest

import (
	"fmt"
	"reflect"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// support says what is done with a field that a manifest sets.
type support int

const (
	honoured support = iota
	// reported fields do no harm when they are absent: the object stays, a warning names the field.
	reported
	// held fields change what their user relies on: the object is held back until they are honoured.
	held
)

// rule is the support of one field. A rule without when applies to every value that is not zero.
type rule struct {
	support support
	when    func(reflect.Value) bool // the other values are honoured
	why     string                   // what a person should know beside "is not supported yet"
}

type rules map[string]rule // by JSON name

// fields adds fields of one support to the rules.
func (r rules) fields(s support, names ...string) rules {
	for _, n := range names {
		r[n] = rule{support: s}
	}
	return r
}

func (r rules) with(name string, x rule) rules {
	r[name] = x
	return r
}

func isNot[T comparable](values ...T) func(reflect.Value) bool {
	return func(v reflect.Value) bool {
		for v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		for _, want := range values {
			if v.Interface() == any(want) {
				return false
			}
		}
		return true
	}
}

var containerRules = rules{}.
	fields(honoured, "name", "image", "command", "args", "workingDir", "ports", "envFrom", "env", "resources",
		"restartPolicy", "volumeMounts", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle",
		"terminationMessagePath", "terminationMessagePolicy", "imagePullPolicy", "securityContext",
		"stdin", "stdinOnce", "tty").
	fields(reported, "resizePolicy").
	fields(held, "restartPolicyRules", "volumeDevices")

// supported holds the rules of every struct that an accepted kind reaches. A test walks the types of
// k8s.io/api and fails for a field that stands nowhere here, so that none is ever ignored in silence.
var supported = map[reflect.Type]rules{
	reflect.TypeFor[metav1.ObjectMeta](): rules{}.
		fields(honoured, "name", "generateName", "namespace", "labels", "annotations",
			// What an API server sets; decode clears and reports them.
			"selfLink", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp",
			"deletionGracePeriodSeconds", "managedFields").
		fields(reported, "ownerReferences", "finalizers"),
	reflect.TypeFor[appsv1.DeploymentSpec](): rules{}.
		fields(honoured, "replicas", "selector", "template", "strategy", "minReadySeconds", "revisionHistoryLimit",
			"paused", "progressDeadlineSeconds"),
	reflect.TypeFor[appsv1.ReplicaSetSpec](): rules{}.
		fields(honoured, "replicas", "selector", "template", "minReadySeconds"),
	reflect.TypeFor[appsv1.DaemonSetSpec](): rules{}.
		fields(honoured, "selector", "template", "updateStrategy", "minReadySeconds", "revisionHistoryLimit"),
	reflect.TypeFor[rbacv1.ClusterRole](): rules{}.
		fields(honoured, "metadata", "rules").
		fields(held, "aggregationRule"),
	reflect.TypeFor[corev1.NamespaceSpec](): rules{}.
		fields(reported, "finalizers"),
	reflect.TypeFor[corev1.PodSpec](): rules{}.
		fields(honoured, "volumes", "initContainers", "containers", "restartPolicy", "terminationGracePeriodSeconds",
			"activeDeadlineSeconds", "dnsPolicy", "nodeSelector", "nodeName", "hostNetwork", "hostPID", "hostIPC",
			"shareProcessNamespace", "securityContext", "imagePullSecrets", "hostname", "subdomain", "affinity",
			"tolerations", "hostAliases", "priority", "preemptionPolicy", "dnsConfig", "topologySpreadConstraints").
		fields(reported, "serviceAccountName", "serviceAccount", "automountServiceAccountToken", "priorityClassName",
			"enableServiceLinks", "evictionResponders").
		fields(held, "ephemeralContainers", "readinessGates", "runtimeClassName", "overhead", "setHostnameAsFQDN",
			"schedulingGates", "resourceClaims", "resources", "hostnameOverride", "schedulingGroup").
		with("schedulerName", rule{held, isNot(corev1.DefaultSchedulerName), "every pod is placed by the one planner"}).
		with("os", rule{held, func(v reflect.Value) bool { return v.Interface().(*corev1.PodOS).Name != corev1.Linux }, "nodes run Linux"}).
		with("hostUsers", rule{held, isNot(true), "user namespaces"}),
	reflect.TypeFor[corev1.Container](): containerRules,
	reflect.TypeFor[corev1.ContainerPort](): rules{}.
		fields(honoured, "name", "containerPort", "protocol", "hostPort", "hostIP"),
	reflect.TypeFor[corev1.EnvVarSource](): rules{}.
		fields(honoured, "fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef").
		fields(held, "fileKeyRef"),
	reflect.TypeFor[corev1.ResourceRequirements](): rules{}.
		with("limits", rule{honoured, nil, ""}).
		with("requests", rule{honoured, nil, ""}).
		fields(held, "claims"),
	reflect.TypeFor[corev1.ProbeHandler](): rules{}.
		fields(honoured, "exec", "httpGet", "tcpSocket", "grpc"),
	reflect.TypeFor[corev1.Probe](): rules{}.
		fields(honoured, "initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold",
			"failureThreshold", "terminationGracePeriodSeconds"),
	reflect.TypeFor[corev1.Lifecycle](): rules{}.
		fields(honoured, "postStart", "preStop", "stopSignal"),
	reflect.TypeFor[corev1.LifecycleHandler](): rules{}.
		fields(honoured, "exec", "httpGet", "sleep").
		with("tcpSocket", rule{reported, nil, "Kubernetes ignores it too"}),
	reflect.TypeFor[corev1.VolumeMount](): rules{}.
		fields(honoured, "name", "readOnly", "mountPath", "subPath", "mountPropagation", "subPathExpr").
		fields(held, "bindMountOptions").
		with("recursiveReadOnly", rule{held, isNot(corev1.RecursiveReadOnlyDisabled), ""}),
	reflect.TypeFor[corev1.VolumeSource](): rules{}.
		fields(honoured, "hostPath", "emptyDir", "secret", "downwardAPI", "configMap", "projected").
		fields(held, "gcePersistentDisk", "awsElasticBlockStore", "gitRepo", "nfs", "iscsi", "glusterfs",
			"persistentVolumeClaim", "rbd", "flexVolume", "cinder", "cephfs", "flocker", "fc", "azureFile",
			"vsphereVolume", "quobyte", "azureDisk", "photonPersistentDisk", "portworxVolume", "scaleIO",
			"storageos", "csi", "ephemeral", "image"),
	reflect.TypeFor[corev1.EmptyDirVolumeSource](): rules{}.
		fields(honoured, "sizeLimit").
		fields(held, "mode").
		with("medium", rule{held, isNot(corev1.StorageMediumMemory), "want Memory or none"}),
	reflect.TypeFor[corev1.VolumeProjection](): rules{}.
		fields(honoured, "secret", "downwardAPI", "configMap").
		fields(held, "serviceAccountToken", "clusterTrustBundle", "podCertificate"),
	reflect.TypeFor[corev1.PodSecurityContext](): rules{}.
		fields(honoured, "runAsUser", "runAsGroup", "runAsNonRoot", "supplementalGroups", "fsGroup", "sysctls",
			"seccompProfile").
		fields(reported, "fsGroupChangePolicy", "seLinuxChangePolicy").
		fields(held, "seLinuxOptions", "windowsOptions", "appArmorProfile").
		with("supplementalGroupsPolicy", rule{held, isNot(corev1.SupplementalGroupsPolicyMerge), ""}),
	reflect.TypeFor[corev1.SecurityContext](): rules{}.
		fields(honoured, "capabilities", "privileged", "runAsUser", "runAsGroup", "runAsNonRoot",
			"readOnlyRootFilesystem", "allowPrivilegeEscalation", "seccompProfile").
		fields(held, "seLinuxOptions", "windowsOptions", "appArmorProfile").
		with("procMount", rule{held, isNot(corev1.DefaultProcMount), ""}),
}

// whole lists the structs that are honoured with all their fields.
var whole = typeSet(
	metav1.TypeMeta{}, metav1.ManagedFieldsEntry{}, metav1.LabelSelector{}, metav1.LabelSelectorRequirement{},
	appsv1.DeploymentStrategy{}, appsv1.RollingUpdateDeployment{}, appsv1.DaemonSetUpdateStrategy{},
	appsv1.RollingUpdateDaemonSet{}, appsv1.Deployment{}, appsv1.ReplicaSet{}, appsv1.DaemonSet{},
	corev1.Pod{}, corev1.ConfigMap{}, corev1.Secret{}, corev1.Namespace{}, corev1.PodTemplateSpec{},
	corev1.Volume{}, corev1.HostPathVolumeSource{}, corev1.SecretVolumeSource{}, corev1.ConfigMapVolumeSource{},
	corev1.DownwardAPIVolumeSource{}, corev1.DownwardAPIVolumeFile{}, corev1.ProjectedVolumeSource{},
	corev1.KeyToPath{}, corev1.SecretProjection{}, corev1.DownwardAPIProjection{}, corev1.ConfigMapProjection{},
	corev1.LocalObjectReference{}, corev1.ObjectFieldSelector{}, corev1.ResourceFieldSelector{},
	corev1.ConfigMapKeySelector{}, corev1.SecretKeySelector{}, corev1.EnvVar{}, corev1.EnvFromSource{},
	corev1.ConfigMapEnvSource{}, corev1.SecretEnvSource{}, corev1.ExecAction{}, corev1.HTTPGetAction{},
	corev1.HTTPHeader{}, corev1.TCPSocketAction{}, corev1.GRPCAction{}, corev1.SleepAction{},
	corev1.PreferredSchedulingTerm{}, corev1.Capabilities{},
	corev1.SeccompProfile{}, corev1.Sysctl{}, corev1.NodeSelector{}, corev1.NodeSelectorTerm{},
	corev1.NodeSelectorRequirement{}, corev1.Affinity{}, corev1.NodeAffinity{},
	corev1.PodAffinity{}, corev1.PodAntiAffinity{}, corev1.PodAffinityTerm{}, corev1.WeightedPodAffinityTerm{},
	corev1.TopologySpreadConstraint{}, corev1.Toleration{}, corev1.HostAlias{}, corev1.PodDNSConfig{},
	corev1.PodDNSConfigOption{},
	rbacv1.Role{}, rbacv1.RoleBinding{}, rbacv1.ClusterRoleBinding{}, rbacv1.PolicyRule{}, rbacv1.Subject{}, rbacv1.RoleRef{},
)

func typeSet(values ...any) map[reflect.Type]bool {
	set := make(map[reflect.Type]bool, len(values))
	for _, v := range values {
		set[reflect.TypeOf(v)] = true
	}
	return set
}

// checkSupport lists the fields of an object, as it was written, that are reported or held.
func checkSupport(o any) []Problem {
	var c supportChecker
	c.walk(reflect.ValueOf(o), "")
	return c.problems
}

type supportChecker struct{ problems []Problem }

func (c *supportChecker) walk(v reflect.Value, path string) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			c.walk(v.Elem(), path)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return
		}
		for i := range v.Len() {
			c.walk(v.Index(i), path+"["+strconv.Itoa(i)+"]")
		}
	case reflect.Struct:
		c.fields(v, path)
	default: // a map or a scalar has no fields
	}
}

func (c *supportChecker) fields(v reflect.Value, path string) {
	switch x := v.Interface().(type) {
	case corev1.ResourceRequirements:
		c.resources(x, path)
	case corev1.PodSpec:
		for i, container := range x.Containers {
			if container.RestartPolicy != nil {
				c.add(held, path+".containers["+strconv.Itoa(i)+"].restartPolicy", "init containers may be restarted Always")
			}
		}
		for i, container := range x.InitContainers {
			if p := container.RestartPolicy; p != nil && *p != corev1.ContainerRestartPolicyAlways {
				c.add(held, path+".initContainers["+strconv.Itoa(i)+"].restartPolicy", "want Always or none")
			}
		}
	}
	rules := supported[v.Type()]
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name := jsonName(f)
		field := v.Field(i)
		if !f.IsExported() || name == "status" || empty(field) {
			continue
		}
		p := path
		if name != "" && path != "" {
			p += "."
		}
		p += name
		r := rules[name]
		if r.support != honoured && (r.when == nil || r.when(field)) {
			c.add(r.support, p, r.why)
			continue
		}
		c.walk(field, p)
	}
}

// resources reports what is neither accounted for nor enforced.
func (c *supportChecker) resources(r corev1.ResourceRequirements, path string) {
	for list, quantities := range map[string]corev1.ResourceList{"limits": r.Limits, "requests": r.Requests} {
		for name := range quantities {
			p := path + "." + list + "[" + string(name) + "]"
			switch name {
			case corev1.ResourceCPU, corev1.ResourceMemory:
			case corev1.ResourceEphemeralStorage:
				c.add(reported, p, "")
			default:
				c.add(held, p, "devices and huge pages")
			}
		}
	}
}

func (c *supportChecker) add(s support, path, why string) {
	reason := "not honoured yet; the object runs without it"
	if s == held {
		reason = "not supported yet; Pleach holds the object back, the rest of the app goes on"
	}
	if why != "" {
		reason = fmt.Sprintf("%s (%s)", reason, why)
	}
	c.problems = append(c.problems, Problem{Field: path, Reason: reason, Held: s == held})
}
