// Package volumes makes the volumes of a pod on the node: emptyDir, hostPath, configMap, secret,
// downwardAPI and projected. What holds secrets lives in tmpfs. Files of ConfigMaps and Secrets
// change atomically: a reader sees all of the old or all of the new.
package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Objects finds what volumes are filled from. Both return nil for an object that does not exist.
type Objects interface {
	ConfigMap(namespace, name string) *corev1.ConfigMap
	Secret(namespace, name string) *corev1.Secret
}

// Fields answers the downward API for one pod.
type Fields interface {
	// Field takes a path such as "metadata.labels['app']".
	Field(path string) (string, error)
	Resource(selector *corev1.ResourceFieldSelector) (string, error)
}

// Set is the volumes of one pod.
type Set struct {
	Dir     string // of the pod, absolute; volumes are made below it
	Pod     *corev1.Pod
	Objects Objects
	Fields  Fields
	Mounts  Mounts
	// MemoryLimit bounds tmpfs volumes without a sizeLimit; 0 leaves the kernel's own bound.
	MemoryLimit int64
}

// Ensure makes every volume of the pod, and brings those that exist up to date. The error names
// each volume that cannot be made and why.
func (s *Set) Ensure() error {
	var errs []error
	for i := range s.Pod.Spec.Volumes {
		v := &s.Pod.Spec.Volumes[i]
		if err := s.ensure(v); err != nil {
			errs = append(errs, fmt.Errorf("volume %q: %w", v.Name, err))
		}
	}
	return errors.Join(errs...)
}

// Update brings volumes that are filled from ConfigMaps, Secrets and the downward API up to date.
// A volume whose object has gone keeps its content.
func (s *Set) Update() error {
	var errs []error
	for i := range s.Pod.Spec.Volumes {
		v := &s.Pod.Spec.Volumes[i]
		if !isFilled(v) {
			continue
		}
		if err := s.fill(v); err != nil {
			errs = append(errs, fmt.Errorf("volume %q: %w", v.Name, err))
		}
	}
	return errors.Join(errs...)
}

// Filled tells whether a pod has volumes that Update may change.
func Filled(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return isFilled(&v) })
}

func isFilled(v *corev1.Volume) bool {
	return v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil
}

// Unsupported names the field of a volume that this package cannot do, with its path below the
// volume; "" when it can.
func Unsupported(v *corev1.Volume) string {
	if v.EmptyDir != nil && v.EmptyDir.Medium != corev1.StorageMediumDefault && v.EmptyDir.Medium != corev1.StorageMediumMemory {
		return "emptyDir.medium"
	}
	if v.Projected != nil {
		for i, source := range v.Projected.Sources {
			if source.ConfigMap == nil && source.Secret == nil && source.DownwardAPI == nil {
				return fmt.Sprintf("projected.sources[%d]", i)
			}
		}
	}
	if !isFilled(v) && v.EmptyDir == nil && v.HostPath == nil {
		return "(its kind)"
	}
	return ""
}

func (s *Set) ensure(v *corev1.Volume) error {
	switch {
	case v.HostPath != nil:
		return checkHostPath(v.HostPath)
	case v.EmptyDir != nil:
		return s.emptyDir(v)
	case isFilled(v):
		return s.fill(v)
	}
	return errors.New("this kind of volume is not supported; use configMap, secret, projected, downwardAPI, emptyDir or hostPath")
}

// path is where a volume is made.
func (s *Set) path(v *corev1.Volume) string { return filepath.Join(s.Dir, "volumes", v.Name) }

func (s *Set) emptyDir(v *corev1.Volume) error {
	dir := s.path(v)
	made, err := mkdir(dir)
	if err != nil {
		return err
	}
	if v.EmptyDir.Medium == corev1.StorageMediumMemory {
		fresh, err := s.Mounts.Tmpfs(dir, s.tmpfsSize(v.EmptyDir.SizeLimit))
		if err != nil {
			return err
		}
		made = fresh
	}
	if !made {
		return nil
	}
	// Not by the mode of mkdir: the umask would take bits away that another user needs.
	if err := os.Chmod(dir, 0o777); err != nil {
		return err
	}
	return s.own(dir, 0o660)
}

func (s *Set) tmpfsSize(limit *resource.Quantity) int64 {
	size := s.MemoryLimit
	if limit != nil && limit.Value() > 0 && (size == 0 || limit.Value() < size) {
		size = limit.Value()
	}
	return size
}

// fill writes the files of a volume. Secrets must not reach the disk, so their volumes are tmpfs.
func (s *Set) fill(v *corev1.Volume) error {
	files, err := s.payload(v)
	if err != nil {
		return err
	}
	dir := s.path(v)
	if _, err := mkdir(dir); err != nil {
		return err
	}
	if holdsSecret(v) {
		if _, err := s.Mounts.Tmpfs(dir, 0); err != nil {
			return err
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		return err
	}
	return replace(dir, files, func(path string) error { return s.own(path, 0o440) })
}

func holdsSecret(v *corev1.Volume) bool {
	if v.Projected != nil {
		return slices.ContainsFunc(v.Projected.Sources, func(p corev1.VolumeProjection) bool { return p.Secret != nil })
	}
	return v.Secret != nil
}

// own gives a tree to the pod's fsGroup: mode is added to files, and directories get the set-group-ID
// bit besides, so that new files belong to the group too.
func (s *Set) own(root string, mode fs.FileMode) error {
	if s.Pod.Spec.SecurityContext == nil || s.Pod.Spec.SecurityContext.FSGroup == nil {
		return nil
	}
	group := int(*s.Pod.Spec.SecurityContext.FSGroup)
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := os.Lchown(path, -1, group); err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case info.IsDir():
			return os.Chmod(path, info.Mode().Perm()|mode|0o110|fs.ModeSetgid)
		case info.Mode().IsRegular():
			return os.Chmod(path, info.Mode().Perm()|mode)
		}
		return nil
	})
}

