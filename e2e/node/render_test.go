package node_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pleachdev/pleach/e2e/lab"
)

// transition is when an agent saw a condition change, which is no part of what it renders.
var transition = regexp.MustCompile(`last(Transition|Update)Time: ".*"`)

// TestRendering changes a kustomize base outside of the app's folder. An agent that has followed all
// along and one that starts with nothing render the same.
func TestRendering(t *testing.T) {
	t.Parallel()
	f := newFlock(t)
	f.repo.Write("base/kustomization.yaml", "resources:\n- web.yaml\nconfigMapGenerator:\n- name: settings\n  files:\n  - settings.ini\n")
	f.repo.Write("base/web.yaml", web("web", "6.14.1", 1)+"        envFrom:\n        - configMapRef:\n            name: settings\n")
	f.repo.Write("base/settings.ini", "colour=green\n")
	f.repo.Write(appDir+"/kustomization.yaml", "resources:\n- ../../base\nreplicas:\n- name: web\n  count: 2\n")
	f.push("an app with a base")
	f.waitReady("default/web", 2)
	f.repo.Write("base/settings.ini", "colour=blue\n")
	f.repo.Replace("base/web.yaml", "podinfo:6.14.1", "podinfo:6.14.2")
	f.push("another base")
	f.waitReady("default/web", 2)

	// rendered is all that was made of the commit: objects with their uids, and the status branch.
	rendered := func() map[string]string {
		t.Helper()
		all := map[string]string{}
		for _, kind := range []string{"deployments", "configmaps", "replicasets"} {
			all[kind] = f.kubectl("get", kind, "-A", "-o", "yaml")
		}
		status := f.repo.Fetch("pleach/status")
		for path := range strings.FieldsSeq(f.repo.Git("ls-tree", "-r", "--name-only", status)) {
			if strings.HasPrefix(path, "workloads/") {
				all[path] = f.repo.Git("show", status+":"+path)
			}
		}
		for name, text := range all {
			all[name] = transition.ReplaceAllString(text, "")
		}
		return all
	}
	f.wait("the status branch is complete", func(context.Context) error {
		text, err := f.repo.Try("show", f.repo.Fetch("pleach/status")+":README.md")
		if err == nil {
			err = lacks("README.md", text, "| complete |")
		}
		return err
	})
	warm := rendered()
	before := f.pids()
	if text := warm["configmaps"]; lacks("", text, "colour=blue") != nil || strings.Contains(text, "colour=green") {
		t.Errorf("the base's change did not arrive:\n%s", text)
	}

	must(t, f.node.KillAgent())
	for _, state := range []string{"accepted.json", "config.git"} {
		if _, err := os.Stat(filepath.Join(f.dir(), state)); err != nil {
			t.Fatal(err) // then nothing would be lost
		}
		must(t, os.RemoveAll(filepath.Join(f.dir(), state)))
	}
	f.startAgent()
	f.waitHead(f.repo.Head())
	f.waitReady("default/web", 2)
	f.samePIDs(before)
	f.wait("a fresh agent renders the same", func(context.Context) error {
		fresh := rendered()
		for name, want := range warm {
			if fresh[name] != want {
				return errors.New(name + " is\n" + fresh[name] + "\nand was\n" + want)
			}
		}
		return nil
	})
}

// TestValidate checks manifests of the shapes that people have, offline.
func TestValidate(t *testing.T) {
	t.Parallel()
	program, err := lab.Pleach()
	must(t, err)
	var out bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program, "validate", "testdata/manifests")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v:\n%s", err, &out)
	}
	var held []string
	for line := range strings.Lines(out.String()) {
		rest, ok := strings.CutPrefix(line, "warning: ")
		if !ok {
			continue
		}
		fields := strings.Fields(rest) // file:line: apiVersion Kind name: …
		held = append(held, fields[2])
		if !strings.Contains(rest, "not supported yet") {
			t.Errorf("another warning than that a kind is not supported yet: %s", rest)
		}
	}
	if got, want := strings.Join(held, " "), "Service StatefulSet StorageClass Service HorizontalPodAutoscaler Service"; got != want {
		t.Errorf("not supported yet: %s\nwant %s\n%s", got, want, &out)
	}
}
