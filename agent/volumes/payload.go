package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
)

// A file is one file of a filled volume.
type file struct {
	data []byte
	mode fs.FileMode
}

// payload is what a volume should hold, by slash-separated path.
func (s *Set) payload(v *corev1.Volume) (map[string]file, error) {
	switch {
	case v.ConfigMap != nil:
		c := v.ConfigMap
		return s.configMap(c.Name, c.Items, mode(c.DefaultMode), isTrue(c.Optional))
	case v.Secret != nil:
		c := v.Secret
		return s.secret(c.SecretName, c.Items, mode(c.DefaultMode), isTrue(c.Optional))
	case v.DownwardAPI != nil:
		return s.downward(v.DownwardAPI.Items, mode(v.DownwardAPI.DefaultMode))
	}
	all := map[string]file{}
	for _, source := range v.Projected.Sources {
		var files map[string]file
		var err error
		usual := mode(v.Projected.DefaultMode)
		switch {
		case source.ConfigMap != nil:
			files, err = s.configMap(source.ConfigMap.Name, source.ConfigMap.Items, usual, isTrue(source.ConfigMap.Optional))
		case source.Secret != nil:
			files, err = s.secret(source.Secret.Name, source.Secret.Items, usual, isTrue(source.Secret.Optional))
		case source.DownwardAPI != nil:
			files, err = s.downward(source.DownwardAPI.Items, usual)
		default:
			err = errors.New("this kind of projected source is not supported; use configMap, secret or downwardAPI")
		}
		if err != nil {
			return nil, err
		}
		maps.Copy(all, files) // a later source wins, as under the kubelet
	}
	return all, nil
}

func (s *Set) configMap(name string, items []corev1.KeyToPath, usual fs.FileMode, optional bool) (map[string]file, error) {
	object := s.Objects.ConfigMap(s.Pod.Namespace, name)
	if object == nil {
		if optional {
			return nil, nil
		}
		return nil, fmt.Errorf("configmap %q not found", name)
	}
	data := make(map[string][]byte, len(object.Data)+len(object.BinaryData))
	for k, v := range object.Data {
		data[k] = []byte(v)
	}
	maps.Copy(data, object.BinaryData)
	return project("configmap", name, data, items, usual, optional)
}

func (s *Set) secret(name string, items []corev1.KeyToPath, usual fs.FileMode, optional bool) (map[string]file, error) {
	object := s.Objects.Secret(s.Pod.Namespace, name)
	if object == nil {
		if optional {
			return nil, nil
		}
		return nil, fmt.Errorf("secret %q not found", name)
	}
	return project("secret", name, object.Data, items, usual, optional)
}

func project(kind, name string, data map[string][]byte, items []corev1.KeyToPath, usual fs.FileMode, optional bool) (map[string]file, error) {
	files := map[string]file{}
	if len(items) == 0 {
		for k, v := range data {
			files[k] = file{v, usual}
		}
	}
	for _, item := range items {
		content, ok := data[item.Key]
		if !ok {
			if optional {
				continue
			}
			return nil, fmt.Errorf("%s %q has no key %q", kind, name, item.Key)
		}
		f := file{content, usual}
		if item.Mode != nil {
			f.mode = fs.FileMode(*item.Mode).Perm()
		}
		files[item.Path] = f
	}
	for path := range files {
		if !filepath.IsLocal(path) {
			return nil, fmt.Errorf("%s %q: path %q leaves the volume", kind, name, path)
		}
	}
	return files, nil
}

func (s *Set) downward(items []corev1.DownwardAPIVolumeFile, usual fs.FileMode) (map[string]file, error) {
	files := map[string]file{}
	for _, item := range items {
		var text string
		var err error
		switch {
		case item.FieldRef != nil:
			text, err = s.Fields.Field(item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			text, err = s.Fields.Resource(item.ResourceFieldRef)
		}
		if err != nil {
			return nil, fmt.Errorf("downwardAPI %s: %w", item.Path, err)
		}
		if !filepath.IsLocal(item.Path) {
			return nil, fmt.Errorf("downwardAPI: path %q leaves the volume", item.Path)
		}
		f := file{[]byte(text), usual}
		if item.Mode != nil {
			f.mode = fs.FileMode(*item.Mode).Perm()
		}
		files[item.Path] = f
	}
	return files, nil
}

// mode is a volume's defaultMode; 0644 where the pod was not defaulted.
func mode(m *int32) fs.FileMode {
	if m == nil {
		return 0o644
	}
	return fs.FileMode(*m).Perm()
}

func isTrue(b *bool) bool { return b != nil && *b }
