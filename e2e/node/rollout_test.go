package node_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/reconcile"
)

// bounds are what a rollout promises, as somebody sees it from outside.
type bounds struct {
	workload  string // "namespace/name"
	available int    // pods that are ready for minReady and not being stopped, at the least
	running   int    // pods with a running container, at the most, with those that are being stopped
	minReady  time.Duration
}

// during looks at a workload at 20 Hz while do goes on, and fails the test when a bound is broken.
func (f *flock) during(b bounds, do func()) {
	f.t.Helper()
	f.alongside(b.workload+" keeps its bounds", func(ctx context.Context) error { return f.inBounds(ctx, b) }, do)
}

// inBounds looks once: at what the agent says, and at which pods answer.
func (f *flock) inBounds(ctx context.Context, b bounds) error {
	pods, err := f.listPods(ctx, b.workload)
	if err != nil {
		return err
	}
	available, running, answers := 0, 0, 0
	var seen []string
	for _, p := range pods {
		seen = append(seen, fmt.Sprintf("%s %s ready=%t going=%t", p.Name, p.Status.Phase, isReady(p), p.DeletionTimestamp != nil))
		for _, c := range p.Status.ContainerStatuses {
			if c.State.Running != nil {
				running++
			}
		}
		if isReady(p) && p.DeletionTimestamp == nil && time.Since(readySince(p)) >= b.minReady {
			available++
			if _, err := f.get(ctx, "http://"+p.Status.PodIP+":9898/readyz"); err == nil {
				answers++
			} else {
				seen = append(seen, err.Error())
			}
		}
	}
	var errs []error
	if available < b.available {
		errs = append(errs, fmt.Errorf("%d pods are available, want at least %d", available, b.available))
	} else if answers < b.available {
		errs = append(errs, fmt.Errorf("%d pods answer, want at least %d", answers, b.available))
	}
	if running > b.running {
		errs = append(errs, fmt.Errorf("%d pods run, want at most %d", running, b.running))
	}
	if len(errs) > 0 {
		errs = append(errs, errors.New(strings.Join(seen, "; ")))
	}
	return errors.Join(errs...)
}

func readySince(pod *corev1.Pod) time.Time {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

// waitWaiting waits until a workload says that a slot waits for a reason that holds want.
func (f *flock) waitWaiting(name, want string) {
	f.t.Helper()
	f.wait(name+" waits: "+want, func(ctx context.Context) error {
		w, err := f.workload(ctx, name)
		if err != nil {
			return err
		}
		var reasons []string
		for _, r := range w.Waiting {
			if strings.Contains(r.Reason, want) {
				return nil
			}
			reasons = append(reasons, r.Reason)
		}
		return fmt.Errorf("it waits for %q", reasons)
	})
}

// condition is the reason of a workload's condition.
func condition(w *reconcile.WorkloadStatus, kind string) string {
	for _, c := range w.Conditions {
		if c.Type == kind {
			return c.Reason
		}
	}
	return ""
}

// versions counts the ready pods of a workload by the version that they answer with.
func (f *flock) versions(workload string) map[string]int {
	f.t.Helper()
	versions := map[string]int{}
	for _, p := range f.pods(workload) {
		if isReady(p) && p.DeletionTimestamp == nil {
			body, err := f.get(f.t.Context(), "http://"+p.Status.PodIP+":9898/version")
			must(f.t, err)
			var answer struct{ Version string }
			must(f.t, json.Unmarshal([]byte(body), &answer))
			versions[answer.Version]++
		}
	}
	return versions
}

// TestRollout follows podinfo's own Deployment through a change, a bad one, and its revert.
func TestRollout(t *testing.T) {
	t.Parallel()
	f := newFlock(t)
	const name, file = "default/podinfo", appDir + "/podinfo.yaml"
	holds := bounds{workload: name, available: 3, running: 4, minReady: 3 * time.Second}
	wantVersions := func(f *flock, version string) {
		f.t.Helper()
		if got := f.versions(name); len(got) != 1 || got[version] != 3 {
			f.t.Errorf("the pods are of versions %v, want 3 of %s", got, version)
		}
	}

	f.repo.Write(file, podinfo("default", "6.14.1", 3))
	f.deploy("podinfo: deploy")
	f.waitReady(name, 3)
	wantVersions(f, "6.14.1")

	f.run("an image change keeps its bounds", func(f *flock) {
		f.repo.Write(file, podinfo("default", "6.14.2", 3))
		f.during(holds, func() {
			f.deploy("podinfo: 6.14.2")
			f.waitReady(name, 3)
		})
		wantVersions(f, "6.14.2")
	})
	f.run("a bad image stops the rollout and is reverted", func(f *flock) {
		before := f.pids()
		f.repo.Write(file, podinfo("default", missing, 3))
		f.during(holds, func() {
			bad := f.deploy("podinfo: an image that nobody built")
			f.waitWaiting(name, "ImagePullBackOff")
			if out := f.kubectl("describe", "deploy", "podinfo"); !strings.Contains(out, missing) || !strings.Contains(out, "ImagePullBackOff") {
				f.t.Errorf("describe does not say what is wrong:\n%s", out)
			}
			time.Sleep(3 * time.Second) // to see that it stays so
			wantVersions(f, "6.14.2")
			f.repo.Revert(bad)
			f.repo.Push()
			f.waitReady(name, 3)
		})
		wantVersions(f, "6.14.2")
		f.samePIDs(before)
	})
	f.run("every status commit is signed", func(f *flock) { f.checkStatusCommits() })
}

// samePIDs fails the test unless all processes of before go on.
func (f *flock) samePIDs(before map[string]int) {
	f.t.Helper()
	now := f.pids()
	for id, pid := range before {
		if now[id] != pid {
			f.t.Errorf("container %.12s had process %d and has %d", id, pid, now[id])
		}
	}
}
