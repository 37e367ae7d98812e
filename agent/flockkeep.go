package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/pleachdev/pleach/gossip"
	"github.com/pleachdev/pleach/reconcile/gate"
	"github.com/pleachdev/pleach/state/durable"
)

// What of the flock outlives the agent, in its directory.
const (
	gateFile  = "gate.json"  // what the gate must not forget
	flockFile = "flock.cbor" // the documents of the others and where they were
)

// The pace of writing: every change would wear the disk out.
const (
	saveGate  = time.Minute
	saveFlock = 30 * time.Second
)

// keeper knows when to write.
type keeper struct {
	urgent  bool // the gate decided something
	changed bool // documents changed
	gate    time.Time
	flock   time.Time
}

// kept is the form of flockFile.
type kept struct {
	Version   int               `cbor:"1,keyasint"`
	Places    map[string]string `cbor:"2,keyasint"` // node → host:port of its agent
	Documents [][]byte          `cbor:"3,keyasint"` // as their nodes signed them
}

const keptVersion = 1

// load reads what the agent before left. The documents are the last that is known of the others, and no
// evidence of anything: they are never among those that count.
func (f *flock) load() {
	data, err := os.ReadFile(filepath.Join(f.Dir, gateFile))
	if err == nil {
		f.left = &gate.Durable{}
		err = json.Unmarshal(data, f.left)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.left = nil
		f.Log.Warn("all enrolled nodes are taken for members until it is known better", "err", fmt.Errorf("read %s: %w", gateFile, err))
	}
	data, err = os.ReadFile(filepath.Join(f.Dir, flockFile))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var k kept
	if err == nil {
		err = cbor.Unmarshal(data, &k)
	}
	if err == nil && k.Version != keptVersion {
		err = fmt.Errorf("another agent's form, version %d; this one knows %d", k.Version, keptVersion)
	}
	if err != nil {
		f.Log.Warn("the others are looked for anew", "err", fmt.Errorf("read %s: %w", flockFile, err))
		return
	}
	for node, at := range k.Places {
		if place, err := netip.ParseAddrPort(at); err == nil {
			f.book.last[node] = place
		}
	}
	f.lastKnown = k.Documents
}

// LastKnown returns the documents that the agent before held, of nodes that are enrolled and whose keys
// signed them. They tell people how it was, and are no evidence of anything.
func (f *flock) LastKnown() []gossip.Sealed {
	var out []gossip.Sealed
	for _, data := range f.lastKnown {
		if d, err := gossip.Open(data, f.book.Keys); err == nil {
			out = append(out, d)
		}
	}
	return out
}

// saveNow writes what is due.
func (f *flock) saveNow(now time.Time) {
	if f.keep.urgent || now.Sub(f.keep.gate) >= saveGate {
		f.keep.urgent, f.keep.gate = false, now
		if err := f.saveGate(now); err != nil {
			f.Log.Warn("what is known of members may be forgotten", "err", err)
		}
	}
	if f.keep.changed && now.Sub(f.keep.flock) >= saveFlock {
		f.keep.changed, f.keep.flock = false, now
		if err := f.saveFlock(); err != nil {
			f.Log.Warn("the next agent looks for the others anew", "err", err)
		}
	}
}

// save writes everything, when the agent ends.
func (f *flock) save(now time.Time) error {
	if f.members == nil {
		return nil
	}
	return errors.Join(f.saveGate(now), f.saveFlock())
}

func (f *flock) saveGate(now time.Time) error {
	data, err := json.Marshal(f.watch.Durable(now))
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(f.Dir, gateFile), data)
}

func (f *flock) saveFlock() error {
	k := kept{Version: keptVersion, Places: map[string]string{}}
	for node, at := range f.book.places() {
		k.Places[node] = at.String()
	}
	for _, d := range f.spread.Documents() {
		if d.Node != f.Node {
			k.Documents = append(k.Documents, d.Bytes())
		}
	}
	data, err := cbor.Marshal(k)
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(f.Dir, flockFile), data)
}
