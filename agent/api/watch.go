package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/state"
)

// watchEvent is one line of a watch. It has the form of Kubernetes' own: type ADDED, MODIFIED or
// DELETED with an object; BOOKMARK without one follows the objects that were there at the beginning.
type watchEvent[T any] struct {
	Type   watch.EventType `json:"type"`
	Object T               `json:"object,omitempty"`
}

func (s *Server) watch(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json;stream=watch")
	control := http.NewResponseController(w)
	encoder := json.NewEncoder(w)
	sent := map[string]reconcile.K8sObject{}
	for first := true; ; first = false {
		v := s.view()
		if err := sendChanges(encoder, sent, v.matching(q)); err != nil {
			return err
		}
		if first {
			if err := encoder.Encode(watchEvent[any]{Type: watch.Bookmark}); err != nil {
				return err
			}
		}
		if err := control.Flush(); err != nil {
			return err
		}
		if v.Wait(r.Context(), tablesOf(q.kind)...) != nil {
			return nil //nolint:nilerr // the client or the agent ended it
		}
	}
}

// tablesOf names what objects of a kind are made of.
func tablesOf(k Kind) []state.Table {
	switch k.Kind {
	case "Pod":
		return []state.Table{state.Pods, state.Documents, state.Accepted, state.Members}
	case "Event":
		return []state.Table{state.Events}
	case "Node", "ReplicaSet":
		return []state.Table{state.Documents, state.Accepted, state.Workloads, state.Members}
	default:
		return []state.Table{state.Accepted, state.Workloads}
	}
}

// sendChanges sends the difference between sent and now, and leaves now in sent.
func sendChanges(encoder *json.Encoder, sent map[string]reconcile.K8sObject, now []reconcile.K8sObject) error {
	key := func(o reconcile.K8sObject) string {
		return fmt.Sprintf("%s/%s/%s", o.GetNamespace(), o.GetName(), o.GetUID())
	}
	present := map[string]bool{}
	for _, o := range now {
		present[key(o)] = true
	}
	for _, k := range slices.Sorted(maps.Keys(sent)) {
		if present[k] {
			continue
		}
		if err := encoder.Encode(watchEvent[reconcile.K8sObject]{watch.Deleted, sent[k]}); err != nil {
			return err
		}
		delete(sent, k)
	}
	for _, o := range now {
		old, known := sent[key(o)]
		if known && (old == o || equality.Semantic.DeepEqual(old, o)) {
			continue
		}
		kind := watch.Modified
		if !known {
			kind = watch.Added
		}
		if err := encoder.Encode(watchEvent[reconcile.K8sObject]{kind, o}); err != nil {
			return err
		}
		sent[key(o)] = o
	}
	return nil
}
