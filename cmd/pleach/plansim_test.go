package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/e2e/sim"
	"github.com/pleachdev/pleach/gitsync/manifest"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/reconcile/foretell"
)

// TestPlanComesTrue lets the simulator live what a plan foretold: every slot runs on the node that the
// plan named, at the same revision, and those that found no node in the plan find none. The uids of the
// objects, by which they draw their nodes, and the delays of the simulated flock are drawn several times,
// PLEACH_DRAWS if that is set.
func TestPlanComesTrue(t *testing.T) {
	draws := uint64(5)
	if text := os.Getenv("PLEACH_DRAWS"); text != "" {
		var err error
		if draws, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	for _, set := range []struct {
		name  string
		nodes int
		draws uint64
		long  bool // left out of the short tests
		repo  func(testing.TB) *flockRepo
	}{
		{"services", 5, draws, false, fewObjects},
		{"300 objects", 8, draws, false, func(t testing.TB) *flockRepo { return servicesRepo(t, 8, 60) }},
		{"rollouts", 6, draws, false, rollouts},
		{"manifests", 4, draws, false, otherManifests},
		{"5,000 objects", 20, 1, true, manyObjects},
	} {
		t.Run(set.name, func(t *testing.T) {
			if set.long && testing.Short() {
				t.Skip("takes a minute")
			}
			seen, err := set.repo(t).options(set.nodes).look(t.Context(), "before..HEAD")
			if err != nil {
				t.Fatal(err)
			}
			for seed := range set.draws {
				seen.redraw(seed)
				comesTrue(t, seen, seed)
			}
		})
	}
}

// comesTrue compares what is foretold with what a simulated flock comes to.
func comesTrue(t *testing.T, seen *prospect, seed uint64) {
	t.Helper()
	flock := foretell.New(nil)
	flock.Run(wanted(seen.foresight.Before))
	course := flock.Run(wanted(seen.foresight.After))
	if !course.Settled || len(course.Events) == 0 {
		t.Fatalf("draw %d: settled: %t, after %d events", seed, course.Settled, len(course.Events))
	}
	life := seen.life(seed)
	life.Events = append(life.Events,
		sim.Event{At: 30 * time.Second, Kind: sim.Push, Node: -1}, sim.Event{At: 3 * time.Minute, Kind: sim.Push, Node: -1})
	life.Calm = 3 * time.Minute
	recording, story := sim.Run(life)
	if v := sim.Check(recording); v != nil {
		sim.Tell(os.Stdout, life, recording, story, v)
		t.Fatalf("draw %d: %s", seed, v.Error())
	}
	if recording.Whole == 0 {
		t.Fatalf("draw %d: the simulated flock did not settle", seed)
	}
	foretold, came := positions(flock.Instances()), map[reconcile.Slot]position{}
	for _, d := range recording.Latest() {
		maps.Copy(came, positions(d.Instances))
	}
	for slot, p := range foretold {
		if came[slot] != p {
			t.Errorf("draw %d: %s[%d]: foretold %+v, came %+v", seed, p.owner, slot.Ordinal, p, came[slot])
		}
	}
	if len(came) != len(foretold) {
		t.Errorf("draw %d: %d slots run, %d were foretold", seed, len(came), len(foretold))
	}
	t.Logf("draw %d: %d slots where they were foretold", seed, len(foretold))
}

// redraw gives every object another uid, as if another commit had brought it.
func (p *prospect) redraw(seed uint64) {
	for _, a := range p.states() {
		for _, app := range a.Apps {
			for i, o := range app.Objects {
				app.Objects[i] = withUID(o, types.UID(uuid.NewSHA1(uuid.NameSpaceURL, fmt.Appendf(nil, "%d %s", seed, manifest.Name(o.Object))).String()))
			}
		}
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

// rollouts changes workloads by surge, by stopping first, mixed and all at once, while it makes them larger, brings others, and takes some away.
func rollouts(t testing.TB) *flockRepo {
	t.Helper()
	strategies := []string{
		"rollingUpdate: {maxSurge: 1, maxUnavailable: 0}", "rollingUpdate: {maxSurge: 0, maxUnavailable: 2}",
		"rollingUpdate: {maxSurge: 2, maxUnavailable: 1}", "type: Recreate",
	}
	deployment := func(i, image, replicas int) string {
		return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: roll-%[1]d}
spec:
  replicas: %[3]d
  selector: {matchLabels: {app: roll-%[1]d}}
  strategy: {%[4]s}
  template:
    metadata: {labels: {app: roll-%[1]d}}
    spec:
      containers: [{name: main, image: "example.com/roll:%[2]d", resources: {requests: {cpu: 900m, memory: 1Gi}}}]
`, i, image, replicas, strategies[i%len(strategies)])
	}
	files := map[string]string{}
	for i := range 10 {
		files[fmt.Sprintf("apps/shop/roll-%d.yaml", i)] = deployment(i, 1, 2+i%4)
	}
	r := newFlockRepo(t, 6, files)
	r.git("tag", "before")
	for i := range 8 {
		r.write(fmt.Sprintf("apps/shop/roll-%d.yaml", i), deployment(i, 2, 3+i%5))
	}
	r.git("rm", "-q", "apps/shop/roll-8.yaml", "apps/shop/roll-9.yaml")
	for i := range 3 {
		r.write(fmt.Sprintf("apps/shop/roll-%d.yaml", 10+i), deployment(10+i, 1, 3))
	}
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
