package pods

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// environment resolves a container's environment in Kubernetes' order: envFrom first, then env, a
// later name replacing an earlier one. skipped are keys of envFrom that cannot be variables.
func environment(c *corev1.Container, namespace string, objects Lookup, f fields) (names []string, values map[string]string, skipped []string, err error) {
	values = map[string]string{}
	set := func(name, value string) {
		if _, again := values[name]; !again {
			names = append(names, name)
		}
		values[name] = value
	}
	for _, from := range c.EnvFrom {
		data, err := envFrom(&from, namespace, objects)
		if err != nil {
			return nil, nil, nil, err
		}
		for _, k := range slices.Sorted(maps.Keys(data)) {
			if len(validation.IsRelaxedEnvVarName(from.Prefix+k)) > 0 {
				skipped = append(skipped, k)
				continue
			}
			set(from.Prefix+k, data[k])
		}
	}
	for i := range c.Env {
		e := &c.Env[i]
		if e.ValueFrom == nil {
			set(e.Name, expand(e.Value, values))
			continue
		}
		value, ok, err := valueFrom(e.ValueFrom, namespace, objects, f)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("env %s: %w", e.Name, err)
		}
		if ok {
			set(e.Name, value)
		}
	}
	return names, values, skipped, nil
}

func envFrom(from *corev1.EnvFromSource, namespace string, objects Lookup) (map[string]string, error) {
	switch {
	case from.ConfigMapRef != nil:
		object := objects.ConfigMap(namespace, from.ConfigMapRef.Name)
		if object == nil {
			if isTrue(from.ConfigMapRef.Optional) {
				return nil, nil
			}
			return nil, fmt.Errorf("configmap %q not found", from.ConfigMapRef.Name)
		}
		return object.Data, nil
	case from.SecretRef != nil:
		object := objects.Secret(namespace, from.SecretRef.Name)
		if object == nil {
			if isTrue(from.SecretRef.Optional) {
				return nil, nil
			}
			return nil, fmt.Errorf("secret %q not found", from.SecretRef.Name)
		}
		data := make(map[string]string, len(object.Data))
		for k, v := range object.Data {
			data[k] = string(v)
		}
		return data, nil
	}
	return nil, nil
}

// valueFrom resolves one reference; ok is false for an optional one that leads nowhere.
func valueFrom(from *corev1.EnvVarSource, namespace string, objects Lookup, f fields) (value string, ok bool, err error) {
	switch {
	case from.FieldRef != nil:
		value, err = f.Field(from.FieldRef.FieldPath)
		return value, err == nil, err
	case from.ResourceFieldRef != nil:
		value, err = f.Resource(from.ResourceFieldRef)
		return value, err == nil, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		object := objects.ConfigMap(namespace, ref.Name)
		if object == nil {
			return "", false, missing(ref.Optional, "configmap %q not found", ref.Name)
		}
		if value, ok = object.Data[ref.Key]; !ok {
			return "", false, missing(ref.Optional, "couldn't find key %s in ConfigMap %s/%s", ref.Key, namespace, ref.Name)
		}
		return value, true, nil
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		object := objects.Secret(namespace, ref.Name)
		if object == nil {
			return "", false, missing(ref.Optional, "secret %q not found", ref.Name)
		}
		data, ok := object.Data[ref.Key]
		if !ok {
			return "", false, missing(ref.Optional, "couldn't find key %s in Secret %s/%s", ref.Key, namespace, ref.Name)
		}
		return string(data), true, nil
	}
	return "", false, fmt.Errorf("valueFrom: want fieldRef, resourceFieldRef, configMapKeyRef or secretKeyRef")
}

func missing(optional *bool, format string, args ...any) error {
	if isTrue(optional) {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// expand replaces $(NAME) by a value that is known; $$ stands for one $, and a reference to an
// unknown name stays as it is written.
func expand(text string, values map[string]string) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(text, '$')
		if i < 0 || i == len(text)-1 {
			b.WriteString(text)
			return b.String()
		}
		b.WriteString(text[:i])
		text = text[i:]
		switch text[1] {
		case '$':
			b.WriteByte('$')
			text = text[2:]
		case '(':
			name, rest, closed := strings.Cut(text[2:], ")")
			if !closed {
				b.WriteString(text)
				return b.String()
			}
			if value, ok := values[name]; ok {
				b.WriteString(value)
			} else {
				b.WriteString("$(" + name + ")")
			}
			text = rest
		default:
			b.WriteString(text[:2])
			text = text[2:]
		}
	}
}
