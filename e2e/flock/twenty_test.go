package flock

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// TestTwenty: sixty replicas over twenty nodes. In the midst of an image change two nodes are killed and a
// third is cut off from everything; the others finish the rollout without them. When they are back each
// slot runs once, and the checker finds nothing in what the twenty published on the way.
func TestTwenty(t *testing.T) {
	const nodes, replicas = 20, 60
	f := newFlock(t, nodes)
	f.repo.Write(appDir+"/web.yaml", strings.NewReplacer(
		"replicas: 6", fmt.Sprint("replicas: ", replicas),
		"{maxSurge: 2, maxUnavailable: 0}", "{maxSurge: 10, maxUnavailable: 10}",
		"        readinessProbe:", "        resources: {requests: {cpu: 5m, memory: 16Mi}, limits: {memory: 64Mi}}\n        readinessProbe:",
	).Replace(web))
	f.deploy("sixty replicas", f.machines...)
	f.settled(replicas, f.machines...)

	dead, alone := f.machines[5:7], f.machines[12]
	var rest []*machine
	for i, m := range f.machines {
		if i != 5 && i != 6 && i != 12 {
			rest = append(rest, m)
		}
	}
	f.change(nextImage)
	f.wait("a quarter of the pods is replaced", func(ctx context.Context) error {
		n := 0
		for _, m := range f.machines {
			pods, err := m.own(ctx)
			if err != nil {
				return err
			}
			for _, p := range pods {
				if p.Spec.Containers[0].Image == nextImage && ready(p) {
					n++
				}
			}
		}
		if n < replicas/4 {
			return fmt.Errorf("%d of %d are", n, replicas)
		}
		return nil
	})
	for _, m := range dead {
		f.kill(m)
	}
	heal := f.isolate(alone)
	f.rolled(replicas, nextImage, rest...)

	heal()
	for _, m := range dead {
		f.boot(m)
	}
	f.rolled(replicas, nextImage, f.machines...)
}
