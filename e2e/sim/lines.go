package sim

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/pleachdev/pleach/reconcile"
)

// Entry is one line of a recording's file: a JSON object with the time and one of the others. A recorder
// of real nodes writes them in any order. Documents of a node may be missing: then less is found, and nothing that is not so.
//
//	{"at":"2026-01-02T03:04:06Z","commit":{"id":"…","level":1,"apps":["shop"],"workloads":[{"uid":"…", …}]}}
//	{"at":"2026-01-02T03:04:07.2Z","document":{"writer":"n1","says":{"node":"n1","boot":1,"seq":1, …}}}
//	{"at":"2026-01-02T03:05:00Z","fault":{"kind":"power off","node":"n1","seconds":30}}
//	{"at":"2026-01-02T03:09:00Z","end":{"plans":{"n1":"…"}}}
type Entry struct {
	At       time.Time  `json:"at"`
	Commit   *Committed `json:"commit,omitempty"` // every commit of the branch, from the first that a document names
	Document *Published `json:"document,omitempty"`
	Fault    *Fault     `json:"fault,omitempty"`
	// End says that all is quiet: everything must run as the last commit says. A recording without it ends
	// in the middle of things.
	End *End `json:"end,omitempty"`
}

// Published is one document as its writer published it.
type Published struct {
	Writer string             `json:"writer"` // whose key signed it
	Says   reconcile.Document `json:"says"`
}

// Fault is what was done to the flock, by the kinds of [Kind].
type Fault struct {
	Kind    Kind     `json:"kind"`
	Node    string   `json:"node,omitempty"`
	Peer    string   `json:"peer,omitempty"`    // of a cut
	Group   []string `json:"group,omitempty"`   // of a partition: one of its sides
	Seconds float64  `json:"seconds,omitempty"` // until it was over; negative: it never was
}

// End is the end of a recording in which all is quiet.
type End struct {
	// Plans holds a digest of where everything runs, by node that is up; may be empty.
	Plans map[string]string `json:"plans,omitempty"`
}

// Write writes a recording, one entry a line.
func (r *Recording) Write(out io.Writer) error {
	b := bufio.NewWriter(out)
	e := json.NewEncoder(b)
	var errs []error
	put := func(x Entry) { errs = append(errs, e.Encode(x)) }
	for i := range r.History {
		put(Entry{At: start, Commit: &r.History[i]})
	}
	for _, f := range r.Faults {
		if f.Kind == Push {
			continue
		}
		x := Fault{Kind: f.Kind, Seconds: f.For.Seconds()}
		if f.For < 0 {
			x.Seconds = -1
		}
		if f.Node >= 0 {
			x.Node = r.name(f.Node)
		}
		if f.Kind == Cut {
			x.Peer = r.name(f.Peer)
		}
		for _, i := range f.Group {
			x.Group = append(x.Group, r.name(i))
		}
		put(Entry{At: start.Add(f.At), Fault: &x})
	}
	for i := range r.Records {
		x := &r.Records[i]
		put(Entry{At: start.Add(x.At), Document: &Published{x.Writer, x.Document}})
	}
	if r.Quiet {
		put(Entry{At: start.Add(r.End), End: &End{r.Plans}})
	}
	return errors.Join(append(errs, b.Flush())...)
}

// Read reads a recording.
func Read(in io.Reader) (*Recording, error) {
	var all []Entry
	for d := json.NewDecoder(in); ; {
		var x Entry
		if err := d.Decode(&x); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("entry %d: %w", len(all)+1, err)
		}
		all = append(all, x)
	}
	if len(all) == 0 {
		return nil, errors.New("the recording is empty")
	}
	slices.SortStableFunc(all, func(a, b Entry) int { return a.At.Compare(b.At) })
	r, index := &Recording{Names: []string{}, Partial: true}, map[string]int{}
	number := func(name string) int {
		if name == "" {
			return -1
		}
		i, ok := index[name]
		if !ok {
			i = len(r.Names)
			index[name], r.Names = i, append(r.Names, name)
		}
		return i
	}
	for _, x := range all {
		at := x.At.Sub(all[0].At)
		r.End = at
		switch {
		case x.Commit != nil:
			r.History = append(r.History, *x.Commit)
		case x.Document != nil:
			number(x.Document.Says.Node)
			r.Records = append(r.Records, Record{at, x.Document.Writer, x.Document.Says})
		case x.Fault != nil:
			e := Event{At: at, Kind: x.Fault.Kind, Node: number(x.Fault.Node), Peer: number(x.Fault.Peer), For: time.Duration(x.Fault.Seconds * float64(time.Second))}
			for _, name := range x.Fault.Group {
				e.Group = append(e.Group, number(name))
			}
			r.Faults = append(r.Faults, e)
		case x.End != nil:
			r.Quiet, r.Plans = true, x.End.Plans
		}
	}
	slices.SortStableFunc(r.History, func(a, b Committed) int { return int(a.Level - b.Level) })
	if len(r.History) == 0 {
		return nil, errors.New("the recording has no commit: without the history nothing can be judged")
	}
	return r, nil
}

// Story tells the faults of a recording, as far as it can be told: what nodes did not say is not known.
func (r *Recording) Story() []Line {
	var out []Line
	for _, f := range r.Faults {
		out = append(out, Line{At: f.At, Text: f.words(r.name)})
	}
	return out
}
