// Package architecture holds the tests that keep the shape of the code: who may import what, which
// packages are pure, and that every package says what it is for.
package architecture

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"strings"
	"testing"
)

const module = "github.com/pleachdev/pleach"

type goPackage struct {
	ImportPath string
	Doc        string
	Standard   bool
	Imports    []string
	Deps       []string
	GoFiles    []string
}

// list runs "go list -json" in the module's root.
func list(t *testing.T, args ...string) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json=ImportPath,Doc,Standard,Imports,Deps,GoFiles"}, args...)...)
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v\n%s", args, err, stderr.Bytes())
	}
	var pkgs []goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// level orders the packages: imports run from a larger number to a smaller one only.
var level = map[string]int{
	"placement":  1,
	"reconcile":  2,
	"policy":     2,
	"gossip":     3,
	"netplugins": 3,
	"gitsync":    4,
	"state":      5,
	"agent":      6,
	"cmd":        7,
	"e2e":        8,
	"examples":   8,
}

// below names what a package of a lower level may still use of a higher one: kinds without behaviour,
// the one way to write a file, and what support of tests asks for.
var below = map[string]bool{
	module + "/gitsync/v1alpha1": true, module + "/state/durable": true, module + "/e2e/needs": true,
	module + "/e2e/sim": true,
}

func top(importPath string) string {
	rest, _ := strings.CutPrefix(importPath, module+"/")
	first, _, _ := strings.Cut(rest, "/")
	return first
}

func TestImportsRunDownwards(t *testing.T) {
	for _, p := range list(t, "./...") {
		from, ok := level[top(p.ImportPath)]
		if !ok {
			t.Errorf("%s: the top level holds no such package; docs/architecture.md lists them", p.ImportPath)
			continue
		}
		for _, imp := range p.Imports {
			if !strings.HasPrefix(imp, module+"/") || below[imp] {
				continue
			}
			if to := level[top(imp)]; to > from {
				t.Errorf("%s imports %s, which stands above it", p.ImportPath, imp)
			}
			// The agent's parts are told apart from each other by their borders, tests apart from all.
			if strings.HasPrefix(imp, module+"/e2e") && top(p.ImportPath) != "e2e" {
				t.Errorf("%s imports %s: only tests use the laboratory", p.ImportPath, imp)
			}
		}
	}
}

// effects may not be reached from a pure package by any path through our own code.
var effects = []string{
	module + "/agent", module + "/gossip", module + "/netplugins", module + "/state",
	"github.com/containerd/", "github.com/go-git/", "github.com/hashicorp/", "github.com/vishvananda/netlink",
	"k8s.io/kubernetes/", "k8s.io/client-go/rest", "k8s.io/klog/",
}

func TestPurePackagesReachNoEffects(t *testing.T) {
	for _, p := range list(t, "./placement/...", "./reconcile/...", "./policy/...") {
		for _, imp := range p.Imports {
			switch imp {
			case "os", "net", "net/http", "math/rand", "math/rand/v2", "log", "log/slog", "os/exec", "sync/atomic":
				t.Errorf("%s imports %s: a pure package takes a snapshot and returns a decision", p.ImportPath, imp)
			}
		}
		if top(p.ImportPath) == "policy" {
			continue // OPA's own dependencies are wide; its capabilities are narrowed instead, and tested there.
		}
		for _, dep := range p.Deps {
			for _, e := range effects {
				if dep == e || strings.HasPrefix(dep, e) {
					if strings.HasPrefix(dep, "k8s.io/klog/") {
						continue // apimachinery logs through it; nothing of ours does
					}
					t.Errorf("%s reaches %s", p.ImportPath, dep)
				}
			}
		}
	}
}

func TestHeavyModulesStayInOneRoom(t *testing.T) {
	rooms := map[string][]string{
		"k8s.io/kubernetes/pkg/apis":         {"gitsync/manifest"},
		"github.com/open-policy-agent/opa/":  {"policy"},
		"sigs.k8s.io/kustomize/":             {"gitsync/manifest"},
		"github.com/go-git/":                 {"gitsync"},
		"github.com/containerd/containerd/":  {"agent", "cmd/pleach-shim"},
		"github.com/google/nftables":         {"netplugins"},
		"github.com/containernetworking/cni": {"netplugins", "cmd/pleach-cni"},
	}
	for _, p := range list(t, "./...") {
		own := strings.TrimPrefix(p.ImportPath, module+"/")
		if top(p.ImportPath) == "e2e" {
			continue
		}
		for _, imp := range p.Imports {
			for mod, allowed := range rooms {
				if !strings.HasPrefix(imp, mod) {
					continue
				}
				ok := false
				for _, a := range allowed {
					ok = ok || own == a || strings.HasPrefix(own, a+"/")
				}
				if !ok {
					t.Errorf("%s imports %s, which belongs to %v", p.ImportPath, imp, allowed)
				}
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range list(t, "./...") {
		if p.Doc == "" && len(p.GoFiles) > 0 {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
		if path.Base(p.ImportPath) == "util" || path.Base(p.ImportPath) == "common" || path.Base(p.ImportPath) == "helpers" {
			t.Errorf("%s: a package is named for what it does", p.ImportPath)
		}
	}
}
