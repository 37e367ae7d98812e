package flock

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/agent/api"
)

// own returns the pods that a node itself runs, by what its agent says of them, not its documents.
func (m *machine) own(ctx context.Context) ([]*corev1.Pod, error) {
	kind, err := api.FindKind("pods")
	if err != nil {
		return nil, err
	}
	objects, err := m.api.List(ctx, kind, api.ListOptions{})
	if err != nil {
		return nil, err
	}
	var out []*corev1.Pod
	for _, o := range objects {
		if p, ok := o.(*corev1.Pod); ok && p.Spec.NodeName == m.Name && p.DeletionTimestamp == nil {
			out = append(out, p)
		}
	}
	return out, nil
}

// placed returns the names of ready pods by node, when there are exactly n and all of them are ready.
func (f *flock) placed(ctx context.Context, n int, nodes ...*machine) (map[string][]string, error) {
	out, all := map[string][]string{}, 0
	for _, m := range nodes {
		pods, err := m.own(ctx)
		if err != nil {
			return nil, err
		}
		for _, p := range pods {
			all++
			if !ready(p) {
				return nil, fmt.Errorf("%s on %s is not ready", p.Name, m.Name)
			}
			out[m.Name] = append(out[m.Name], p.Name)
		}
	}
	if all != n {
		return nil, fmt.Errorf("%d pods, want %d: %v", all, n, out)
	}
	return out, nil
}

// unmoved says what these nodes run otherwise than before, or have that is not ready.
func (f *flock) unmoved(ctx context.Context, before map[string][]string, nodes ...*machine) error {
	now, err := f.placed(ctx, len(all(before)), nodes...)
	if err == nil && !slices.Equal(all(now), all(before)) {
		err = fmt.Errorf("%v was %v", now, before)
	}
	return err
}

// agreed waits until every node says by the others' documents that these pods are there, all ready, and no
// other.
func (f *flock) agreed(placed map[string][]string) {
	f.t.Helper()
	kind, err := api.FindKind("pods")
	f.must(err)
	for _, m := range f.machines {
		f.wait(m.Name+" sees what the others run", func(ctx context.Context) error {
			objects, err := m.api.List(ctx, kind, api.ListOptions{})
			if err != nil {
				return err
			}
			seen := map[string][]string{}
			for _, o := range objects {
				p, ok := o.(*corev1.Pod)
				if !ok || !ready(p) {
					return fmt.Errorf("%s is not ready", o.GetName())
				}
				seen[p.Spec.NodeName] = append(seen[p.Spec.NodeName], p.Name)
			}
			for node := range seen {
				slices.Sort(seen[node])
				if want := slices.Sorted(slices.Values(placed[node])); !slices.Equal(seen[node], want) {
					return fmt.Errorf("it sees %v on %s, which runs %v", seen[node], node, want)
				}
			}
			if len(all(seen)) != len(all(placed)) {
				return fmt.Errorf("it sees %v, want %v", seen, placed)
			}
			return nil
		})
	}
}

func ready(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// all are the names of placed pods, sorted.
func all(placed map[string][]string) []string {
	return slices.Sorted(func(yield func(string) bool) {
		for _, names := range maps.All(placed) {
			for _, n := range names {
				if !yield(n) {
					return
				}
			}
		}
	})
}

// settled waits until exactly n pods run on these nodes, all ready and no other there, and returns their
// names by node. The flock is quiet then: the checker holds it against the head.
func (f *flock) settled(n int, nodes ...*machine) map[string][]string {
	f.t.Helper()
	var out map[string][]string
	f.wait(fmt.Sprintf("%d pods run, each slot once", n), func(ctx context.Context) (err error) {
		out, err = f.placed(ctx, n, nodes...)
		return err
	})
	f.recorder.setQuiet(true)
	return out
}

// rolled waits until all of n pods run this image.
func (f *flock) rolled(n int, image string, nodes ...*machine) map[string][]string {
	f.t.Helper()
	f.wait(fmt.Sprintf("%d pods run %s", n, image), func(ctx context.Context) error {
		for _, m := range nodes {
			pods, err := m.own(ctx)
			if err != nil {
				return err
			}
			for _, p := range pods {
				if p.Spec.Containers[0].Image != image {
					return errors.New(p.Name + " has another image")
				}
			}
		}
		_, err := f.placed(ctx, n, nodes...)
		return err
	})
	return f.settled(n, nodes...)
}

// deployWeb deploys six replicas, over all nodes.
func (f *flock) deployWeb() string {
	f.t.Helper()
	f.repo.Write(appDir+"/web.yaml", web)
	return f.deploy("six replicas", f.machines...)
}

// deploy commits the work tree, pushes, and waits until these nodes have accepted it.
func (f *flock) deploy(message string, nodes ...*machine) string {
	f.t.Helper()
	f.recorder.setQuiet(false)
	id := f.repo.Commit(message)
	f.repo.Push()
	f.waitHead(id, nodes...)
	return id
}
