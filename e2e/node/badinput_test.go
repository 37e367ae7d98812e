package node_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/pleachdev/pleach/e2e/lab"
)

// TestBadInput pushes mistakes, together with an honest change of the other app. Each is answered with
// where it is, what is wrong and what to do; what ran goes on; the other app moves on; and a revert,
// as the report says, mends it.
func TestBadInput(t *testing.T) {
	t.Parallel()
	f, _ := newPair(t)
	const webFile = appDir + "/web.yaml"

	mistakes := []struct {
		name  string
		make  func(r *lab.Repo)
		unit  string // that is refused; "" when all is
		words []string
	}{
		{"broken YAML", func(r *lab.Repo) {
			r.Write(appDir+"/new.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: new\n data: {}\n")
		}, app, []string{"apps/test/new.yaml:", "no YAML: did not find expected key"}},
		{"an unknown field, a wrong type and an unknown kind at once", func(r *lab.Repo) {
			r.Replace(webFile, "replicas: 2", `replicas: "two"`)
			r.Replace(webFile, "livenessProbe:", "livenesProbe:")
			r.Write(appDir+"/new.yaml", "apiVersion: v1\nkind: ConfigMapp\nmetadata:\n  name: new\n")
		}, app, []string{
			"apps/test/new.yaml:2: v1 ConfigMapp new: unknown apiVersion and kind: v1 ConfigMapp",
			`apps/test/web.yaml:7: spec.replicas: want a whole number, got "two"`,
			`apps/test/web.yaml:27: spec.template.spec.containers[0].livenesProbe: unknown field, did you mean "livenessProbe"?`,
		}},
		{"a value that Kubernetes refuses", func(r *lab.Repo) {
			r.Replace(webFile, "replicas: 2", "replicas: -2")
		}, app, []string{"apps/test/web.yaml:7: spec.replicas: Invalid value: -2: must be greater than or equal to 0"}},
		{"an object twice", func(r *lab.Repo) {
			r.Write(appDir+"/again.yaml", r.Read(webFile))
		}, app, []string{"apps/test/web.yaml:1: apps/v1 Deployment default/web: is already in apps/test/again.yaml:1: keep one of them"}},
		{"an object of the other app", func(r *lab.Repo) {
			r.Write(appDir+"/shop.yaml", r.Read(otherDir+"/shop.yaml"))
		}, app, []string{`apps/test/shop.yaml:1: apps/v1 Deployment default/shop: is an object of app "other" already: remove it from one of the two`}},
		{"an immutable field", func(r *lab.Repo) {
			r.Replace(webFile, "    matchLabels:\n      app: web", "    matchLabels:\n      app: web\n      tier: front")
			r.Replace(webFile, "      labels:\n        app: web", "      labels:\n        app: web\n        tier: front")
		}, app, []string{"spec.selector: Invalid value: ", "field is immutable"}},
		{"a manifest of 3 MB", func(r *lab.Repo) {
			r.Write(appDir+"/big.yaml", configMap("big")+"  more: "+strings.Repeat("x", 3<<20)+"\n")
		}, app, []string{"apps/test/big.yaml: larger than 2 MiB: split the file"}},
		{"a manifest of 20 MB", func(r *lab.Repo) {
			r.Write(appDir+"/big.yaml", configMap("big")+"  more: "+strings.Repeat("x", 20<<20)+"\n")
		}, "", []string{"apps/test/big.yaml: has ", "more than the limit of 8388608: split the file"}},
		{"a symbolic link", func(r *lab.Repo) {
			r.Symlink(appDir+"/passwd.yaml", "../../../etc/passwd")
		}, "", []string{"apps/test/passwd.yaml: is a symbolic link; only files and directories are allowed"}},
		{"a kustomize base outside of the repository", func(r *lab.Repo) {
			r.Write(appDir+"/kustomization.yaml", "resources:\n- web.yaml\n- ../../../etc\n")
		}, app, []string{`apps/test/kustomization.yaml:3: resources[1]: "../../../etc" leaves the repository: keep what it names inside`}},
		{"a remote kustomize base", func(r *lab.Repo) {
			r.Write(appDir+"/kustomization.yaml", "resources:\n- web.yaml\n- https://example.org/base?ref=v1\n")
		}, app, []string{`apps/test/kustomization.yaml:3: resources[1]: "https://example.org/base?ref=v1" is remote, and every node must render the same without a network: copy it into the repository and name the copy`}},
		{"an app's folder is missing", func(r *lab.Repo) {
			r.Remove(appDir)
		}, app, []string{`apps/test: no such folder: correct the path of app "test" in pleach.yaml`}},
		{"a policy that does not compile", func(r *lab.Repo) {
			r.Write("policies/broken.rego", "package pleach.admission\n\ndeny contains \"x\" if inputt.object\n")
		}, "pleach.dev", []string{"policies/broken.rego:3: inputt has no value here: is the name right"}},
		{"a broken pleach.yaml", func(r *lab.Repo) {
			r.Replace("pleach.yaml", "path: "+appDir, "pat: "+appDir)
		}, "pleach.dev", []string{"pleach.yaml:", `spec.apps[0].pat: unknown field, did you mean "path"?`}},
		{"a broken node", func(r *lab.Repo) {
			r.Replace("nodes/"+nodeName+".yaml", "podCIDRs:", "podCidrs:")
		}, "pleach.dev", []string{"nodes/node-1.yaml:", `spec.podCidrs: unknown field, did you mean "podCIDRs"?`}},
		{"a policy that denies", func(r *lab.Repo) {
			r.Replace(webFile, "podinfo:6.14.1", "podinfo:latest")
		}, app, []string{"apps/test/web.yaml:1: apps/v1 Deployment default/web: web uses latest: name a version (policies/images.rego:3)"}},
	}
	f.repo.Write("policies/images.rego", `package pleach.admission

deny contains sprintf("%s uses latest: name a version", [input.object.metadata.name]) if {
	some c in input.object.spec.template.spec.containers
	endswith(c.image, ":latest")
}

warn contains "an empty ConfigMap" if {
	input.object.kind == "ConfigMap"
	not input.object.data
}
`)
	f.push("policies")
	f.waitClean()

	for i, m := range mistakes {
		if t.Failed() {
			return // the branch is not mended, so that the others would fail, too
		}
		f.run(m.name, func(f *flock) {
			f.unharmed(func() {
				before := f.unit(app).Commit.ID
				m.make(f.repo)
				f.repo.Write(otherDir+"/step.yaml", configMap(fmt.Sprintf("step-%d", i)))
				id := f.repo.Commit(m.name)
				f.repo.Push()
				f.waitRefused(id, m.unit, m.words...)
				f.waitTold("still running: ", `push a commit that corrects it, or "git revert `+id[:12])
				wantUnit := func(name string, moves bool) {
					f.t.Helper()
					switch at := f.unit(name).Commit.ID; {
					case moves && at != id:
						f.t.Errorf("%s is at %.12s, want the new commit", name, at)
					case !moves && at != before:
						f.t.Errorf("%s is at %.12s, want the one before, %.12s", name, at, before)
					}
				}
				wantUnit("pleach.dev", m.unit == app)
				wantUnit(app, m.unit == "pleach.dev")
				wantUnit(other, m.unit != "")
				f.repo.Revert(id)
				f.repo.Push()
				f.waitClean()
			})
		})
	}

	f.run("a policy that warns", func(f *flock) {
		f.repo.Write(otherDir+"/empty.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: empty\n")
		f.push("an empty ConfigMap")
		f.waitTold("apps/other/empty.yaml:1: v1 ConfigMap default/empty: an empty ConfigMap (policies/images.rego:8)")
		f.waitClean()
	})
	f.run("a path that no work tree can have", func(f *flock) {
		accepted := f.repo.Head()
		dots := f.repo.Tree("100644 blob " + f.repo.Blob("x") + "\t..")
		root := strings.Split(f.repo.Git("ls-tree", accepted), "\n")
		id := f.repo.CommitTree("dots", f.repo.Tree(append(root, "040000 tree "+dots+"\tzz")...))
		f.repo.Push()
		f.waitRefused(id, "", "zz/..: ")
		f.repo.CommitTree("mend", f.repo.Git("rev-parse", accepted+"^{tree}"))
		f.repo.Push()
		f.waitClean()
	})
	f.run("what is not supported yet", func(f *flock) {
		f.unharmed(func() {
			f.repo.Write(webFile, f.repo.Read(webFile)+"      volumes:\n      - name: data\n        persistentVolumeClaim:\n          claimName: data\n")
			f.repo.Write(appDir+"/service.yaml", "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\nspec:\n  ports:\n  - port: 80\n")
			id := f.push("a claim and a Service")
			f.waitTold(
				"apps/test/service.yaml:1: v1 Service web: not supported yet; Pleach leaves it out, the rest of the app goes on",
				"spec.template.spec.volumes[0].persistentVolumeClaim: not supported yet; Pleach holds the object back, the rest of the app goes on; still running: the version of commit ",
			)
			if at := f.unit(app).Commit.ID; at != id {
				f.t.Errorf("app %s is at %.12s, want %.12s", app, at, id)
			}
			must(f.t, f.node.KillAgent()) // what is held survives
			f.startAgent()
			f.waitReady("default/web", 2)
			f.repo.Revert(id)
			f.repo.Push()
			f.waitClean()
		})
	})
	f.run("what cannot run", func(f *flock) {
		before := f.pids()
		f.repo.Write(otherDir+"/missing.yaml", web("missing", missing, 1))
		f.repo.Write(otherDir+"/crashing.yaml", web("crashing", "crashing", 1))
		f.repo.Write(otherDir+"/huge.yaml", strings.Replace(web("huge", "6.14.1", 1), "cpu: 10m", "cpu: 900", 1))
		id := f.push("what cannot run")
		f.waitTold("stefanprodan/podinfo:"+missing, "CrashLoopBackOff", "0/1 nodes are available: 1 Insufficient cpu.")
		f.samePIDs(before)
		f.repo.Revert(id)
		f.repo.Push()
		f.waitClean()
		f.wait("they are gone", func(context.Context) error {
			if n := len(f.pids()); n != len(before) {
				return fmt.Errorf("%d processes, want %d", n, len(before))
			}
			return nil
		})
		f.samePIDs(before)
	})
}
