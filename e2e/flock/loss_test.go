package flock

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
)

const web = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  namespace: default
spec:
  replicas: 6
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: ScheduleAnyway
        labelSelector: {matchLabels: {app: web}}
      containers:
      - name: web
        image: stefanprodan/podinfo:6.14.1
        ports:
        - {name: http, containerPort: 9898}
        readinessProbe:
          httpGet: {path: /readyz, port: http}
          periodSeconds: 1
`

// TestNodeLost: six replicas over three nodes. A node is lost: its pods, and only they, are started
// elsewhere. It comes back: no slot runs twice once it has settled.
func TestNodeLost(t *testing.T) {
	f := newFlock(t, 3)
	f.repo.Write(appDir+"/web.yaml", web)
	head := f.repo.Commit("six replicas")
	f.repo.Push()
	f.waitHead(head, f.machines...)
	var before map[string][]string
	f.wait("six replicas are spread", func(ctx context.Context) (err error) {
		if before, err = f.placed(ctx, 6, f.machines...); err != nil {
			return err
		}
		for _, m := range f.machines {
			if len(before[m.Name]) != 2 {
				return fmt.Errorf("got %v", before)
			}
		}
		return nil
	})
	t.Run("pods reach each other", func(t *testing.T) {
		pods, err := f.machines[1].own(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pods {
			for _, from := range f.machines {
				out, err := from.Exec(t.Context(), f.program, "exec", before[from.Name][0], "--", "podcli", "check", "http", p.Status.PodIP+":9898/healthz")
				if err != nil {
					t.Errorf("from %s to %s: %s%v", from.Name, p.Name, out, err)
				}
			}
		}
	})
	lost, rest := f.machines[2], f.machines[:2]
	f.kill(lost)
	var after map[string][]string
	f.wait("its pods run elsewhere", func(ctx context.Context) (err error) {
		after, err = f.placed(ctx, 6, rest...)
		return err
	})
	for _, m := range rest {
		for _, name := range before[m.Name] {
			if !slices.Contains(after[m.Name], name) {
				t.Errorf("%s on %s was replaced though its node was there", name, m.Name)
			}
		}
	}
	f.boot(lost)
	f.waitHead(head, lost)
	f.wait("each slot runs once", func(ctx context.Context) error {
		settled, err := f.placed(ctx, 6, f.machines...)
		if err != nil {
			return err
		}
		for _, m := range rest {
			for _, name := range before[m.Name] {
				if !slices.Contains(settled[m.Name], name) {
					t.Errorf("%s left %s", name, m.Name)
				}
			}
		}
		if strings.Join(settled[lost.Name], " ") == strings.Join(before[lost.Name], " ") {
			return fmt.Errorf("the pods of before the loss run on %s", lost.Name)
		}
		return nil
	})
}
