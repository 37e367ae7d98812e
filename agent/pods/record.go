package pods

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/state/durable"
)

// recordVersion is the format of pod.json and state.json.
const recordVersion = 1

// A record is what must survive every crash: that a pod is to run, and that it is to stop.
type record struct {
	Version  int         `json:"version"`
	Pod      *corev1.Pod `json:"pod"`
	Accepted time.Time   `json:"accepted"` // becomes status.startTime
	Stop     *stopIntent `json:"stop,omitempty"`
}

type stopIntent struct {
	At           time.Time `json:"at"`
	GraceSeconds int64     `json:"graceSeconds"`
	Reason       string    `json:"reason,omitempty"`
}

// A state is what is worth keeping beyond what the runtime keeps itself: restart counts and last
// states outlive a lost runtime, readiness outlives a restart of the agent.
type state struct {
	Version int              `json:"version"`
	Status  corev1.PodStatus `json:"status"`
	// Final says that the pod has ended for good and its containers are stopped.
	Final bool `json:"final,omitempty"`
	// Failing is why the pod is being ended before its containers ended by themselves.
	Failing  *failing           `json:"failing,omitempty"`
	BackOffs map[string]backOff `json:"backOffs,omitempty"` // by container
}

type failing struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// store keeps the records below one directory: <dir>/<uid>/pod.json and state.json.
type store struct {
	dir string
	// step is called before and after each durable step with its name; tests crash there.
	step func(name string)
}

func (s store) path(uid types.UID, file string) string {
	return filepath.Join(s.dir, string(uid), file)
}

// load reads all records. A directory without a record is the rest of a start that was never
// promised or of a stop that was completed; its uid is in leftovers.
func (s store) load() (records map[types.UID]record, states map[types.UID]state, leftovers []types.UID, err error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil, nil
	}
	if err != nil {
		return nil, nil, nil, fmt.Errorf("read pod records: %w", err)
	}
	records, states = map[types.UID]record{}, map[types.UID]state{}
	var errs []error
	for _, e := range entries {
		uid := types.UID(e.Name())
		var r record
		err := read(s.path(uid, "pod.json"), &r)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			leftovers = append(leftovers, uid)
			continue
		case err != nil:
			errs = append(errs, err)
			continue
		case r.Version != recordVersion || r.Pod == nil || r.Pod.UID != uid:
			errs = append(errs, fmt.Errorf("%s: not a record of version %d of pod %s", s.path(uid, "pod.json"), recordVersion, uid))
			continue
		}
		records[uid] = r
		var st state
		// The state is a help, not a promise: without it the pod is observed anew.
		if err := read(s.path(uid, "state.json"), &st); err == nil && st.Version == recordVersion {
			states[uid] = st
		}
	}
	return records, states, leftovers, errors.Join(errs...)
}

func read(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// putRecord is durable when it returns.
func (s store) putRecord(r record) error {
	r.Version = recordVersion
	return s.put(r.Pod.UID, "pod.json", r, true)
}

// putState is durable when it returns if the state is one that must not be forgotten.
func (s store) putState(uid types.UID, st state) error {
	st.Version = recordVersion
	return s.put(uid, "state.json", st, st.Final || st.Failing != nil)
}

func (s store) put(uid types.UID, file string, content any, lasting bool) error {
	data, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("encode %s of pod %s: %w", file, uid, err)
	}
	path := s.path(uid, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return fmt.Errorf("write record of pod %s: %w", uid, err)
	}
	s.at("before " + file)
	write := replaceFile
	if lasting {
		write = durable.WriteFile
	}
	if err := write(path, data); err != nil {
		return fmt.Errorf("write record of pod %s: %w", uid, err)
	}
	s.at("after " + file)
	if lasting {
		// The directory may be new, and its name must survive too.
		return durable.SyncDir(s.dir)
	}
	return nil
}

// remove forgets a pod. The record goes first among the files: what a crash leaves behind is then
// a directory without a record.
func (s store) remove(uid types.UID) error {
	s.at("before remove")
	if err := os.Remove(s.path(uid, "pod.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove record of pod %s: %w", uid, err)
	}
	if err := durable.SyncDir(filepath.Join(s.dir, string(uid))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove record of pod %s: %w", uid, err)
	}
	s.at("record removed")
	if err := os.RemoveAll(filepath.Join(s.dir, string(uid))); err != nil {
		return fmt.Errorf("remove directory of pod %s: %w", uid, err)
	}
	return nil
}

func (s store) at(name string) {
	if s.step != nil {
		s.step(name)
	}
}

// replaceFile puts new contents in the place of old ones: a reader sees one or the other, and so does a
// restart, but for one after a power failure.
func replaceFile(path string, data []byte) error {
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
