package state

import (
	"fmt"
	"hash/fnv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxEvents bounds the memory of events: the one whose last occurrence is longest ago goes first.
const maxEvents = 1000

// eventRow is an event under the key by which equal ones are counted.
type eventRow struct {
	key   string
	seq   uint64 // of the last occurrence
	event *corev1.Event
}

// Happening is one thing that happened to an object.
type Happening struct {
	// Object is what it happened to. Kind, Namespace and Name are needed; UID tells two objects of
	// one name apart; FieldPath ("spec.containers{web}") names a part of it.
	Object  corev1.ObjectReference
	Type    string // corev1.EventTypeNormal or EventTypeWarning
	Reason  string // one word, as Kubernetes has it: Pulled, BackOff, Unhealthy …
	Message string
	Host    string // the node that saw it
	At      time.Time
}

// Record remembers a happening as a Kubernetes event. One that differs from an earlier one in
// nothing but its time is counted there instead.
func (s *Store) Record(h Happening) {
	s.mu.Lock()
	defer s.mu.Unlock()
	txn := s.db.Txn(true)
	defer txn.Abort()
	s.eventSeq++
	key := joined(h.Object.Kind, h.Object.Namespace, h.Object.Name, string(h.Object.UID), h.Object.FieldPath,
		h.Type, h.Reason, h.Message, h.Host)
	row := &eventRow{key: key, seq: s.eventSeq}
	if old := first[eventRow](txn, Events, "id", key); old != nil {
		row.event = old.event.DeepCopy()
		row.event.Count++
		row.event.LastTimestamp = metav1.NewTime(h.At)
	} else {
		row.event = newEvent(h, key)
		s.events++
	}
	check(txn.Insert(string(Events), row))
	if s.events > maxEvents {
		oldest, err := txn.First(string(Events), bySeq)
		check(err)
		check(txn.Delete(string(Events), oldest))
		s.events--
	}
	txn.Commit()
}

func newEvent(h Happening, key string) *corev1.Event {
	namespace := h.Object.Namespace
	if namespace == "" { // events of Nodes and other objects outside namespaces live here
		namespace = metav1.NamespaceDefault
	}
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(key))
	at := metav1.NewTime(h.At)
	return &corev1.Event{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: fmt.Sprintf("%s.%016x", h.Object.Name, hash.Sum64()), CreationTimestamp: at,
		},
		InvolvedObject: h.Object, Type: h.Type, Reason: h.Reason, Message: h.Message,
		FirstTimestamp: at, LastTimestamp: at, Count: 1,
		Source: corev1.EventSource{Component: "pleach", Host: h.Host}, ReportingController: "pleach",
		ReportingInstance: h.Host,
	}
}
