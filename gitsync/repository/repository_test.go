package repository

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pleachdev/pleach/e2e/needs"
	"github.com/pleachdev/pleach/gitsync/manifest"
	"github.com/pleachdev/pleach/gitsync/trust"
	"github.com/pleachdev/pleach/policy"
	"github.com/pleachdev/pleach/reconcile"
)

func run(t testing.TB, dir, name string, args ...string) string {
	t.Helper()
	needs.Command(t, name)
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// home is an empty home directory, so that the machine's own git configuration and keys stay out.
func home(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for k, v := range map[string]string{
		"HOME": dir, "XDG_CONFIG_HOME": filepath.Join(dir, ".config"), "GIT_CONFIG_NOSYSTEM": "1", "SSH_AUTH_SOCK": "",
		"GIT_CONFIG_GLOBAL": filepath.Join(dir, ".gitconfig"),
	} {
		t.(*testing.T).Setenv(k, v)
	}
	return dir
}

func user(t testing.TB) User {
	t.Helper()
	path := filepath.Join(t.TempDir(), "id_ed25519")
	run(t, "", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)
	key, err := trust.LoadKey(path)
	if err != nil {
		t.Fatal(err)
	}
	return User{Name: "Ada", Mail: "ada@example.com", Key: key}
}

func TestInit(t *testing.T) {
	home(t)
	dir, agentDir := filepath.Join(t.TempDir(), "garden"), t.TempDir()
	u := user(t)
	id, err := Init(dir, InitOptions{
		Image: "example.com/hello:1", User: u,
		Node: NodeOptions{Name: "n1", AgentDir: agentDir, OS: "linux", Arch: "arm64", Address: "192.0.2.1:7946"},
	})
	if err != nil {
		t.Fatal(err)
	}
	// The repository's own configuration is enough for git to verify and to sign.
	if out := run(t, dir, "git", "verify-commit", "HEAD"); !strings.Contains(out, `Good "git" signature for ada@example.com`) {
		t.Errorf("verify-commit says %q", out)
	}
	if head := strings.TrimSpace(run(t, dir, "git", "rev-parse", "main")); head != id {
		t.Errorf("main is at %s, Init returned %s", head, id)
	}
	if out := run(t, dir, "git", "status", "--porcelain"); out != "" {
		t.Errorf("working tree is not clean: %s", out)
	}
	run(t, dir, "git", "fsck", "--strict")
	run(t, dir, "git", "commit", "-q", "--allow-empty", "-m", "by hand")
	run(t, dir, "git", "verify-commit", "HEAD")
	report := manifest.Validate(os.DirFS(dir))
	if !report.OK() {
		t.Fatalf("the new repository is refused: %+v", report)
	}
	if w := report.Apps[0].Result.Warnings; len(w) > 0 {
		t.Errorf("the sample app is warned of: %v", w)
	}
	var objects []reconcile.Object
	for _, o := range report.Apps[0].Result.Objects {
		objects = append(objects, reconcile.Object{Object: o.Object})
	}
	for _, tt := range []struct {
		access policy.Access
		want   bool
	}{
		{policy.Access{Principals: []string{u.Mail}, Verb: "create", Resource: "pods", Subresource: "exec", Namespace: "default"}, true},
		{policy.Access{Principals: []string{u.Mail}, Verb: "get", Resource: "pods", Subresource: "log", Namespace: "default"}, true},
		{policy.Access{Principals: []string{"eve@example.com"}, Verb: "get", Resource: "pods", Subresource: "log", Namespace: "default"}, false},
		{policy.Access{Principals: []string{u.Mail}, Verb: "create", Resource: "pods", Subresource: "exec", Namespace: "other"}, false},
		{policy.Access{Principals: []string{u.Mail}, Verb: "delete", Resource: "pods", Namespace: "default"}, false},
	} {
		if _, got := policy.Allow(slices.Values(objects), tt.access); got != tt.want {
			t.Errorf("%s may %s: %v, want %v", tt.access.Principals, tt.access, got, tt.want)
		}
	}
	n := report.Cluster.Nodes[0]
	if n.Name != "n1" || n.Spec.PodCIDR != "10.244.0.0/24" || n.Labels[corev1.LabelArchStable] != "arm64" || n.Labels[corev1.LabelHostname] != "n1" {
		t.Errorf("node %+v", n)
	}
	for _, file := range []string{NodeKeyFile, TokenKeyFile} {
		if info, err := os.Stat(filepath.Join(agentDir, file)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want 0600", file, info, err)
		}
	}
	readme, err := os.ReadFile(filepath.Join(dir, "README.md"))
	if err != nil || !strings.Contains(string(readme), "ada@example.com") || strings.Contains(string(readme), "{{") {
		t.Errorf("README: %v\n%s", err, readme)
	}
	if _, err := Init(dir, InitOptions{User: u, Node: NodeOptions{Name: "n1", AgentDir: agentDir}}); err == nil {
		t.Error("Init wrote over a repository")
	}
}

func TestInitLeavesNothingBehind(t *testing.T) {
	home(t)
	u := user(t)
	for name, o := range map[string]InitOptions{
		"node name":      {Node: NodeOptions{Name: "N 1", AgentDir: t.TempDir()}, User: u},
		"no node key":    {Node: NodeOptions{Name: "n1"}, User: u},
		"cluster name":   {ClusterName: "My Cluster", Node: NodeOptions{Name: "n1", AgentDir: t.TempDir()}, User: u},
		"pod CIDR":       {PodCIDR: "10.244.0.1/16", Node: NodeOptions{Name: "n1", AgentDir: t.TempDir()}, User: u},
		"image":          {Image: "a b", Node: NodeOptions{Name: "n1", AgentDir: t.TempDir()}, User: u},
		"no address":     {Node: NodeOptions{Name: "n1", AgentDir: t.TempDir()}, User: User{Key: u.Key}},
		"pattern":        {Node: NodeOptions{Name: "n1", AgentDir: t.TempDir()}, User: User{Mail: "*@example.com", Key: u.Key}},
		"label":          {Node: NodeOptions{Name: "n1", AgentDir: t.TempDir(), Labels: map[string]string{"a b": "c"}}, User: u},
		"foreign key":    {Node: NodeOptions{Name: "n1", NodeKey: "ssh-rsa AAAA", TokenKey: "x"}, User: u},
		"token key":      {Node: NodeOptions{Name: "n1", NodeKey: u.Key.AuthorizedKey(), TokenKey: "x"}, User: u},
		"ranges overlap": {PodCIDR: "10.96.0.0/16", Node: NodeOptions{Name: "n1", AgentDir: t.TempDir()}, User: u},
	} {
		parent := t.TempDir()
		if _, err := Init(filepath.Join(parent, "garden"), o); err == nil {
			t.Errorf("%s: accepted", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
		if entries, err := os.ReadDir(parent); err != nil || len(entries) != 0 {
			t.Errorf("%s: left behind %v, %v", name, entries, err)
		}
	}
}

func TestAddNode(t *testing.T) {
	home(t)
	dir, u := filepath.Join(t.TempDir(), "garden"), user(t)
	if _, err := Init(dir, InitOptions{PodCIDR: "10.1.0.0/23", User: u, Node: NodeOptions{Name: "n1", AgentDir: t.TempDir()}}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "draft.txt"), []byte("not yet"), 0o644); err != nil {
		t.Fatal(err)
	}
	agentDir := t.TempDir()
	id, err := AddNode(dir, NodeOptions{Name: "n2", AgentDir: agentDir, Labels: map[string]string{"zone": "b"}}, Change{User: User{Key: u.Key}})
	if err != nil {
		t.Fatal(err)
	}
	run(t, dir, "git", "verify-commit", id)
	if out := run(t, dir, "git", "show", "--stat=200", "--format=%an <%ae> %s", id); !strings.Contains(out, "Ada <ada@example.com> nodes: add n2") ||
		!strings.Contains(out, "nodes/n2.yaml") || !strings.Contains(out, "trust/allowed_signers") || !strings.Contains(out, "2 files changed") {
		t.Errorf("commit shows %s", out)
	}
	cluster, bad := manifest.LoadCluster(os.DirFS(dir))
	if len(bad) > 0 || cluster.Nodes[1].Spec.PodCIDR != "10.1.1.0/24" || cluster.Nodes[1].Labels["zone"] != "b" {
		t.Errorf("%v, %+v", bad, cluster)
	}
	head := run(t, dir, "git", "rev-parse", "HEAD")
	for name, o := range map[string]NodeOptions{
		"is in the cluster already": {Name: "n2", AgentDir: t.TempDir()},
		"no free /24":               {Name: "n3", AgentDir: t.TempDir()},
		"lower case":                {Name: "N3", AgentDir: t.TempDir()},
	} {
		if _, err := AddNode(dir, o, Change{User: u}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%+v: %v, want %q", o, err, name)
		}
	}
	run(t, dir, "git", "add", "draft.txt")
	if _, err := AddNode(dir, NodeOptions{Name: "n3", AgentDir: t.TempDir()}, Change{User: u}); err == nil || !strings.Contains(err.Error(), "draft.txt: is staged") {
		t.Errorf("with something staged: %v", err)
	}
	if now := run(t, dir, "git", "rev-parse", "HEAD"); now != head {
		t.Error("a refused node was committed")
	}
	if _, err := os.Stat(filepath.Join(dir, "nodes", "n3.yaml")); err == nil {
		t.Error("a refused node was written")
	}
	if _, err := AddNode(t.TempDir(), NodeOptions{Name: "n3"}, Change{User: u}); err == nil {
		t.Error("a node was added outside of a repository")
	}
}

// One key is one node.
func TestAddNodeTwiceWithOneKey(t *testing.T) {
	home(t)
	dir, u, agentDir := filepath.Join(t.TempDir(), "garden"), user(t), t.TempDir()
	if _, err := Init(dir, InitOptions{User: u, Node: NodeOptions{Name: "n1", AgentDir: agentDir}}); err != nil {
		t.Fatal(err)
	}
	if _, err := AddNode(dir, NodeOptions{Name: "n2", AgentDir: agentDir}, Change{User: u}); err == nil {
		t.Error("two nodes share a key")
	}
	if _, err := os.Stat(filepath.Join(dir, "nodes", "n2.yaml")); err == nil {
		t.Error("the refused node's file was left behind")
	}
}

func TestNextPodCIDR(t *testing.T) {
	for _, tt := range []struct {
		cluster string
		taken   []string
		want    string // "" for an error
	}{
		{"10.244.0.0/16", nil, "10.244.0.0/24"},
		{"10.244.0.0/16", []string{"10.244.0.0/24", "10.244.2.0/24"}, "10.244.1.0/24"},
		{"10.244.0.0/16", []string{"10.244.0.0/20"}, "10.244.16.0/24"},
		{"10.244.0.0/16", []string{"10.244.0.128/25"}, "10.244.1.0/24"},
		{"10.244.0.0/24", nil, "10.244.0.0/24"},
		{"10.244.0.0/24", []string{"10.244.0.0/24"}, ""},
		{"10.244.0.0/25", nil, ""},
		{"255.255.255.0/24", []string{"255.255.255.0/24"}, ""},
		{"fd00::/48", []string{"fd00::/64", "fd00:0:0:1::/64"}, "fd00:0:0:2::/64"},
		{"fd00::/16", []string{"fd00::/17"}, "fd00:8000::/64"},
	} {
		var nodes []*corev1.Node
		for i, c := range tt.taken {
			nodes = append(nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(i)}, Spec: corev1.NodeSpec{PodCIDRs: []string{c}}})
		}
		got, err := nextPodCIDR(tt.cluster, nodes)
		if (err != nil) != (tt.want == "") || (err == nil && got != netip.MustParsePrefix(tt.want)) {
			t.Errorf("%s without %v: %v, %v; want %s", tt.cluster, tt.taken, got, err, tt.want)
		}
	}
}

func TestUserKey(t *testing.T) {
	h := home(t)
	if _, err := UserKey(""); err == nil || !strings.Contains(err.Error(), "ssh-keygen") {
		t.Errorf("no key at all: %v", err)
	}
	path := filepath.Join(h, ".ssh", "id_ed25519")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	run(t, "", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)
	usual, err := UserKey("")
	if err != nil {
		t.Fatal(err)
	}
	if byPublic, err := UserKey(path + ".pub"); err != nil || byPublic.Fingerprint() != usual.Fingerprint() {
		t.Errorf("by the public half: %v", err)
	}
	other := filepath.Join(h, "other")
	run(t, "", "ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", other)
	run(t, "", "git", "config", "--global", "gpg.format", "ssh")
	run(t, "", "git", "config", "--global", "user.signingkey", "~/other")
	if configured, err := UserKey(""); err != nil || configured.Fingerprint() == usual.Fingerprint() {
		t.Errorf("git's user.signingkey is not used: %v", err)
	}
	run(t, "", "git", "config", "--global", "user.signingkey", "key::"+usual.AuthorizedKey())
	if _, err := UserKey(""); err == nil || !strings.Contains(err.Error(), "ssh-agent") {
		t.Errorf("a literal key needs the agent: %v", err)
	}
}
