package containerd

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	criNamespace = "k8s.io"
	snapshotter  = "overlayfs"
)

// pauseImage names the sandbox image made from program. The tag is the program's own hash, so that a
// new program is a new image and the old one is no longer pinned.
func pauseImage(program []byte) string { return "pleach.local/pause:" + fingerprint(program)[:12] }

// importPause makes the pause image known to the daemon at socket, where it is absent.
func importPause(ctx context.Context, socket, name, programPath string) error {
	program, err := os.ReadFile(programPath)
	if err == nil {
		err = importProgram(ctx, socket, name, "pause", program)
	}
	if err != nil {
		return fmt.Errorf("pause image: %w", err)
	}
	return nil
}

// importProgram makes an image of one program, in the file /<file>, known to the daemon at socket, where it is absent.
func importProgram(ctx context.Context, socket, name, file string, program []byte) (err error) {
	c, err := containerd.New(socket, containerd.WithDefaultNamespace(criNamespace))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	img, err := c.GetImage(ctx, name)
	if errdefs.IsNotFound(err) {
		layout, err := layout(name, file, program)
		if err != nil {
			return err
		}
		if _, err := c.Import(ctx, bytes.NewReader(layout)); err != nil {
			return fmt.Errorf("import %s: %w", name, err)
		}
		if img, err = c.GetImage(ctx, name); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	// Unpacked here, so that the first pod need not wait for it.
	unpacked, err := img.IsUnpacked(ctx, snapshotter)
	if err != nil {
		return err
	}
	if unpacked {
		return nil
	}
	if err := img.Unpack(ctx, snapshotter); err != nil {
		return fmt.Errorf("unpack %s: %w", name, err)
	}
	return nil
}

// layout is an OCI image layout as a tar: one layer with the program in it. The same program gives
// the same bytes.
func layout(name, file string, program []byte) ([]byte, error) {
	var layer bytes.Buffer
	if err := tarFile(tar.NewWriter(&layer), file, 0o755, program); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	blob := func(mediaType string, content []byte) (ocispec.Descriptor, error) {
		d := digest.FromBytes(content)
		h := &tar.Header{Name: path.Join("blobs/sha256", d.Encoded()), Mode: 0o644, Size: int64(len(content))}
		if err := w.WriteHeader(h); err != nil {
			return ocispec.Descriptor{}, err
		}
		_, err := w.Write(content)
		return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}, err
	}
	object := func(mediaType string, v any) (ocispec.Descriptor, error) {
		b, err := json.Marshal(v)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		return blob(mediaType, b)
	}
	layerDesc, err := blob(ocispec.MediaTypeImageLayer, layer.Bytes())
	if err != nil {
		return nil, err
	}
	configDesc, err := object(ocispec.MediaTypeImageConfig, ocispec.Image{
		Platform: ocispec.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		Config:   ocispec.ImageConfig{Entrypoint: []string{"/" + file}, User: "65535:65535"},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layerDesc.Digest}},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := object(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    configDesc,
		Layers:    []ocispec.Descriptor{layerDesc},
	})
	if err != nil {
		return nil, err
	}
	manifest.Annotations = map[string]string{"io.containerd.image.name": name}
	manifest.Platform = &ocispec.Platform{Architecture: runtime.GOARCH, OS: "linux"}
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{manifest},
	})
	if err != nil {
		return nil, err
	}
	if err := writeTar(w, "index.json", 0o644, index); err != nil {
		return nil, err
	}
	marker, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return nil, err
	}
	if err := tarFile(w, ocispec.ImageLayoutFile, 0o644, marker); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// tarFile writes the last file of w.
func tarFile(w *tar.Writer, name string, mode int64, content []byte) error {
	if err := writeTar(w, name, mode, content); err != nil {
		return err
	}
	return w.Close()
}

func writeTar(w *tar.Writer, name string, mode int64, content []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}
