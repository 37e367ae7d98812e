package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Recipe is an image of one layer. The same recipe gives the same digest on every day and machine.
type Recipe struct {
	Files  map[string]File // absolute path in the image → content; directories are made as needed
	Config v1.Config       // entrypoint, command, environment, user, working directory, labels
}

// File is a regular file or, with Link, a symbolic link.
type File struct {
	From    string // path of the file on this machine to take; "" takes Content
	Content string
	Mode    int64 // 0644 when 0
	Link    string
}

// Image makes the image.
func (r Recipe) Image() (v1.Image, error) {
	content, err := r.layer()
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.AppendLayers(image, layer)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.Architecture, config.OS = goarch, "linux"
	config.Config = r.Config
	return mutate.ConfigFile(image, config)
}

// layer writes the tar archive: sorted, owned by root, everything dated 1970.
func (r Recipe) layer() ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	made := map[string]bool{"/": true}
	for _, name := range slices.Sorted(maps.Keys(r.Files)) {
		if !path.IsAbs(name) || path.Clean(name) != name {
			return nil, fmt.Errorf("image: %q: want a clean absolute path", name)
		}
		var parents []string
		for dir := path.Dir(name); !made[dir]; dir = path.Dir(dir) {
			made[dir] = true
			parents = append(parents, dir)
		}
		for _, dir := range slices.Backward(parents) {
			mode := int64(0o755)
			if dir == "/tmp" {
				mode = 0o1777
			}
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir[1:] + "/", Mode: mode, ModTime: time.Unix(0, 0)}); err != nil {
				return nil, err
			}
		}
		if err := r.Files[name].write(w, name); err != nil {
			return nil, fmt.Errorf("image: %s: %w", name, err)
		}
	}
	return out.Bytes(), w.Close()
}

func (f File) write(w *tar.Writer, name string) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name[1:], Mode: f.Mode, ModTime: time.Unix(0, 0)}
	if f.Link != "" {
		header.Typeflag, header.Linkname, header.Mode = tar.TypeSymlink, f.Link, 0o777
		return w.WriteHeader(header)
	}
	content := []byte(f.Content)
	if f.From != "" {
		var err error
		if content, err = os.ReadFile(f.From); err != nil {
			return err
		}
	}
	header.Size = int64(len(content))
	if header.Mode == 0 {
		header.Mode = 0o644
	}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

// WithShell adds Debian's static busybox as /bin/sh and under the names of its programs. It takes
// the machine's own, or else downloads the package.
func (r Recipe) WithShell(ctx context.Context) (Recipe, error) {
	busybox, err := Busybox(ctx)
	if err != nil {
		return r, err
	}
	list, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return r, fmt.Errorf("list the programs of busybox: %w", err)
	}
	files := maps.Clone(r.Files)
	for program := range strings.FieldsSeq(string(list)) {
		if target := "/bin/" + program; program != "busybox" {
			if _, taken := files[target]; !taken {
				files[target] = File{Link: "busybox"}
			}
		}
	}
	files["/bin/busybox"] = File{From: busybox, Mode: 0o755}
	files["/etc/passwd"] = File{Content: "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"}
	files["/etc/group"] = File{Content: "root:x:0:\nnogroup:x:65534:\n"}
	r.Files = files
	return r, nil
}

// WriteLayout writes an archive of an OCI image layout, which containerd imports as the image of
// this full name ("example.org/podinfo:v1") with its digest unchanged.
func WriteLayout(file, fullName string, image v1.Image) error {
	dir, err := os.MkdirTemp("", prefix+"-layout-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	target, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	_, tag, _ := strings.Cut(path.Base(fullName), ":")
	if err := target.AppendImage(image, layout.WithAnnotations(map[string]string{
		"io.containerd.image.name":          fullName,
		"org.opencontainers.image.ref.name": tag,
	})); err != nil {
		return err
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	w := tar.NewWriter(out)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		return errors.Join(err, out.Close())
	}
	return errors.Join(w.Close(), out.Close())
}

// cacheDir is where programs built for labs stay from one run to the next.
func cacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		base = os.TempDir()
	}
	dir := filepath.Join(base, "pleach-lab")
	return dir, os.MkdirAll(dir, 0o755)
}
