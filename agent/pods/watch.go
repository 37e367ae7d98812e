package pods

import (
	"context"
	"maps"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pleachdev/pleach/agent/wake"
)

// watch wakes workers when the runtime tells of their containers, and lists everything afresh now
// and then: after each reconnect, because events were missed meanwhile, and every relist.
func (m *Manager) watch(ctx context.Context) {
	events := make(chan *runtimeapi.ContainerEventResponse, 64)
	var wg sync.WaitGroup
	defer wg.Wait()
	connected := make(chan struct{}, 1)
	wg.Go(func() {
		for wait := 100 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, 5*time.Second) {
			began := time.Now()
			err := m.Runtime.GetContainerEvents(ctx, events, func(runtimeapi.RuntimeService_GetContainerEventsClient) {
				wake.Poke(connected)
			})
			if ctx.Err() != nil {
				return
			}
			if time.Since(began) > time.Minute {
				wait = 100 * time.Millisecond
			}
			m.Log.Warn("stream of container events ended", "err", err, "retryIn", wait)
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
		}
	})
	ticker := time.NewTicker(relist)
	defer ticker.Stop()
	seen := map[string]string{}
	for {
		select {
		case <-ctx.Done():
			// The stream may be blocked on sending: it ends once somebody takes what it holds.
			for {
				select {
				case <-events:
				case <-time.After(100 * time.Millisecond):
					return
				}
			}
		case e := <-events:
			m.dirty(eventUID(e))
		case <-connected:
			for _, w := range m.all() {
				m.dirty(w.uid)
			}
		case <-ticker.C:
			if err := m.relist(ctx, seen); err != nil && ctx.Err() == nil {
				m.Log.Warn("list sandboxes and containers", "err", err)
			}
		}
	}
}

func eventUID(e *runtimeapi.ContainerEventResponse) types.UID {
	if uid := e.GetPodSandboxStatus().GetMetadata().GetUid(); uid != "" {
		return types.UID(uid)
	}
	for _, c := range e.GetContainersStatuses() {
		if uid := c.GetLabels()[LabelUID]; uid != "" {
			return types.UID(uid)
		}
	}
	return ""
}

// dirty makes a pod's worker look again; an unknown pod is none of ours.
func (m *Manager) dirty(uid types.UID) {
	m.mu.Lock()
	w := m.workers[uid]
	m.mu.Unlock()
	if w != nil {
		w.dirty.Store(true)
		wake.Poke(w.wake)
	}
}

// relist wakes the workers of pods whose sandboxes or containers differ from the last listing.
func (m *Manager) relist(ctx context.Context, seen map[string]string) error {
	sandboxes, err := m.Runtime.ListPodSandbox(ctx, nil)
	if err != nil {
		return err
	}
	containers, err := m.Runtime.ListContainers(ctx, nil)
	if err != nil {
		return err
	}
	now := map[string]string{}
	owner := map[string]types.UID{}
	for _, s := range sandboxes {
		now[s.GetId()] = s.GetState().String()
		owner[s.GetId()] = types.UID(s.GetMetadata().GetUid())
	}
	for _, c := range containers {
		now[c.GetId()] = c.GetState().String()
		owner[c.GetId()] = types.UID(c.GetLabels()[LabelUID])
	}
	for id, state := range now {
		if seen[id] != state {
			m.dirty(owner[id])
		}
	}
	gone := false
	for id := range seen {
		if _, ok := now[id]; !ok {
			gone = true
		}
	}
	clear(seen)
	maps.Copy(seen, now)
	if gone {
		// Whose it was is not known any more; looking costs a millisecond per pod.
		for _, w := range m.all() {
			m.dirty(w.uid)
		}
	}
	return nil
}
