package lab_test

import (
	"archive/tar"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/pleachdev/pleach/e2e/lab"
	"github.com/pleachdev/pleach/e2e/needs"
)

func TestImageHasOneDigest(t *testing.T) {
	recipe := func(content string) lab.Recipe {
		return lab.Recipe{Files: map[string]lab.File{
			"/app/run": {Content: content, Mode: 0o755},
			"/app/go":  {Link: "run"},
			"/tmp/x":   {Content: "x"},
		}}
	}
	digest := func(content string) string {
		t.Helper()
		image, err := recipe(content).Image()
		if err != nil {
			t.Fatal(err)
		}
		hash, err := image.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return hash.String()
	}
	if a, b := digest("one"), digest("one"); a != b {
		t.Errorf("one recipe gave %s and %s", a, b)
	}
	if a, b := digest("one"), digest("two"); a == b {
		t.Errorf("two recipes gave %s", a)
	}
	if _, err := (lab.Recipe{Files: map[string]lab.File{"../x": {}}}).Image(); err == nil {
		t.Error("a path outside the image was accepted")
	}
}

func TestRegistryServesPodinfo(t *testing.T) {
	needs.Command(t, "go")
	l := lab.New(t)
	registry, err := l.Registry()
	if err != nil {
		t.Fatal(err)
	}
	image, err := lab.Podinfo(t.Context(), "v1")
	if err != nil {
		t.Fatal(err)
	}
	pushed, err := registry.Push(t.Context(), "podinfo:v1", image)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(registry.Address()+"/podinfo:v1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := remote.Image(ref, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if digest, err := pulled.Digest(); err != nil || digest != pushed {
		t.Errorf("pulled %s (%v), pushed %s", digest, err, pushed)
	}
	if n := registry.Requests("GET /v2/podinfo/manifests/v1"); n != 1 {
		t.Errorf("the manifest was asked for %d times, want once", n)
	}
	registry.Down(true)
	if response, err := http.Get("http://" + registry.Address() + "/v2/"); err == nil {
		_ = response.Body.Close()
		t.Error("a registry that is down answered")
	}
}

func TestImageWithShell(t *testing.T) {
	recipe, err := lab.Recipe{Files: map[string]lab.File{"/bin/sleep": {Content: "mine"}}}.WithShell(t.Context())
	if err != nil {
		needs.Lacking(t, "busybox-static or Debian's packages: "+err.Error())
	}
	for path, want := range map[string]lab.File{"/bin/sh": {Link: "busybox"}, "/bin/httpd": {Link: "busybox"}, "/bin/sleep": {Content: "mine"}} {
		if got := recipe.Files[path]; got != want {
			t.Errorf("%s is %+v, want %+v", path, got, want)
		}
	}
	if _, err := recipe.Image(); err != nil {
		t.Error(err)
	}
}

func TestLayoutNamesTheImage(t *testing.T) {
	image, err := lab.Recipe{Files: map[string]lab.File{"/x": {Content: "x"}}}.Image()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "x.tar")
	if err := lab.WriteLayout(file, "example.org/x:v1", image); err != nil {
		t.Fatal(err)
	}
	archive, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = archive.Close() }()
	found := make(map[string]string)
	for r := tar.NewReader(archive); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		found[header.Name] = string(content)
	}
	if !strings.Contains(found["index.json"], `"io.containerd.image.name":"example.org/x:v1"`) &&
		!strings.Contains(found["index.json"], `"io.containerd.image.name": "example.org/x:v1"`) {
		t.Errorf("index.json does not name the image: %s", found["index.json"])
	}
	digest, _ := image.Digest()
	if _, ok := found["blobs/sha256/"+digest.Hex]; !ok {
		t.Errorf("the archive lacks the manifest %s", digest)
	}
}
