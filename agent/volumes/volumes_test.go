package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pleachdev/pleach/e2e/needs"
)

type memory struct {
	configMaps map[string]*corev1.ConfigMap
	secrets    map[string]*corev1.Secret
}

func (m memory) ConfigMap(_, name string) *corev1.ConfigMap { return m.configMaps[name] }
func (m memory) Secret(_, name string) *corev1.Secret       { return m.secrets[name] }

type fixed struct{}

func (fixed) Field(path string) (string, error) { return "value of " + path, nil }
func (fixed) Resource(s *corev1.ResourceFieldSelector) (string, error) {
	return "amount of " + s.Resource, nil
}

// recorded is a mount table for tests without root.
type recorded struct{ tmpfs []string }

func (r *recorded) Tmpfs(dir string, _ int64) (bool, error) {
	again := slices.Contains(r.tmpfs, dir)
	r.tmpfs = append(r.tmpfs, dir)
	return !again, nil
}
func (*recorded) Bind(*os.File, string) error { return nil }
func (*recorded) Unmount(string) error        { return nil }
func (*recorded) UnmountBelow(string) error   { return nil }

func newSet(t *testing.T, objects Objects, mounts Mounts, volumes ...corev1.Volume) *Set {
	return &Set{
		Dir: t.TempDir(), Objects: objects, Fields: fixed{}, Mounts: mounts,
		Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.PodSpec{Volumes: volumes}},
	}
}

func configMapVolume(name string, change ...func(*corev1.ConfigMapVolumeSource)) corev1.Volume {
	source := &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}
	for _, f := range change {
		f(source)
	}
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{ConfigMap: source}}
}

// tree is what a reader of a volume sees: path, mode and content, links followed.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	var walk func(prefix string)
	walk = func(prefix string) {
		entries, err := os.ReadDir(filepath.Join(dir, prefix))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), "..") {
				continue
			}
			path := filepath.Join(prefix, e.Name())
			info, err := os.Stat(filepath.Join(dir, path))
			if err != nil {
				t.Fatal(err)
			}
			if info.IsDir() {
				walk(path)
				continue
			}
			data, err := os.ReadFile(filepath.Join(dir, path))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, fmt.Sprintf("%s %#o %q", path, info.Mode().Perm(), data))
		}
	}
	walk("")
	return strings.Join(out, "\n")
}

func TestFilledVolumes(t *testing.T) {
	objects := memory{
		configMaps: map[string]*corev1.ConfigMap{"settings": {Data: map[string]string{"a": "1", "b": "2"}, BinaryData: map[string][]byte{"c": {0xff}}}},
		secrets:    map[string]*corev1.Secret{"token": {Data: map[string][]byte{"key": []byte("s3cret")}}},
	}
	secret := corev1.SecretVolumeSource{SecretName: "token", DefaultMode: new(int32(0o400))}
	projected := corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}, Items: []corev1.KeyToPath{{Key: "a", Path: "deep/er/a", Mode: new(int32(0o600))}}}},
		{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "token"}}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
			{Path: "name", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}},
			{Path: "cpu", ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu"}},
		}}},
	}}
	for _, c := range []struct {
		name   string
		volume corev1.Volume
		want   string // the tree, or the error
		tmpfs  bool
	}{
		{"configMap", configMapVolume("v"), "a 0644 \"1\"\nb 0644 \"2\"\nc 0644 \"\\xff\"", false},
		{"items", configMapVolume("v", func(s *corev1.ConfigMapVolumeSource) { s.Items = []corev1.KeyToPath{{Key: "b", Path: "x/b"}} }), "x/b 0644 \"2\"", false},
		{"missing key", configMapVolume("v", func(s *corev1.ConfigMapVolumeSource) { s.Items = []corev1.KeyToPath{{Key: "z", Path: "z"}} }), "has no key \"z\"", false},
		{"escape", configMapVolume("v", func(s *corev1.ConfigMapVolumeSource) { s.Items = []corev1.KeyToPath{{Key: "a", Path: "../a"}} }), "leaves the volume", false},
		{"missing object", configMapVolume("v", func(s *corev1.ConfigMapVolumeSource) { s.Name = "none" }), "configmap \"none\" not found", false},
		{"optional object", configMapVolume("v", func(s *corev1.ConfigMapVolumeSource) { s.Name, s.Optional = "none", new(true) }), "", false},
		{"secret", corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &secret}}, "key 0400 \"s3cret\"", true},
		{
			"projected",
			corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &projected}},
			"cpu 0644 \"amount of limits.cpu\"\ndeep/er/a 0600 \"1\"\nkey 0644 \"s3cret\"\nname 0644 \"value of metadata.name\"", true,
		},
		{"unsupported", corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}}}, "not supported", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			mounts := &recorded{}
			s := newSet(t, objects, mounts, c.volume)
			for range 2 { // a second time changes nothing
				if err := s.Ensure(); err != nil {
					if c.want == "" || !strings.Contains(err.Error(), c.want) {
						t.Fatalf("got %v; want %q", err, c.want)
					}
					return
				}
				if got := tree(t, filepath.Join(s.Dir, "volumes", "v")); got != c.want {
					t.Errorf("got\n%s\nwant\n%s", got, c.want)
				}
			}
			if got := len(mounts.tmpfs) > 0; got != c.tmpfs {
				t.Errorf("tmpfs %v; want %v", got, c.tmpfs)
			}
		})
	}
}

