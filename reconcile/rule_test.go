package reconcile

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// rulesIn lists the rules that tests of a package leave out, but noRule.
func rulesIn(t *testing.T, dir string) (out []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, "rule.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && v.Names[0].Name != "noRule" {
			out = append(out, v.Names[0].Name)
		}
		return true
	})
	return out
}

// testsIn returns the text of each test of a package.
func testsIn(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, data, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Test") {
				out[f.Name.Name] = string(data[f.Pos()-file.FileStart : f.End()-file.FileStart])
			}
		}
	}
	return out
}

// TestEveryRuleHasItsTest reads the table of rules in docs/testing.md.
func TestEveryRuleHasItsTest(t *testing.T) {
	page, err := os.ReadFile("../docs/testing.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(page), "| section | rule, and what goes wrong without it |")
	if !ok {
		t.Fatal("docs/testing.md has no table of rules")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	dirs := map[string]string{"reconcile": ".", "gossip": "../gossip", "gate": "gate"}
	tests := map[string]map[string]string{}
	for name, dir := range dirs {
		tests[name] = testsIn(t, dir)
	}
	quoted := regexp.MustCompile("`([^`]+)`")
	left := map[string]bool{}
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || !strings.Contains(cells[3], "`") {
			continue
		}
		text := ""
		for _, m := range quoted.FindAllStringSubmatch(cells[3], -1) {
			where, name, ok := strings.Cut(m[1], ".")
			if !ok {
				where, name = "reconcile", m[1]
			}
			body, ok := tests[where][name]
			if !ok {
				t.Errorf("%s is no test", m[1])
			}
			text += body
		}
		for _, m := range quoted.FindAllStringSubmatch(cells[4], -1) {
			left[m[1]] = true
			if !regexp.MustCompile(`\b` + m[1] + `\b`).MatchString(text) {
				t.Errorf("%s: no test leaves out %s", strings.TrimSpace(cells[3]), m[1])
			}
		}
	}
	for _, name := range append(rulesIn(t, "."), rulesIn(t, "../gossip")...) {
		if !left[name] {
			t.Errorf("docs/testing.md names no test that leaves out %s", name)
		}
	}
	for _, c := range rolloutChecks {
		if !left[nameOf(c)] {
			t.Errorf("docs/testing.md names no test that leaves out %s", nameOf(c))
		}
	}
}
