package podlogs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"
)

// Options say what of a container's log is wanted.
type Options struct {
	Dir       string // the pod's log directory
	Container string
	Attempt   uint32 // the instance: its restart count

	// TailLines is how many lines from the end; nil for all.
	TailLines *int64
	// Since leaves out what is older; zero for nothing.
	Since      time.Time
	Timestamps bool // put each line's time before it, RFC 3339 with nanoseconds
	// Follow goes on with what is written until Ended says that no more will come.
	Follow bool
	// Ended tells whether the container has ended. It is needed with Follow.
	Ended func() bool
}

// followEvery is how often a followed log is looked at; it costs while somebody reads only.
const followEvery = 100 * time.Millisecond

// Stream writes the log of one instance of a container, both streams in the order they were
// written, across rotations. It returns at the log's end, with Follow when the container has ended
// or ctx does.
func Stream(ctx context.Context, w io.Writer, o Options) error {
	path := Path(o.Dir, o.Container, o.Attempt)
	files, err := parts(path)
	if err != nil {
		return err
	}
	skip := int64(0)
	if o.TailLines != nil {
		if files, skip, err = tail(files, *o.TailLines); err != nil {
			return err
		}
	}
	out := &printer{w: w, since: o.Since, timestamps: o.Timestamps, skip: skip}
	for i, file := range files {
		last := i == len(files)-1
		err := out.file(ctx, file, last && o.Follow, o.Ended)
		if errors.Is(err, fs.ErrNotExist) && len(files) > 1 {
			continue // rotated away meanwhile
		}
		if err != nil {
			return fmt.Errorf("read log of container %s: %w", o.Container, err)
		}
	}
	return nil
}

// Tail is the end of a log: at most lines lines and size bytes of it. A log that does not exist is
// empty.
func Tail(dir, container string, attempt uint32, lines, size int64) (string, error) {
	var text bytes.Buffer
	err := Stream(context.Background(), &text, Options{Dir: dir, Container: container, Attempt: attempt, TailLines: &lines})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	data := text.Bytes()
	if int64(len(data)) > size {
		data = data[int64(len(data))-size:]
	}
	return string(data), nil
}

// tail finds which files hold the last n lines, and how many lines at their start are too many.
func tail(files []string, n int64) (from []string, skip int64, err error) {
	have := int64(0)
	for i, file := range slices.Backward(files) {
		lines, err := count(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, 0, err
		}
		have += lines
		if have >= n {
			return files[i:], have - n, nil
		}
	}
	return files, 0, nil
}

// count counts the lines of a file as a reader sees them: entries that are not partial.
func count(path string) (int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	lines := int64(0)
	reader := bufio.NewReader(file)
	for {
		line, err := reader.ReadBytes('\n')
		if len(line) > 0 && err == nil {
			if e, parseErr := parse(bytes.TrimSuffix(line, []byte("\n"))); parseErr != nil || !e.partial {
				lines++
			}
		}
		if errors.Is(err, io.EOF) {
			return lines, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// A printer writes entries as lines.
type printer struct {
	w          io.Writer
	since      time.Time
	timestamps bool
	skip       int64 // lines to leave out
	inside     bool  // within a line that goes on
}

// file prints one file; with follow, all that comes until ended or a rotation with nothing after it.
func (p *printer) file(ctx context.Context, path string, follow bool, ended func() bool) error {
	file, err := p.open(ctx, path, follow, ended)
	if err != nil {
		return err
	}
	defer func() { file.Close() }()
	reader := bufio.NewReader(file)
	var rest []byte
	for {
		line, err := reader.ReadBytes('\n')
		rest = append(rest, line...)
		if err == nil {
			if err := p.print(bytes.TrimSuffix(rest, []byte("\n"))); err != nil {
				return err
			}
			rest = rest[:0]
			continue
		}
		if !errors.Is(err, io.EOF) {
			return err
		}
		if !follow {
			return nil
		}
		// Asked before the file is looked at again: what was written before the end is there then.
		over := ended()
		next, err := rotated(file, path)
		switch {
		case err != nil:
			return err
		case next != nil:
			// The old file may have got more between our end of file and the rotation.
			more, err := io.ReadAll(reader)
			if err != nil {
				next.Close()
				return err
			}
			for len(more) > 0 {
				line, after, _ := bytes.Cut(more, []byte("\n"))
				if err := p.print(append(rest, line...)); err != nil {
					next.Close()
					return err
				}
				rest, more = rest[:0], after
			}
			file.Close()
			file, reader = next, bufio.NewReader(next)
			continue
		case over:
			line, _ := io.ReadAll(reader)
			for _, l := range bytes.SplitAfter(line, []byte("\n")) {
				if whole, ok := bytes.CutSuffix(l, []byte("\n")); ok {
					if err := p.print(append(rest, whole...)); err != nil {
						return err
					}
					rest = rest[:0]
				}
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followEvery):
		}
	}
}

// open opens a log; a followed one may still have to appear.
func (p *printer) open(ctx context.Context, path string, follow bool, ended func() bool) (*os.File, error) {
	for {
		file, err := os.Open(path)
		if err == nil || !follow || !errors.Is(err, fs.ErrNotExist) || ended() {
			return file, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(followEvery):
		}
	}
}

// rotated opens the file that has taken the place of an open one; nil when none has.
func rotated(file *os.File, path string) (*os.File, error) {
	now, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // between the renaming and the runtime's reopening
	}
	if err != nil {
		return nil, err
	}
	then, err := file.Stat()
	if err != nil || os.SameFile(now, then) {
		return nil, err
	}
	return os.Open(path)
}

func (p *printer) print(line []byte) error {
	e, err := parse(line)
	if err != nil {
		// Shown as it is rather than lost: whoever reads a log wants what is there.
		e = entry{text: line}
	}
	begins := !p.inside
	p.inside = e.partial
	if p.skip > 0 {
		if !e.partial {
			p.skip--
		}
		return nil
	}
	if !e.time.IsZero() && e.time.Before(p.since) {
		return nil
	}
	var out []byte
	if p.timestamps && begins && !e.time.IsZero() {
		out = append(e.time.AppendFormat(out, time.RFC3339Nano), ' ')
	}
	out = append(out, e.text...)
	if !e.partial {
		out = append(out, '\n')
	}
	_, err = p.w.Write(out)
	return err
}
