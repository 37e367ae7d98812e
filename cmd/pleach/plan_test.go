package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/pleachdev/pleach/e2e/needs"
	"github.com/pleachdev/pleach/gitsync/trust"
)

// flockRepo is a config repository whose commits are signed by one person.
type flockRepo struct {
	t   testing.TB
	dir string
}

// newFlockRepo makes a repository of nodes that can take 16 CPU, 64Gi and 110 pods each, with an app of each
// folder below apps/.
func newFlockRepo(t testing.TB, nodes int, files map[string]string) *flockRepo {
	t.Helper()
	needs.Command(t, "git")
	needs.Command(t, "ssh-keygen")
	r := &flockRepo{t, t.TempDir()}
	r.git("init", "-q", "-b", "main")
	key := filepath.Join(r.dir, ".git", "key")
	private, public := seededKey(t, "ann")
	block, err := ssh.MarshalPrivateKey(private, "ann@example.com")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, kv := range [][2]string{
		{"user.name", "Ann"},
		{"user.email", "ann@example.com"},
		{"gpg.format", "ssh"},
		{"user.signingkey", key},
		{"commit.gpgsign", "true"},
		{"gc.auto", "0"},
	} {
		r.git("config", kv[0], kv[1])
	}
	r.write("trust/allowed_signers", "ann@example.com namespaces=\"git\" "+public+"\n")
	for i := range nodes {
		_, nodeKey := seededKey(t, fmt.Sprint(i))
		r.write(fmt.Sprintf("nodes/node-%02d.yaml", i), fmt.Sprintf(`apiVersion: v1
kind: Node
metadata:
  name: node-%02[1]d
  labels: {kubernetes.io/hostname: node-%02[1]d, kubernetes.io/os: linux, topology.kubernetes.io/zone: zone-%[2]d}
  annotations:
    pleach.dev/node-key: %[3]s
spec:
  podCIDRs: [10.%[4]d.%[5]d.0/24]
`, i, i%3, nodeKey, 64+i/256, i%256))
	}
	r.add(files)
	r.commit("first")
	return r
}

// seededKey is a key that is the same in every run, so that the ids of commits are, too.
func seededKey(t testing.TB, name string) (private ed25519.PrivateKey, authorized string) {
	t.Helper()
	seed := sha256.Sum256([]byte(name))
	private = ed25519.NewKeyFromSeed(seed[:])
	public, err := ssh.NewPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return private, trust.AuthorizedKey(public)
}

// add writes files and lists the folders below apps/ in pleach.yaml.
func (r *flockRepo) add(files map[string]string) {
	r.t.Helper()
	for name, content := range files {
		r.write(name, content)
	}
	entries, err := os.ReadDir(filepath.Join(r.dir, "apps"))
	if err != nil {
		r.t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("apiVersion: pleach.dev/v1alpha1\nkind: Cluster\nmetadata: {name: garden}\nspec:\n  version: 1\n  podCIDR: 10.64.0.0/10\n  apps:\n")
	for _, e := range entries {
		fmt.Fprintf(&b, "  - {name: %s, path: apps/%[1]s}\n", e.Name())
	}
	r.write("pleach.yaml", b.String())
}

func (r *flockRepo) write(name, content string) {
	r.t.Helper()
	name = filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *flockRepo) commit(message string) {
	r.t.Helper()
	r.git("add", "-A")
	r.git("commit", "-q", "-m", message)
}

func (r *flockRepo) git(args ...string) string { return r.run("git", args...) }

func (r *flockRepo) run(name string, args ...string) string {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), name, args...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_DATE=2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE=2026-01-01T00:00:00Z")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatalf("%s %v: %v: %s", name, args, err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out))
}

// options are those of a plan in this repository, whose nodes are described in a file.
func (r *flockRepo) options(nodes int) *prospectOptions {
	r.t.Helper()
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: List\nitems:\n")
	for i := range nodes {
		fmt.Fprintf(&b, "- {apiVersion: v1, kind: Node, metadata: {name: node-%02d}, status: {allocatable: {cpu: \"16\", memory: 64Gi, ephemeral-storage: 100Gi, pods: \"110\"}}}\n", i)
	}
	file := filepath.Join(r.t.TempDir(), "nodes.yaml")
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		r.t.Fatal(err)
	}
	return &prospectOptions{repository: r.dir, nodes: file}
}

// service is five objects that are usual together.
func service(name, image string, replicas int) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: %[3]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      serviceAccountName: %[1]s
      containers:
      - name: main
        image: %[2]s
        ports: [{name: http, containerPort: 8080}]
        resources: {requests: {cpu: 50m, memory: 64Mi}}
        env: [{name: MODE, value: fast}]
        envFrom: [{configMapRef: {name: %[1]s}}]
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec:
  selector: {app: %[1]s}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: %[1]s}
data: {mode: fast}
---
apiVersion: v1
kind: Secret
metadata: {name: %[1]s}
stringData: {password: hunter2}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: %[1]s}
`, name, image, replicas)
}

const (
	manyNodes    = 25
	manyServices = 1000
)

// manyObjects is a repository of 5,000 objects in 50 apps, and a second commit that changes one image,
// scales one service, and removes one.
func manyObjects(t testing.TB) *flockRepo { return servicesRepo(t, manyNodes, manyServices) }

func servicesRepo(t testing.TB, nodes, services int) *flockRepo {
	t.Helper()
	files := map[string]string{}
	for i := range services {
		files[fmt.Sprintf("apps/app-%02d/svc-%03d.yaml", i/20, i)] = service(fmt.Sprintf("svc-%03d", i), "example.com/svc:1", 1+i%3)
	}
	r := newFlockRepo(t, nodes, files)
	r.git("tag", "before")
	r.write("apps/app-00/svc-000.yaml", service("svc-000", "example.com/svc:2", 3))
	grown, gone := services/5, services*2/5
	r.write(fmt.Sprintf("apps/app-%02d/svc-%03d.yaml", grown/20, grown), service(fmt.Sprintf("svc-%03d", grown), "example.com/svc:1", 8))
	if err := os.Remove(filepath.Join(r.dir, fmt.Sprintf("apps/app-%02d/svc-%03d.yaml", gone/20, gone))); err != nil {
		t.Fatal(err)
	}
	r.commit("second")
	r.git("repack", "-adq")
	return r
}

// BenchmarkPlan is a plan of three changed services among 5,000 objects on 50 nodes.
func BenchmarkPlan(b *testing.B) {
	r := manyObjects(b)
	o := r.options(manyNodes)
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // as the command does
	for b.Loop() {
		if _, err := makePlan(b.Context(), o, "before..HEAD"); err != nil {
			b.Fatal(err)
		}
	}
}

func TestPlanOfManyObjects(t *testing.T) {
	r := manyObjects(t)
	began := time.Now()
	p, err := makePlan(t.Context(), r.options(manyNodes), "before..HEAD")
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	t.Logf("%s, for a plan of %s", took, p.Totals)
	if took > time.Minute {
		t.Errorf("the plan took %s", took)
	}
	want := totals{Objects: 5, Starts: 7, Replaced: 1, Ends: 2, Stays: 1996}
	if p.Totals != want {
		t.Errorf("got %+v, want %+v", p.Totals, want)
	}
}
