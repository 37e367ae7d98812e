package repository

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/gitsync/manifest"
	"github.com/pleachdev/pleach/gitsync/trust"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
	"github.com/pleachdev/pleach/reconcile"
)

// garden is a repository with the nodes n1 and n2.
func garden(t *testing.T) (dir string, c Change) {
	t.Helper()
	home(t)
	dir, c = filepath.Join(t.TempDir(), "garden"), Change{User: user(t)}
	if _, err := Init(dir, InitOptions{User: c.User, Node: NodeOptions{Name: "n1", AgentDir: t.TempDir()}}); err != nil {
		t.Fatal(err)
	}
	if _, err := AddNode(dir, NodeOptions{Name: "n2", AgentDir: t.TempDir(), Address: "192.0.2.2:7946"}, c); err != nil {
		t.Fatal(err)
	}
	return dir, c
}

func read(t *testing.T, dir, file string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func load(t *testing.T, dir, name string) *corev1.Node {
	t.Helper()
	_, n, err := nodeFile(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestDrainAndBack(t *testing.T) {
	dir, c := garden(t)
	before := read(t, dir, "nodes/n2.yaml")
	id, err := CordonNode(dir, "n2", c)
	if err != nil {
		t.Fatal(err)
	}
	run(t, dir, "git", "verify-commit", id)
	if n := load(t, dir, "n2"); !n.Spec.Unschedulable || len(n.Spec.Taints) != 0 {
		t.Errorf("cordoned: %+v", n.Spec)
	}
	if id, err = DrainNode(dir, "n2", Change{User: c.User, Message: "n2 gets a new disk"}); err != nil {
		t.Fatal(err)
	}
	if n := load(t, dir, "n2"); !n.Spec.Unschedulable || len(n.Spec.Taints) != 1 || n.Spec.Taints[0] != DrainTaint {
		t.Errorf("drained: %+v", n.Spec)
	}
	if out := run(t, dir, "git", "show", "--format=%s", "--numstat", id); !strings.Contains(out, "n2 gets a new disk") || !strings.Contains(out, "3\t0\tnodes/n2.yaml") {
		t.Errorf("the commit shows %s", out)
	}
	if id, err := DrainNode(dir, "n2", c); err != nil || id != "" {
		t.Errorf("drained again: %q, %v; want no commit", id, err)
	}
	if _, err := UncordonNode(dir, "n2", c); err != nil {
		t.Fatal(err)
	}
	if after := read(t, dir, "nodes/n2.yaml"); after != before {
		t.Errorf("there and back changed the file:\n%s\nwas\n%s", after, before)
	}
	if out := run(t, dir, "git", "status", "--porcelain"); out != "" {
		t.Errorf("working tree is not clean: %s", out)
	}
}

func TestChangesWithoutCommit(t *testing.T) {
	dir, _ := garden(t)
	head := run(t, dir, "git", "rev-parse", "HEAD")
	if id, err := DrainNode(dir, "n1", Change{NoCommit: true}); err != nil || id != "" {
		t.Fatalf("%q, %v", id, err)
	}
	if out := run(t, dir, "git", "status", "--porcelain"); out != " M nodes/n1.yaml\n" || run(t, dir, "git", "rev-parse", "HEAD") != head {
		t.Errorf("status %q", out)
	}
}

// An edit touches the lines that must differ, and no others.
func TestEditNodeKeepsTheRest(t *testing.T) {
	const head = "# ours\napiVersion: v1\nkind: Node\nmetadata: {name: n}\n"
	drain := func(n *corev1.Node) {
		n.Spec.Unschedulable, n.Spec.Taints = true, append([]corev1.Taint{DrainTaint}, n.Spec.Taints...)
	}
	undo := func(n *corev1.Node) {
		n.Spec.Unschedulable = false
		for i, x := range n.Spec.Taints {
			if reconcile.IsDrain(x) {
				n.Spec.Taints = append(n.Spec.Taints[:i:i], n.Spec.Taints[i+1:]...)
				return
			}
		}
	}
	drainText := func(f *manifestText) { f.cordon(true); f.taint(true, DrainTaint) }
	undoText := func(f *manifestText) { f.cordon(false); f.taint(false, DrainTaint) }
	for _, tt := range []struct {
		name, in, out string
		change        func(*corev1.Node)
		text          func(*manifestText)
	}{
		{
			"plain", head + "spec:\n    podCIDR: 10.0.0.0/24 # a comment\n\n# the end\n",
			head + "spec:\n    podCIDR: 10.0.0.0/24 # a comment\n    unschedulable: true\n    taints:\n    - key: pleach.dev/drain\n      effect: NoExecute\n\n# the end\n",
			drain, drainText,
		}, {
			"no newline at the end", head + "spec:\n  podCIDR: 10.0.0.0/24",
			head + "spec:\n  podCIDR: 10.0.0.0/24\n  unschedulable: true\n  taints:\n  - key: pleach.dev/drain\n    effect: NoExecute\n", drain, drainText,
		}, {
			"another taint", head + "spec:\n  unschedulable: false # for now\n  taints:\n    # mine\n    - {key: gpu, effect: NoSchedule}\n  podCIDR: 10.0.0.0/24\n",
			head + "spec:\n  unschedulable: true # for now\n  taints:\n    # mine\n    - key: pleach.dev/drain\n      effect: NoExecute\n    - {key: gpu, effect: NoSchedule}\n  podCIDR: 10.0.0.0/24\n",
			drain, drainText,
		}, {
			"back, one of two", head + "spec:\n  taints:\n  - key: gpu\n    effect: NoSchedule\n  - key: pleach.dev/drain\n    effect: NoExecute\n  # about the range\n  podCIDR: 10.0.0.0/24\n  unschedulable: true\n",
			head + "spec:\n  taints:\n  - key: gpu\n    effect: NoSchedule\n  # about the range\n  podCIDR: 10.0.0.0/24\n", undo, undoText,
		}, {"flow style", head + "spec: {podCIDR: 10.0.0.0/24}\n", "", drain, drainText},
	} {
		out, err := editNode([]byte(tt.in), tt.change, tt.text)
		switch {
		case tt.out == "" && !errors.Is(err, errByHand):
			t.Errorf("%s: %v, want %v", tt.name, err, errByHand)
		case tt.out != "" && (err != nil || string(out) != tt.out):
			t.Errorf("%s: %v\n%s\nwant\n%s", tt.name, err, out, tt.out)
		}
	}
}

func TestUnknownNodesAreRefusedWithTheList(t *testing.T) {
	dir, c := garden(t)
	for name, f := range map[string]func() (string, error){
		"cordon": func() (string, error) { return CordonNode(dir, "n3", c) },
		"drain":  func() (string, error) { return DrainNode(dir, "n3", c) },
		"remove": func() (string, error) { return RemoveNode(dir, "n3", false, c) },
		"rotate": func() (string, error) { return DropNodeKey(dir, "n3", false, c) },
	} {
		if _, err := f(); err == nil || err.Error() != "node n3: is not in this repository; it has n1, n2" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRemovedNodesStatusCommitsStayGood(t *testing.T) {
	dir, c := garden(t)
	key := load(t, dir, "n2").Annotations[v1alpha1.NodeKeyAnnotation]
	id, err := RemoveNode(dir, "n2", false, c)
	if err != nil {
		t.Fatal(err)
	}
	if out := run(t, dir, "git", "show", "--format=%s", "--name-status", id); !strings.Contains(out, "D\tnodes/n2.yaml") || strings.Contains(out, "allowed_signers") {
		t.Errorf("the commit shows %s", out)
	}
	keys, err := signersOf([]byte(read(t, dir, manifest.SignersFile)), "node/n2")
	if err != nil || len(keys) != 1 || keys[0] != key {
		t.Errorf("signers of n2: %v, %v; want its key", keys, err)
	}
	// The same machine may come back: its line serves again.
	if _, err := AddNode(dir, NodeOptions{Name: "n2", NodeKey: key, TokenKey: load(t, dir, "n1").Annotations[v1alpha1.TokenKeyAnnotation]}, c); err != nil {
		t.Fatal(err)
	}
	if _, err := RemoveNode(dir, "n2", true, c); err != nil {
		t.Fatal(err)
	}
	if text := read(t, dir, manifest.SignersFile); strings.Contains(text, "node/n2") || !strings.Contains(text, "node/n1") {
		t.Errorf("after --forget:\n%s", text)
	}
}

func TestKeyRotation(t *testing.T) {
	dir, c := garden(t)
	signers := func() []string {
		keys, err := signersOf([]byte(read(t, dir, manifest.SignersFile)), "node/n1")
		if err != nil {
			t.Fatal(err)
		}
		return keys
	}
	next, err := trust.LoadOrCreateKey(filepath.Join(t.TempDir(), "node.key"), "n1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := DropNodeKey(dir, "n1", false, c); err == nil {
		t.Error("the only key was dropped")
	}
	if _, err := AddNodeKey(dir, "n1", load(t, dir, "n2").Annotations[v1alpha1.NodeKeyAnnotation], c); err == nil {
		t.Error("another node's key was taken")
	}
	old := load(t, dir, "n1").Annotations[v1alpha1.NodeKeyAnnotation]
	if _, err := AddNodeKey(dir, "n1", next.AuthorizedKey(), c); err != nil {
		t.Fatal(err)
	}
	if keys, err := trust.ParseNodeKeys(load(t, dir, "n1").Annotations[v1alpha1.NodeKeyAnnotation]); err != nil || len(keys) != 2 || len(signers()) != 2 {
		t.Errorf("in the midst: %v, %v; signers %v", keys, err, signers())
	}
	if _, err := AddNodeKey(dir, "n1", next.AuthorizedKey(), c); err == nil || !strings.Contains(err.Error(), "--finish") {
		t.Errorf("a third key: %v", err)
	}
	if _, err := DropNodeKey(dir, "n1", false, c); err != nil {
		t.Fatal(err)
	}
	if got := load(t, dir, "n1").Annotations[v1alpha1.NodeKeyAnnotation]; got != next.AuthorizedKey() || len(signers()) != 2 {
		t.Errorf("at the end: %s; signers %v, want old and new", got, signers())
	}
	if err := forgetSigners(dir, "n1", old); err != nil || len(signers()) != 1 {
		t.Errorf("forgotten: %v, %v", signers(), err)
	}
}