// While a volume is updated, a reader sees all files old or all files new.
func TestUpdateIsAtomic(t *testing.T) {
	objects := memory{configMaps: map[string]*corev1.ConfigMap{}}
	set := func(v string) {
		objects.configMaps["settings"] = &corev1.ConfigMap{Data: map[string]string{"a": v, "b": v, "only-" + v[:1]: v}}
	}
	set("0")
	s := newSet(t, objects, &recorded{}, configMapVolume("v"))
	if err := s.Ensure(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(s.Dir, "volumes", "v")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			// A reader that wants one state opens the directory behind ..data once.
			data, err := os.OpenRoot(filepath.Join(dir, dataLink))
			if errors.Is(err, fs.ErrNotExist) {
				continue // what the link named has been replaced since it was read
			}
			if err != nil {
				t.Error(err)
				return
			}
			a, errA := data.ReadFile("a")
			b, errB := data.ReadFile("b")
			data.Close()
			if errA == nil && errB == nil && string(a) != string(b) {
				t.Errorf("a is %q while b is %q", a, b)
				return
			}
		}
	})
	for i := range 200 {
		set(fmt.Sprint(i))
		if err := s.Update(); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	if got := tree(t, dir); got != "a 0644 \"199\"\nb 0644 \"199\"\nonly-1 0644 \"199\"" {
		t.Errorf("at the end:\n%s", got)
	}
	// An object that goes away does not take the files along.
	delete(objects.configMaps, "settings")
	if err := s.Update(); err == nil {
		t.Error("no error for an object that has gone")
	}
	if got := tree(t, dir); !strings.Contains(got, "a 0644 \"199\"") {
		t.Errorf("after the object went:\n%s", got)
	}
}

func TestHostPathTypes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		kind corev1.HostPathType
		path string
		ok   bool
	}{
		{corev1.HostPathUnset, filepath.Join(dir, "none"), true},
		{corev1.HostPathDirectory, dir, true},
		{corev1.HostPathDirectory, file, false},
		{corev1.HostPathDirectory, filepath.Join(dir, "none"), false},
		{corev1.HostPathDirectoryOrCreate, filepath.Join(dir, "made"), true},
		{corev1.HostPathFile, file, true},
		{corev1.HostPathFile, dir, false},
		{corev1.HostPathFileOrCreate, filepath.Join(dir, "made-file"), true},
		{corev1.HostPathSocket, file, false},
		{corev1.HostPathCharDev, "/dev/null", true},
		{corev1.HostPathBlockDev, "/dev/null", false},
	} {
		err := checkHostPath(&corev1.HostPathVolumeSource{Path: c.path, Type: &c.kind})
		if (err == nil) != c.ok {
			t.Errorf("%s %s: %v; want ok %v", c.kind, c.path, err, c.ok)
		}
	}
}

func TestSubPathDoesNotEscape(t *testing.T) {
	host := t.TempDir()
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(host, "out")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("inner", filepath.Join(host, "in")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(host, "inner"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := newSet(t, memory{}, &recorded{}, corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host}}})
	for sub, ok := range map[string]bool{"inner": true, "in": true, "new/dir": true, "out": false, "out/new": false, "../x": false, "/etc": false} {
		_, err := s.HostPath("v", sub, "app/0")
		if (err == nil) != ok {
			t.Errorf("subPath %q: %v; want ok %v", sub, err, ok)
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("made outside of the volume: %v, %v", left, err)
	}
}

// With the kernel's mounts: tmpfs sizes and ownership, subPath binds, and a removal that does not
// reach through them.
func TestKernelMounts(t *testing.T) {
	needs.Root(t)
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "precious"), []byte("data"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := newSet(t, memory{secrets: map[string]*corev1.Secret{"token": {Data: map[string][]byte{"key": []byte("x")}}}}, Kernel{},
		corev1.Volume{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: filepath.Dir(host)}}},
		corev1.Volume{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "token"}}},
		corev1.Volume{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{
			Medium: corev1.StorageMediumMemory, SizeLimit: resource.NewQuantity(1<<20, resource.BinarySI),
		}}})
	s.Pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: new(int64(4242))}
	t.Cleanup(func() {
		if err := (Kernel{}).UnmountBelow(s.Dir); err != nil {
			t.Error(err)
		}
	})
	for range 2 {
		if err := s.Ensure(); err != nil {
			t.Fatal(err)
		}
	}
	var mem unix.Statfs_t
	if err := unix.Statfs(filepath.Join(s.Dir, "volumes", "memory"), &mem); err != nil || mem.Type != unix.TMPFS_MAGIC || mem.Blocks*uint64(mem.Bsize) != 1<<20 {
		t.Errorf("memory volume: %+v, %v", mem, err)
	}
	var stat unix.Stat_t
	if err := unix.Stat(filepath.Join(s.Dir, "volumes", "memory"), &stat); err != nil || stat.Gid != 4242 || stat.Mode&unix.S_ISGID == 0 {
		t.Errorf("memory volume: gid %d, mode %o, %v", stat.Gid, stat.Mode, err)
	}
	if err := unix.Stat(filepath.Join(s.Dir, "volumes", "secret", "key"), &stat); err != nil || stat.Gid != 4242 || stat.Mode&0o440 != 0o440 {
		t.Errorf("secret: gid %d, mode %o, %v", stat.Gid, stat.Mode, err)
	}
	bound, err := s.HostPath("host", filepath.Base(host), "app/0")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.HostPath("host", filepath.Base(host), "app/0"); err != nil || again != bound {
		t.Errorf("a second start of the container: %s, %v", again, err)
	}
	if _, err := os.Stat(filepath.Join(bound, "precious")); err != nil {
		t.Errorf("the bind mount shows: %v", err)
	}
	if err := s.Remove(); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(host, "precious")); err != nil || string(data) != "data" {
		t.Fatalf("the host's file is gone: %v", err)
	}
	if left, err := os.ReadDir(s.Dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
