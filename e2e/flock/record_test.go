package flock

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pleachdev/pleach/e2e/sim"
	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/gossip"
)

// recorder writes down what is done to the nodes. What they publish they write into journals themselves,
// before anybody hears of it: together that is what the simulator's checker judges.
type recorder struct {
	dir string // of the journals

	mu     sync.Mutex
	faults []*fault
	quiet  bool // all must run as it was committed
}

// journal is the file for what a node publishes.
func (r *recorder) journal(node string) string { return filepath.Join(r.dir, node+".jsonl") }

// documents reads all journals.
func (r *recorder) documents() (out []sim.Entry, err error) {
	files, err := filepath.Glob(r.journal("*"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var last gossip.Number
		wiped := false
		for line := range bytes.Lines(body) {
			var e sim.Entry
			if err := json.Unmarshal(line, &e); err != nil {
				continue // cut short by a kill: nobody has heard of it
			}
			if e.Fault != nil { // see wipe
				if wiped = true; e.Fault.Kind == sim.Replaced {
					last = gossip.Number{}
				}
				out = append(out, e)
				continue
			}
			number := gossip.Number{Boot: uint32(e.Document.Says.Boot), Seq: uint32(e.Document.Says.Seq)}
			if wiped && number.Compare(last) <= 0 {
				continue // it counts from one again until it hears that it was further: nobody takes that in
			}
			last = number
			out = append(out, e)
		}
	}
	return out, nil
}

// wipe notes in a node's journal that it has lost its disk, and its key if it is replaced.
func (r *recorder) wipe(node string, replaced bool) error {
	x := sim.Entry{At: time.Now(), Fault: &sim.Fault{Kind: sim.Forget, Node: node}}
	if replaced {
		x.Fault.Kind = sim.Replaced
	}
	line, err := json.Marshal(x)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(r.journal(node), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.Write(append([]byte("\n"), append(line, '\n')...)) // a kill may have cut the last line short
	return errors.Join(err, file.Close())
}

// fault is one that was done to the flock; it lasts until it is mended.
type fault struct {
	sim.Fault
	began, ended time.Time
}

// begin notes a fault. The function that it returns notes its end; a fault that is not ended lasts until
// the test does.
func (r *recorder) begin(kind sim.Kind, node string, group ...string) (end func()) {
	x := &fault{sim.Fault{Kind: kind, Node: node, Group: group}, time.Now(), time.Time{}}
	if kind == sim.Cut {
		x.Peer, x.Group = group[0], nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults, r.quiet = append(r.faults, x), false
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if x.ended.IsZero() {
			x.ended = time.Now()
		}
	}
}

// setQuiet says whether all must run as it was committed, from here on.
func (r *recorder) setQuiet(quiet bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.quiet = quiet
}

// recording is all that was written down, in the form of a file.
func (r *recorder) recording(history []sim.Committed) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	entries, err := r.documents()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	began := now
	for _, x := range r.faults {
		out := x.Fault
		switch {
		case !x.ended.IsZero():
			out.Seconds = x.ended.Sub(x.began).Seconds()
		case x.Kind == sim.PowerOff:
			out.Seconds = -1
		default:
			out.Seconds = now.Sub(x.began).Seconds()
		}
		entries = append(entries, sim.Entry{At: x.began, Fault: &out})
	}
	for _, e := range entries {
		if e.At.Before(began) {
			began = e.At
		}
	}
	for i := range history {
		entries = append(entries, sim.Entry{At: began, Commit: &history[i]})
	}
	if r.quiet {
		entries = append(entries, sim.Entry{At: now, End: &sim.End{}})
	}
	slices.SortStableFunc(entries, func(a, b sim.Entry) int { return a.At.Compare(b.At) })
	var out bytes.Buffer
	for e := json.NewEncoder(&out); len(entries) > 0; entries = entries[1:] {
		if err := e.Encode(entries[0]); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

// history is every commit of the branch, as nodes accept it.
func (f *flock) history(ctx context.Context) ([]sim.Committed, error) {
	list := exec.CommandContext(ctx, "git", "-C", f.repo.Dir, "rev-list", "--reverse", "--topo-order", "HEAD")
	ids, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("git rev-list: %w", err)
	}
	clone, err := gitstore.OpenClone(f.repo.Dir)
	if err != nil {
		return nil, err
	}
	defer clone.Close() // only read from
	var out []sim.Committed
	for id := range strings.FieldsSeq(string(ids)) {
		foresight, err := gitsync.Foresee(ctx, clone.Store, f.introduction, id, id, nil)
		if err != nil {
			return nil, err
		}
		a := foresight.Before
		c := sim.CommittedOf(a.Head, a.Objects())
		for _, n := range a.Nodes {
			c.Nodes = append(c.Nodes, n.Name)
		}
		out = append(out, c)
	}
	return out, nil
}

// judge lets the checker look at what was recorded. What is to run at the end is asked for again for a
// while: the last documents may be on their way.
func (f *flock) judge() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	history, err := f.history(ctx)
	if err != nil {
		f.t.Errorf("read the history: %v", err)
		return
	}
	if f.t.Failed() {
		f.recorder.setQuiet(false)
	}
	var body []byte
	var recording *sim.Recording
	var broken *sim.Violation
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if body, err = f.recorder.recording(history); err == nil {
			recording, err = sim.Read(bytes.NewReader(body))
		}
		if err != nil {
			f.t.Errorf("judge the recording: %v", err)
			return
		}
		if broken = sim.Check(recording); broken == nil || !recording.Quiet || time.Now().After(deadline) {
			break
		}
	}
	path := filepath.Join(f.t.ArtifactDir(), "recording.jsonl")
	if err := os.WriteFile(path, body, 0o644); err != nil {
		f.t.Error(err)
	}
	all, second := recording.Starts()
	f.t.Logf("recorded %d documents, %d commits, %d faults; %d starts, %d of them second", len(recording.Records), len(history), len(recording.Faults), all, second)
	if broken == nil {
		return
	}
	var story bytes.Buffer
	sim.Tell(&story, sim.Life{Nodes: len(recording.Names), Calm: recording.End}, recording, recording.Story(), broken)
	f.t.Errorf("the recording breaks a rule (go test -artifacts keeps it, go run ./e2e/sim/cmd -check judges it again):\n%s", story.Bytes())
}
