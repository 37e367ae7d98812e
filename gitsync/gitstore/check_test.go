package gitstore_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pleachdev/pleach/gitsync/gitstore"
)

type entry struct{ mode, name, id string }

func (l *lab) rawTree(entries ...entry) string {
	l.T.Helper()
	var raw strings.Builder
	for _, e := range entries {
		id, err := hex.DecodeString(e.id)
		if err != nil {
			l.T.Fatal(err)
		}
		fmt.Fprintf(&raw, "%s %s\x00%s", e.mode, e.name, id)
	}
	return l.raw("tree", raw.String())
}

func (l *lab) rawCommit(tree string) string {
	l.T.Helper()
	return l.raw("commit", "tree "+tree+"\n"+idents+"\nm\n")
}

func TestHostileTrees(t *testing.T) {
	l := newLab(t)
	s := openStore(t)
	blob := l.raw("blob", "x")
	sub := l.rawTree(entry{"100644", "f", blob})
	commit := l.rawCommit(sub)
	file := func(name string) []entry { return []entry{{"100644", name, blob}} }
	for _, tt := range []struct {
		name    string
		entries []entry
		path    string
		want    string
	}{
		{"good", []entry{{"100644", "a", blob}, {"100755", "b.sh", blob}, {"40000", "c", sub}}, "", ""},
		{"good order", []entry{{"100644", "a-b", blob}, {"40000", "a", sub}, {"100644", "ab", blob}}, "", ""},
		{"good names", []entry{{"100644", ".gitignore", blob}, {"100644", "Grüße.yaml", blob}, {"100644", "git~2", blob}}, "", ""},
		{"symlink", []entry{{"120000", "link", blob}}, "link", "a symbolic link"},
		{"submodule", []entry{{"160000", "mod", commit}}, "mod", "a submodule"},
		{"group writable", []entry{{"100664", "f", blob}}, "f", "mode"},
		{"padded mode", []entry{{"040000", "d", sub}}, "d", "mode"},
		{"setuid", []entry{{"104755", "f", blob}}, "f", "mode"},
		{"dot dot", file(".."), "", "leads elsewhere"},
		{"dot", file("."), "", "leads elsewhere"},
		{"dot git", []entry{{"40000", ".git", sub}}, ".git", ".git"},
		{"DOT GIT", []entry{{"40000", ".GiT", sub}}, ".GiT", ".git"},
		{"short name", file("GIT~1"), "GIT~1", ".git"},
		{"trailing dot", file(".git. "), ".git. ", ".git"},
		{"stream", file(".git::$INDEX_ALLOCATION"), ".git::$INDEX_ALLOCATION", ".git"},
		{"ignorable", file(".g\u200cit"), ".g\u200cit", ".git"},
		{"slash", file("a/b"), "a/b", "separator"},
		{"climbs", file("../../etc/cron.d/x"), "../../etc/cron.d/x", "separator"},
		{"backslash", file(`..\x`), `..\x`, "separator"},
		{"newline", file("a\nb"), `a\nb`, "control character"},
		{"not UTF-8", file("a\xff"), `a\xff`, "UTF-8"},
		{"long name", file(strings.Repeat("x", 300)), "", "300 bytes"},
		{"unsorted", []entry{{"100644", "b", blob}, {"100644", "a", blob}}, "a", "wrong order"},
		{"directory sorted as file", []entry{{"40000", "a", sub}, {"100644", "a-b", blob}}, "a-b", "wrong order"},
		{"twice", []entry{{"100644", "a", blob}, {"100644", "a", blob}}, "a", "twice"},
		{"file and directory", []entry{{"100644", "a", blob}, {"100644", "a-", blob}, {"40000", "a", sub}}, "a", "twice"},
		{"nested", []entry{{"40000", "apps", l.rawTree(entry{"120000", "web", blob})}}, "apps/web", "a symbolic link"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l.T = t
			id := l.rawCommit(l.rawTree(tt.entries...))
			l.serve(s, id)
			for range 2 { // a refusal must not be remembered as good
				err := s.CheckTree(id, gitstore.DefaultLimits())
				if tt.want == "" {
					if err != nil {
						t.Fatal(err)
					}
					continue
				}
				oe, ok := errors.AsType[*gitstore.ObjectError](err)
				if !ok || !strings.Contains(oe.Reason, tt.want) || (tt.path != "" && oe.Path != tt.path) {
					t.Fatalf("%v, want %q at %q", err, tt.want, tt.path)
				}
			}
			// Nothing but a file is ever read, checked or not.
			if tree, err := s.Tree(id); err == nil && tt.name == "symlink" {
				if data, err := tree.ReadFile("link"); err == nil {
					t.Errorf("the link was read: %q", data)
				}
			}
		})
	}
}

func TestTreeLimits(t *testing.T) {
	l := newLab(t)
	s := openStore(t)
	limits := gitstore.Limits{BlobBytes: 100, Files: 10, Depth: 4, NameBytes: 50}
	small, big := l.raw("blob", "x"), l.raw("blob", strings.Repeat("x", 101))
	many := func(n int) string {
		var entries []entry
		for i := range n {
			entries = append(entries, entry{"100644", fmt.Sprintf("f%02d", i), small})
		}
		return l.rawTree(entries...)
	}
	nest := func(tree string, n int) string {
		for range n {
			tree = l.rawTree(entry{"40000", "d", tree})
		}
		return tree
	}
	four := many(4)
	bomb := many(1) // doubles with each level; the same tree is at many paths
	for range 3 {
		bomb = l.rawTree(entry{"40000", "a", bomb}, entry{"40000", "b", bomb})
	}
	for _, tt := range []struct{ name, tree, want string }{
		{"all files", many(10), ""},
		{"one file more", many(11), "more than 10 files"},
		{"files in directories", l.rawTree(entry{"40000", "a", four}, entry{"40000", "b", four}, entry{"40000", "c", four}), "more than 10 files"},
		{"deep", nest(many(1), 3), ""},
		{"deeper", nest(many(1), 4), "4 directories deep"},
		{"a known tree, deeper", nest(nest(many(1), 3), 1), "4 directories deep"},
		{"doubling", l.rawTree(entry{"40000", "a", bomb}), "directories deep"},
		{"eight by doubling", bomb, ""},
		{"large blob", l.rawTree(entry{"100644", "a", big}), "101 bytes"},
	} {
		id := l.rawCommit(tt.tree)
		l.serve(s, id)
		err := s.CheckTree(id, limits)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	// Thirty levels of doubling are a billion files in thirty objects.
	wide := many(1)
	for range 30 {
		wide = l.rawTree(entry{"40000", "a", wide}, entry{"40000", "b", wide})
	}
	id := l.rawCommit(wide)
	l.serve(s, id)
	if err := s.CheckTree(id, gitstore.DefaultLimits()); err == nil || !strings.Contains(err.Error(), "files") {
		t.Errorf("a tree of a billion files: %v", err)
	}
}
