package podlogs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// line is a log entry i seconds after a fixed time.
func line(i int, tag, text string) string {
	return time.Date(2026, 1, 2, 3, 4, i, 5, time.UTC).Format(time.RFC3339Nano) + " stdout " + tag + " " + text + "\n"
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestStream(t *testing.T) {
	dir := t.TempDir()
	path := Path(dir, "app", 0)
	put(t, path+".20260102-030401.000", line(1, "F", "one")+line(2, "F", "two"))
	put(t, path+".20260102-030403.000", line(3, "P", "thr")+line(3, "F", "ee"))
	put(t, path, line(4, "F", "four")+line(5, "F", "")+line(6, "P", "unfin")+"2026 half an ent")
	stamp := func(i int) string { return time.Date(2026, 1, 2, 3, 4, i, 5, time.UTC).Format(time.RFC3339Nano) + " " }
	for _, c := range []struct {
		name string
		o    Options
		want string
	}{
		{"all", Options{}, "one\ntwo\nthree\nfour\n\nunfin"},
		{"tail within a file", Options{TailLines: new(int64(1))}, "\nunfin"},
		{"tail across files", Options{TailLines: new(int64(3))}, "three\nfour\n\nunfin"},
		{"tail of everything", Options{TailLines: new(int64(100))}, "one\ntwo\nthree\nfour\n\nunfin"},
		{"since", Options{Since: time.Date(2026, 1, 2, 3, 4, 4, 0, time.UTC)}, "four\n\nunfin"},
		{"timestamps", Options{Timestamps: true, TailLines: new(int64(2))}, stamp(4) + "four\n" + stamp(5) + "\n" + stamp(6) + "unfin"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.Dir, c.o.Container = dir, "app"
			var out bytes.Buffer
			if err := Stream(t.Context(), &out, c.o); err != nil {
				t.Fatal(err)
			}
			if out.String() != c.want {
				t.Errorf("got %q; want %q", out.String(), c.want)
			}
		})
	}
	if err := Stream(t.Context(), &bytes.Buffer{}, Options{Dir: dir, Container: "other"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a log that does not exist: %v", err)
	}
	if got, err := Tail(dir, "app", 0, 3, 8); err != nil || got != "r\n\nunfin" {
		t.Errorf("tail of 8 bytes: %q, %v", got, err)
	}
}

// A follower gets every line once, however often the log is rotated under it.
func TestFollowAcrossRotations(t *testing.T) {
	dir := t.TempDir()
	path := Path(dir, "app", 0)
	var ended atomic.Bool
	var out bytes.Buffer
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := Stream(t.Context(), &out, Options{Dir: dir, Container: "app", Follow: true, Ended: ended.Load}); err != nil {
			t.Error(err)
		}
	})
	var want strings.Builder
	for part := range 3 {
		put(t, path, "")
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 50 {
			text := fmt.Sprintf("part %d line %d", part, i)
			fmt.Fprintf(&want, "%s\n", text)
			// In two writes, so that the reader meets half entries.
			entry := line(1, "F", text)
			for _, half := range []string{entry[:20], entry[20:]} {
				if _, err := file.WriteString(half); err != nil {
					t.Fatal(err)
				}
			}
			if i%10 == 0 {
				time.Sleep(5 * time.Millisecond)
			}
		}
		if part < 2 {
			time.Sleep(2 * followEvery)
			if err := os.Rename(path, fmt.Sprintf("%s.%d", path, part)); err != nil {
				t.Fatal(err)
			}
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
	ended.Store(true)
	wg.Wait()
	if out.String() != want.String() {
		t.Errorf("got %d bytes; want %d", out.Len(), want.Len())
	}
}

func TestRotate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	if err := Rotate(path, nil); err != nil {
		t.Errorf("a log that does not exist: %v", err)
	}
	put(t, path, "small")
	if err := Rotate(path, nil); err != nil {
		t.Errorf("a small log: %v", err)
	}
	big := strings.Repeat("x", MaxSize)
	put(t, path, big)
	if err := Rotate(path, func() error { return errors.New("no") }); err == nil {
		t.Error("a runtime that does not reopen is no error")
	}
	if info, err := os.Stat(path); err != nil || info.Size() != MaxSize {
		t.Errorf("the log is not where the runtime writes: %v", err)
	}
	for i := range 2 * MaxFiles {
		if err := Rotate(path, func() error { put(t, path, big); return nil }); err != nil {
			t.Fatal(err)
		}
		files, err := parts(path)
		if err != nil || len(files) != min(i+2, MaxFiles) {
			t.Fatalf("%d files after %d rotations, %v", len(files), i+1, err)
		}
		time.Sleep(2 * time.Millisecond) // parts are named by the millisecond
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("2016-10-06T00:17:09.669794202Z stdout F the text"))
	f.Add([]byte("2016-10-06T00:17:09.669794202Z stderr P "))
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := parse(data)
		if err == nil && e.stream != "stdout" && e.stream != "stderr" {
			t.Errorf("stream %q", e.stream)
		}
		p := printer{w: &bytes.Buffer{}}
		if err := p.print(data); err != nil {
			t.Error(err)
		}
	})
}
