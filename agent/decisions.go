package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pleachdev/pleach/gossip"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/state/durable"
)

// decisionsVersion is the version of the file's form.
const decisionsVersion = 1

// decisions are what a node remembers of what it decided, on disk. Nothing is unsafe without them:
// timers and back-offs start again, and a slot that was given up looks as if it was lost.
type decisions struct {
	Version  int                 `json:"version"`
	State    reconcile.State     `json:"state"`
	Releases []reconcile.Release `json:"releases,omitempty"`
	Declines []reconcile.Decline `json:"declines,omitempty"`

	path  string
	saved []byte
}

// openDecisions reads what the last agent left in dir. What it returns can always be used; the error
// says why it begins anew.
func openDecisions(dir string) (*decisions, error) {
	path := filepath.Join(dir, "decisions.json")
	fresh := &decisions{Version: decisionsVersion, path: path}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fresh, nil
	}
	if err != nil {
		return fresh, fmt.Errorf("read the last decisions: %w", err)
	}
	read := &decisions{path: path, saved: data}
	if err := json.Unmarshal(data, read); err != nil {
		return fresh, fmt.Errorf("read the last decisions: %s: %w", path, err)
	}
	if version := read.State.Memory().Version; read.Version != decisionsVersion || version != reconcile.StateVersion {
		return fresh, fmt.Errorf("read the last decisions: %s: another agent's form, version %d and %d; this one knows %d and %d",
			path, read.Version, version, decisionsVersion, reconcile.StateVersion)
	}
	return read, nil
}

// expire drops the releases and declines that are over. The release of a pod that is still ending
// stays: peers need it once the pod is gone.
func (d *decisions) expire(running []reconcile.Instance, now time.Time) {
	d.Releases = slices.DeleteFunc(d.Releases, func(r reconcile.Release) bool {
		return now.Sub(r.At) >= gossip.KeepFor && !slices.ContainsFunc(running, func(m reconcile.Instance) bool {
			return m.Slot == r.Slot && m.Epoch == r.Epoch
		})
	})
	d.Declines = slices.DeleteFunc(d.Declines, func(c reconcile.Decline) bool { return now.Sub(c.At) >= gossip.KeepFor })
}

// take adds what was decided: a pod that is stopped gives up its slot.
func (d *decisions) take(s reconcile.State, decided reconcile.Decision, now time.Time) {
	d.State = s
	d.Declines = append(d.Declines, decided.Declines...)
	for _, a := range decided.Actions {
		m := a.Instance
		given := slices.ContainsFunc(d.Releases, func(r reconcile.Release) bool { return r.Slot == m.Slot && r.Epoch == m.Epoch })
		if a.Kind == reconcile.Stop && !given {
			d.Releases = append(d.Releases, reconcile.Release{
				Slot: m.Slot, Revision: m.Revision, Epoch: m.Epoch, By: a.By, At: now.UTC().Truncate(time.Microsecond),
			})
		}
	}
}

// save writes the file when it would say something new.
func (d *decisions) save() error {
	data, err := json.Marshal(d)
	if err == nil && !bytes.Equal(data, d.saved) {
		err = durable.WriteFile(d.path, data)
	}
	if err != nil {
		return fmt.Errorf("write the decisions: %w", err)
	}
	d.saved = data
	return nil
}
