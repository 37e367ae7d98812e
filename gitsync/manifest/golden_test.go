package manifest

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/tools/txtar"

	"github.com/pleachdev/pleach/gitsync/v1alpha1"
)

var update = flag.Bool("update", false, "rewrite the want sections of testdata")

const wantSection = "want"

// treeOf makes a tree of an archive. A file whose content is "-> target" is a symbolic link.
func treeOf(ar *txtar.Archive) fstest.MapFS {
	tree := fstest.MapFS{}
	for _, f := range ar.Files {
		if f.Name == wantSection {
			continue
		}
		if target, ok := strings.CutPrefix(string(f.Data), "-> "); ok {
			tree[f.Name] = &fstest.MapFile{Data: []byte(strings.TrimSpace(target)), Mode: fs.ModeSymlink | 0o777}
			continue
		}
		tree[f.Name] = &fstest.MapFile{Data: f.Data}
	}
	return tree
}

// TestGolden loads the app "app" of each archive of testdata/load, and the cluster of testdata/cluster.
func TestGolden(t *testing.T) {
	golden(t, "testdata/load/*.txtar", func(tree fs.FS) string {
		var b strings.Builder
		r := Load(tree, cluster(), v1alpha1.App{Name: "app", Path: "app", Namespace: "shop"})
		for _, o := range r.Objects {
			fmt.Fprintf(&b, "object: %s (%s:%d) %s\n", Name(o.Object), o.Source.Path, o.Source.Line, o.Revision)
		}
		for _, p := range r.Errors {
			fmt.Fprintf(&b, "error: %s\n", p.Error())
		}
		for _, p := range r.Warnings {
			kind := "warning"
			if p.Held {
				kind = "held"
			}
			fmt.Fprintf(&b, "%s: %s\n", kind, p.Error())
		}
		if !r.Trace.Unchanged(tree) {
			b.WriteString("the trace of the same tree says changed\n")
		}
		return b.String()
	})
	golden(t, "testdata/cluster/*.txtar", func(tree fs.FS) string {
		var b strings.Builder
		c, problems := LoadCluster(tree)
		for _, p := range problems {
			fmt.Fprintf(&b, "error: %s\n", p.Error())
		}
		if c != nil {
			fmt.Fprintf(&b, "cluster: %s, %d apps, %d policies\n", c.Spec.Name, len(c.Spec.Spec.Apps), len(c.Policies))
			for _, n := range c.Nodes {
				fmt.Fprintf(&b, "node: %s %v\n", n.Name, n.Spec.PodCIDRs)
			}
		}
		return b.String()
	})
}

func golden(t *testing.T, pattern string, run func(fs.FS) string) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %d files, %v", pattern, len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := run(treeOf(ar))
			n := len(ar.Files)
			if n == 0 || ar.Files[n-1].Name != wantSection {
				ar.Files = append(ar.Files, txtar.File{Name: wantSection})
				n++
			}
			if *update {
				ar.Files[n-1].Data = []byte(got)
				if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if want := string(ar.Files[n-1].Data); got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}
