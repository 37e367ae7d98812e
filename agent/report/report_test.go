package report

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/manifest"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
	"github.com/pleachdev/pleach/reconcile"
)

var update = flag.Bool("update", false, "rewrite testdata")

func commitOf(char string) reconcile.Commit {
	return reconcile.Commit{ID: strings.Repeat(char, 40), Level: 1, Time: time.Unix(1_700_000_000, 0).UTC()}
}

// TestReadme compares the page with testdata. Subjects and authors are what strangers wrote.
func TestReadme(t *testing.T) {
	broken := manifest.Problem{App: "web", Path: "apps/web/web.yaml", Line: 7, Field: "spec.replicas", Reason: `want a whole number, got "two"`}
	files, err := new(Writer).Files(Input{
		Alarm: `branch "main" was set back to aaaaaaaaaaaa, which is older than the accepted commit bbbbbbbbbbbb; what was accepted stays in force`,
		Accepted: &gitsync.Accepted{
			Head: commitOf("b"), ClusterCommit: commitOf("b"),
			Cluster: v1alpha1.Cluster{ObjectMeta: metav1.ObjectMeta{Name: "test"}},
			Nodes:   []*corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}}, {ObjectMeta: metav1.ObjectMeta{Name: "node-2"}}},
			Apps:    []gitsync.App{{Name: "shop", Commit: commitOf("b")}, {Name: "web", Commit: commitOf("a")}},
			Refusals: []gitsync.Refusal{
				{
					Commit: commitOf("c"), Subject: "more `replicas` [click](http://example.org) <b>", Author: "Ann <ann@example.org>", Signer: "ann@example.org",
					App: "web", Reason: broken.Error(), Running: commitOf("a"), Problems: []manifest.Problem{broken},
				},
				{
					Commit: commitOf("d"), Subject: "hello\n## Nodes", Author: "Eve | <eve@example.org>",
					App: "web", Reason: "is not signed", Running: commitOf("a"),
				},
				{
					Commit: commitOf("e"), Subject: "honest", Author: "Ann <ann@example.org>", Signer: "ann@example.org",
					App: gitsync.ClusterUnit, Reason: "pleach.yaml is as the refused commit dddddddddddd left it", Running: commitOf("b"), Stranger: commitOf("d").ID,
				},
			},
			Warnings: []manifest.Problem{{Path: "apps/web/service.yaml", Line: 1, Object: "v1 Service web", Reason: "not supported yet"}},
		},
		Documents: []*reconcile.Document{{
			Node: "node-1", Head: commitOf("b"),
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		}},
		Workloads: []*reconcile.WorkloadStatus{{Kind: "Deployment", Namespace: "default", Name: "web", Desired: 2, Ready: 2, Updated: 2, Available: 2}},
	})
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "README.md")
	if *update {
		if err := os.WriteFile(golden, files["README.md"], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(files["README.md"]); got != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// TestWriterWritesAgainWhatChanged makes two reports of which one workload differs.
func TestWriterWritesAgainWhatChanged(t *testing.T) {
	web, db := &reconcile.WorkloadStatus{Kind: "Deployment", Namespace: "default", Name: "web"}, &reconcile.WorkloadStatus{Kind: "Deployment", Namespace: "default", Name: "db"}
	in := Input{Accepted: &gitsync.Accepted{}, Workloads: []*reconcile.WorkloadStatus{web, db}}
	var w Writer
	before, err := w.Files(in)
	if err != nil {
		t.Fatal(err)
	}
	more := *web
	more.Ready = 1
	in.Workloads[0] = &more
	after, err := w.Files(in)
	if err != nil {
		t.Fatal(err)
	}
	for name, same := range map[string]bool{"web": false, "db": true} {
		at := "workloads/default/deployment/" + name + ".yaml"
		if got := &before[at][0] == &after[at][0]; got != same {
			t.Errorf("%s is the one of the report before: %v, want %v", at, got, same)
		}
	}
	if got := string(after["workloads/default/deployment/web.yaml"]); !strings.Contains(got, "ready: 1") {
		t.Errorf("got %s", got)
	}
}
