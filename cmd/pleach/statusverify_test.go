package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/gitsync/statusbranch"
	"github.com/pleachdev/pleach/gitsync/trust"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
	"github.com/pleachdev/pleach/gossip"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/state"
)

func TestStatusBranchIsVerified(t *testing.T) {
	bare, clone := t.TempDir(), filepath.Join(t.TempDir(), "clone")
	git := func(dir string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir, "-c", "user.name=n1", "-c", "user.email=n1@example.com"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	git(bare, "init", "--quiet", "--bare")

	// Two nodes, of which the first writes what both signed.
	store, files, keys := state.New(), map[string][]byte{}, map[string]*trust.SigningKey{}
	accepted := &gitsync.Accepted{Head: commit('b', day), ClusterCommit: commit('b', day)}
	for _, name := range []string{"n1", "n2"} {
		key, err := trust.LoadOrCreateKey(filepath.Join(t.TempDir(), "node.key"), name)
		if err != nil {
			t.Fatal(err)
		}
		node := &corev1.Node{ObjectMeta: meta("", name, nil)}
		node.Annotations = map[string]string{v1alpha1.NodeKeyAnnotation: key.AuthorizedKey()}
		accepted.Nodes = append(accepted.Nodes, node)
		sealed, err := gossip.Encode(reconcile.Document{Node: name, Boot: 3, Seq: 14}, key.Ed25519())
		if err != nil {
			t.Fatal(err)
		}
		files[statusbranch.DocumentPath(name)], keys[name] = sealed.Bytes(), key
	}
	store.SetAccepted(accepted)
	url := "file://" + bare
	store.SetRemote(gitsync.Remote{URL: url, Branch: "main"})
	dir := serve(t, store)
	verify := func() (string, int) {
		root := newRoot()
		var out, errs bytes.Buffer
		root.SetArgs([]string{"--dir", dir, "status", "--verify"})
		root.SetOut(&out)
		code := exitCode(root.ExecuteContext(t.Context()), &errs)
		return out.String() + errs.String(), code
	}
	if out, code := verify(); code != exitFailed || !strings.Contains(out, "there is none yet") {
		t.Errorf("without a branch: code %d\n%s", code, out)
	}

	writer := statusbranch.New(statusbranch.Config{
		Remote: gitstore.Remote{URL: url}, Signer: keys["n1"], PushesPerMinute: 6000, Author: gitstore.Ident{Name: "n1", Mail: "n1@example.com"},
		Report: store.SetStatusPush,
	})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- writer.Run(ctx) }()
	writer.Set(func() (map[string][]byte, error) { return files, nil })
	for deadline := time.Now().Add(30 * time.Second); writer.Status().Pushes == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never written: %+v", writer.Status())
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	out, code := verify()
	if code != 0 || !strings.Contains(out, "signed by node n1") || strings.Count(out, "14 of boot 3   by its key") != 2 {
		t.Errorf("code %d\n%s", code, out)
	}

	// Somebody who may push turns one bit of the other node's document.
	git(bare, "clone", "--quiet", "--branch", statusbranch.DefaultBranch, url, clone)
	at := filepath.Join(clone, statusbranch.DocumentPath("n2"))
	data, err := os.ReadFile(at)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(at, data, 0o600); err != nil {
		t.Fatal(err)
	}
	git(clone, "commit", "--quiet", "--all", "--no-gpg-sign", "--message", "status")
	git(clone, "push", "--quiet", "origin", "HEAD")
	out, code = verify()
	for _, want := range []string{"no enrolled node has signed it", "n1     14 of boot 3       by its key", "n2     none that counts   -", "status/n2.cbor: "} {
		if !strings.Contains(out, want) {
			t.Errorf("want %q", want)
		}
	}
	if code != exitFailed || t.Failed() {
		t.Errorf("code %d\n%s", code, out)
	}
}
