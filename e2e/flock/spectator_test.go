package flock

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/pleachdev/pleach/agent/api"
	"github.com/pleachdev/pleach/reconcile"
)

// spectator asks every pod over HTTP, 20 times a second, and knows when each has answered. It learns the
// pods' addresses from the agents, and nothing else: what it counts is what a client would meet.
type spectator struct {
	began time.Time

	mu      sync.Mutex
	answers map[string][]time.Duration // by pod, since began
}

const (
	askEvery = 50 * time.Millisecond
	// near is how far from a moment an answer may be to count for it, so that a busy machine is not
	// taken for a pod that does not answer.
	near = 400 * time.Millisecond
)

// watchAll asks the pods of all nodes until the test ends, and returns from when on it has met all of them.
func (f *flock) watchAll() (s *spectator, met time.Time) {
	f.t.Helper()
	s = f.watchPods(f.machines...)
	time.Sleep(2 * near)
	return s, time.Now().Add(near)
}

// watchPods asks the pods of these nodes until the test ends.
func (f *flock) watchPods(nodes ...*machine) *spectator {
	f.t.Helper()
	s := &spectator{began: time.Now(), answers: map[string][]time.Duration{}}
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	f.t.Cleanup(func() { cancel(); watching.Wait() })
	kind, err := api.FindKind("pods")
	f.must(err)
	for _, m := range nodes {
		watching.Go(func() {
			known := map[string]bool{}
			for ctx.Err() == nil {
				_ = m.api.Watch(ctx, kind, api.ListOptions{}, func(_ watch.EventType, o reconcile.K8sObject) error {
					p, ok := o.(*corev1.Pod)
					if ok && p.Spec.NodeName == m.Name && p.Status.PodIP != "" && !known[p.Name] {
						known[p.Name] = true
						watching.Go(func() { s.ask(ctx, m, p.Name, p.Status.PodIP) })
					}
					return nil
				})
				pause(ctx, askEvery)
			}
		})
	}
	return s
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// ask asks one pod, from its own node, so that a cut cable does not matter. Its address may be another
// pod's later: the pod itself says who it is.
func (s *spectator) ask(ctx context.Context, m *machine, pod, ip string) {
	transport := &http.Transport{DialContext: m.DialContext}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, Timeout: time.Second}
	for ; ctx.Err() == nil; pause(ctx, askEvery) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+ip+":9898/", nil)
		if err != nil {
			return
		}
		response, err := client.Do(request)
		if err != nil {
			continue
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err == nil && bytes.Contains(body, []byte(pod)) {
			s.mu.Lock()
			s.answers[pod] = append(s.answers[pod], time.Since(s.began))
			s.mu.Unlock()
		}
	}
}

// least finds the fewest pods that answered at a time, between two moments, and when that was; -1 when
// there is no time between them.
func (s *spectator) least(from, to time.Time) (pods int, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pods = -1
	for t := from.Sub(s.began); t <= to.Sub(s.began); t += askEvery {
		n := 0
		for _, times := range s.answers {
			for _, answered := range times {
				if answered >= t-near && answered <= t+near {
					n++
					break
				}
			}
		}
		if pods < 0 || n < pods {
			pods, at = n, s.began.Add(t)
		}
	}
	return pods, at
}

// always fails the test when fewer than n pods answered at any time between from and now.
func (f *flock) always(s *spectator, n int, from time.Time, what string) {
	f.t.Helper()
	now := time.Now()
	time.Sleep(near)
	if least, at := s.least(from, now); least >= 0 && least < n {
		f.t.Errorf("%s: only %d pods answered at %s, want %d at all times", what, least, fmt.Sprintf("+%.2f s", at.Sub(from).Seconds()), n)
	}
}
