package lab

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Registry is an OCI registry over plain HTTP. Blobs are on disk; manifests and tags last as long
// as the lab's process.
type Registry struct {
	*faulty

	mu       sync.Mutex
	requests map[string]int
}

// Registry starts an empty registry. Make the underlay first if nodes shall reach it.
func (l *Lab) Registry() (*Registry, error) {
	r := &Registry{requests: make(map[string]int)}
	dir := filepath.Join(l.Dir, "registry")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	blobs := registry.NewDiskBlobHandler(dir)
	handler := registry.New(registry.WithBlobHandler(blobs), registry.Logger(log.New(io.Discard, "", 0)))
	r.faulty = newFaulty(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		r.mu.Lock()
		r.requests[request.Method+" "+request.URL.Path]++
		r.mu.Unlock()
		handler.ServeHTTP(w, request)
	}))
	return r, r.open(l, "the registry")
}

// NodeAddress is the registry's host:port for nodes: the beginning of the image names in manifests.
func (r *Registry) NodeAddress() string {
	_, port, _ := net.SplitHostPort(r.Address())
	return net.JoinHostPort(ServersAddr.String(), port)
}

// Push stores an image under a name without host, such as "podinfo:v1", and returns its digest.
// The name stands for another image from then on, if it stood for one.
func (r *Registry) Push(ctx context.Context, nameAndTag string, image v1.Image) (v1.Hash, error) {
	ref, err := name.NewTag(r.Address()+"/"+nameAndTag, name.Insecure, name.StrictValidation)
	if err != nil {
		return v1.Hash{}, err
	}
	transport := &http.Transport{DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	if err := remote.Write(ref, image, remote.WithContext(ctx), remote.WithTransport(transport)); err != nil {
		return v1.Hash{}, fmt.Errorf("push %s: %w", nameAndTag, err)
	}
	return image.Digest()
}

// Requests counts the requests of one method and path: "GET /v2/podinfo/manifests/v1".
func (r *Registry) Requests(methodAndPath string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests[methodAndPath]
}

// Mirror makes the containerd of a node pull every image from this registry over plain HTTP, whatever
// host its name begins with: the image that [Registry.Push] stored as "library/busybox:1" is
// busybox:1 there. The directory is containerd's config_path; certs.d is another name for it.
func (r *Registry) Mirror(configPath string) error {
	dir := filepath.Join(configPath, "_default")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	address := "http://" + r.NodeAddress()
	content := fmt.Sprintf("server = %q\n\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", address, address)
	return os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(content), 0o644)
}
