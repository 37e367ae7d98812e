package containerd

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A registry without TLS is refused until the user names it, in a file that is read at the next pull.
func TestPlainHTTPRegistry(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s, network, _, _ := bringUp(t)
	// The bridge's address: containerd takes one of localhost for plain HTTP by itself.
	gateway := network.PodCIDR.Addr().Next().String()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", gateway+":0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{
		Handler:           registry.New(registry.Logger(log.New(io.Discard, "", 0))),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	go func() { _ = server.Serve(l) }() // ends with Close
	t.Cleanup(func() { _ = server.Close() })
	host := l.Addr().String()
	image := host + "/team/app:1"
	push(t, image)

	conn, err := dial(s.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	images := runtimeapi.NewImageServiceClient(conn)
	pull := func() error {
		_, err := images.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: image}})
		return err
	}
	if err := pull(); err == nil || !strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		t.Errorf("a registry that nobody named: got %v", err)
	}
	hosts := filepath.Join(s.RegistryDir(), host, "hosts.toml")
	if err := os.MkdirAll(filepath.Dir(hosts), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hosts, fmt.Appendf(nil, "server = %q\n", "http://"+host), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := pull(); err != nil {
		t.Error(err)
	}
}

func push(t *testing.T, image string) {
	t.Helper()
	ref, err := name.ParseReference(image, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	layer, err := layout("unused", "hello", []byte("program")) // any tar will do
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, static.NewLayer(layer, types.OCIUncompressedLayer))
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
}