// HostPath is the path on the node that a container mounts for one volumeMount. subPath must be
// expanded already; key tells the mounts of a pod apart ("<container>/<index>").
func (s *Set) HostPath(name, subPath, key string) (string, error) {
	i := slices.IndexFunc(s.Pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == name })
	if i < 0 {
		return "", fmt.Errorf("volume %q does not exist in the pod", name)
	}
	v := &s.Pod.Spec.Volumes[i]
	root := s.path(v)
	if v.HostPath != nil {
		root = v.HostPath.Path
	}
	if subPath == "" {
		return root, nil
	}
	path, err := s.bindSubPath(root, subPath, filepath.Join(s.Dir, "subpaths", name, filepath.FromSlash(key)))
	if err != nil {
		return "", fmt.Errorf("volume %q: subPath %q: %w", name, subPath, err)
	}
	return path, nil
}

// bindSubPath bind-mounts root/subPath at target. Symlinks are followed inside the volume only, and
// what was opened is what gets mounted: a container that swaps a directory for a symlink meanwhile
// gains nothing.
func (s *Set) bindSubPath(root, subPath, target string) (string, error) {
	if !filepath.IsLocal(subPath) {
		return "", errors.New("leaves the volume")
	}
	volume, err := os.OpenRoot(root)
	if err != nil {
		return "", err
	}
	defer volume.Close()
	source, err := openAt(volume, subPath)
	if errors.Is(err, fs.ErrNotExist) {
		if err := s.makeSubPath(volume, subPath); err != nil {
			return "", err
		}
		source, err = openAt(volume, subPath)
	}
	if err != nil {
		return "", err
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return "", err
	}
	if err := s.Mounts.Unmount(target); err != nil {
		return "", err
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if info.IsDir() {
		err = os.Mkdir(target, 0o750)
	} else {
		err = os.WriteFile(target, nil, 0o640)
	}
	if err != nil {
		return "", err
	}
	if err := s.Mounts.Bind(source, target); err != nil {
		return "", err
	}
	return target, nil
}

// makeSubPath creates a missing subPath as a directory with the volume's own mode and group.
func (s *Set) makeSubPath(volume *os.Root, subPath string) error {
	info, err := volume.Stat(".")
	if err != nil {
		return err
	}
	if err := volume.MkdirAll(subPath, info.Mode().Perm()); err != nil {
		return err
	}
	if err := volume.Chmod(subPath, info.Mode()); err != nil {
		return err
	}
	if s.Pod.Spec.SecurityContext != nil && s.Pod.Spec.SecurityContext.FSGroup != nil {
		return volume.Chown(subPath, -1, int(*s.Pod.Spec.SecurityContext.FSGroup))
	}
	return nil
}

// Remove unmounts what is mounted below the pod's directory and deletes the volumes. It deletes
// nothing while a mount remains, because behind a bind mount lies another's data.
func (s *Set) Remove() error {
	if err := s.Mounts.UnmountBelow(s.Dir); err != nil {
		return fmt.Errorf("unmount volumes of pod %s/%s: %w", s.Pod.Namespace, s.Pod.Name, err)
	}
	return errors.Join(os.RemoveAll(filepath.Join(s.Dir, "subpaths")), os.RemoveAll(filepath.Join(s.Dir, "volumes")))
}

func mkdir(dir string) (made bool, err error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return false, err
	}
	err = os.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

func checkHostPath(h *corev1.HostPathVolumeSource) error {
	kind := corev1.HostPathUnset
	if h.Type != nil {
		kind = *h.Type
	}
	switch kind {
	case corev1.HostPathUnset:
		return nil
	case corev1.HostPathDirectoryOrCreate:
		if err := os.MkdirAll(h.Path, 0o755); err != nil {
			return err
		}
	case corev1.HostPathFileOrCreate:
		file, err := os.OpenFile(h.Path, os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		if err := file.Close(); err != nil {
			return err
		}
	default: // the others are not made
	}
	info, err := os.Stat(h.Path)
	if err != nil {
		return err
	}
	mode := info.Mode()
	ok := false
	switch kind {
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		ok = mode.IsDir()
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		ok = mode.IsRegular()
	case corev1.HostPathSocket:
		ok = mode&fs.ModeSocket != 0
	case corev1.HostPathCharDev:
		ok = mode&fs.ModeCharDevice != 0
	case corev1.HostPathBlockDev:
		ok = mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0
	default: // Kubernetes has no other
	}
	if !ok {
		return fmt.Errorf("hostPath %s: want type %s, found %s", h.Path, kind, mode.Type())
	}
	return nil
}
