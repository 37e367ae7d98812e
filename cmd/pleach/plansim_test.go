package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pleachdev/pleach/e2e/sim"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/reconcile/foretell"
)

// TestPlanComesTrue lets the simulator live what a plan foretold: every slot runs on the node that the
// plan named, at the same revision, and those that found no node in the plan find none.
func TestPlanComesTrue(t *testing.T) {
	for _, set := range []struct {
		name  string
		nodes int
		repo  func(testing.TB) *flockRepo
	}{
		{"services", 5, fewObjects},
		{"300 objects", 8, func(t testing.TB) *flockRepo { return servicesRepo(t, 8, 60) }},
		{"manifests", 4, otherManifests},
	} {
		t.Run(set.name, func(t *testing.T) {
			r := set.repo(t)
			seen, err := r.options(set.nodes).look(t.Context(), "before..HEAD")
			if err != nil {
				t.Fatal(err)
			}
			flock := foretell.New(nil)
			flock.Run(wanted(seen.foresight.Before))
			course := flock.Run(wanted(seen.foresight.After))
			if !course.Settled || len(course.Events) == 0 {
				t.Fatalf("settled: %t, after %d events", course.Settled, len(course.Events))
			}
			life := seen.life(1)
			life.Events = append(life.Events,
				sim.Event{At: time.Second, Kind: sim.Push, Node: -1}, sim.Event{At: 3 * time.Minute, Kind: sim.Push, Node: -1})
			life.Calm = 3 * time.Minute
			recording, story := sim.Run(life)
			if v := sim.Check(recording); v != nil {
				sim.Tell(os.Stdout, life, recording, story, v)
				t.Fatal(v.Error())
			}
			if recording.Whole == 0 {
				t.Fatal("the simulated flock did not settle")
			}
			foretold, came := positions(flock.Instances()), map[reconcile.Slot]position{}
			for _, d := range recording.Latest() {
				maps.Copy(came, positions(d.Instances))
			}
			for slot, p := range foretold {
				if came[slot] != p {
					t.Errorf("%s[%d]: foretold %+v, came %+v", p.owner, slot.Ordinal, p, came[slot])
				}
			}
			if len(came) != len(foretold) {
				t.Errorf("%d slots run, %d were foretold", len(came), len(foretold))
			}
			t.Logf("%d slots where they were foretold", len(foretold))
		})
	}
}

type position struct{ owner, node, revision string }

func positions(list []reconcile.Instance) map[reconcile.Slot]position {
	out := map[reconcile.Slot]position{}
	for _, m := range list {
		out[m.Slot] = position{m.Owner, m.Node, m.Revision}
	}
	return out
}

// fewObjects has a rollout that grows, a DaemonSet, what is new, what goes, and what fits nowhere.
func fewObjects(t testing.TB) *flockRepo {
	t.Helper()
	r := newFlockRepo(t, 5, map[string]string{
		"apps/shop/web.yaml":   service("web", "example.com/web:1", 7),
		"apps/shop/old.yaml":   service("old", "example.com/old:1", 4),
		"apps/tools/logs.yaml": daemon("logs", "example.com/logs:1"),
		"apps/tools/wide.yaml": wide("wide", 7),
	})
	r.git("tag", "before")
	r.write("apps/shop/web.yaml", service("web", "example.com/web:2", 9))
	r.write("apps/tools/logs.yaml", daemon("logs", "example.com/logs:2"))
	r.write("apps/shop/new.yaml", service("new", "example.com/new:1", 3))
	r.git("rm", "-q", "apps/shop/old.yaml")
	r.commit("second")
	return r
}

func daemon(name, image string) string {
	return `apiVersion: apps/v1
kind: DaemonSet
metadata: {name: ` + name + `}
spec:
  selector: {matchLabels: {app: ` + name + `}}
  template:
    metadata: {labels: {app: ` + name + `}}
    spec:
      containers: [{name: main, image: "` + image + `"}]
`
}

// wide wants a node for itself, more of them than there are.
func wide(name string, replicas int) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: %[1]s}}}
      containers: [{name: main, image: example.com/wide:1}]
`, name, replicas)
}

// otherManifests are those below PLEACH_MANIFESTS, a folder for each app, added to an empty flock; the
// examples of this repository when it is not set.
func otherManifests(t testing.TB) *flockRepo {
	t.Helper()
	from := os.Getenv("PLEACH_MANIFESTS")
	if from == "" {
		from = filepath.Join("..", "..", "examples")
	}
	r := newFlockRepo(t, 4, map[string]string{"apps/tools/logs.yaml": daemon("logs", "example.com/logs:1")})
	r.git("tag", "before")
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := os.CopyFS(filepath.Join(r.dir, "apps", e.Name()), os.DirFS(filepath.Join(from, e.Name()))); err != nil {
				t.Fatal(err)
			}
		}
	}
	r.add(nil)
	r.commit("second")
	return r
}
