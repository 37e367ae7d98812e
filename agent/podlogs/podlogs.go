// Package podlogs reads and rotates container logs in the CRI format: one entry a line,
//
//	2016-10-06T00:17:09.669794202Z stdout F the text
//
// where P instead of F says that the line goes on in the next entry. Logs are kept as
// <pod's directory>/<container>/<attempt>.log; rotated parts carry a time behind that name.
package podlogs

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An entry is one line of a log file.
type entry struct {
	time    time.Time
	stream  string // "stdout" or "stderr"
	partial bool
	text    []byte // without the line's end; not valid after the next read
}

var errFormat = errors.New("want \"<time> <stdout|stderr> <F|P> <text>\"")

// parse reads one line without its end.
func parse(line []byte) (entry, error) {
	stamp, rest, ok1 := bytes.Cut(line, []byte(" "))
	stream, rest, ok2 := bytes.Cut(rest, []byte(" "))
	tags, text, ok3 := bytes.Cut(rest, []byte(" "))
	if !ok3 {
		tags, text = rest, nil // an empty text may come without its separator
	}
	if !ok1 || !ok2 || string(stream) != "stdout" && string(stream) != "stderr" {
		return entry{}, errFormat
	}
	when, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return entry{}, errFormat
	}
	first, _, _ := bytes.Cut(tags, []byte(":"))
	if string(first) != "F" && string(first) != "P" {
		return entry{}, errFormat
	}
	return entry{time: when, stream: string(stream), partial: string(first) == "P", text: text}, nil
}

// Path is the log of one instance of a container, below the pod's log directory.
func Path(dir, container string, attempt uint32) string {
	return filepath.Join(dir, container, strconv.FormatUint(uint64(attempt), 10)+".log")
}

// parts lists the files of a log, oldest first; the one that is being written is last.
func parts(path string) ([]string, error) {
	rotated, err := filepath.Glob(globEscape(path) + ".*")
	if err != nil {
		return nil, fmt.Errorf("list parts of %s: %w", path, err)
	}
	slices.Sort(rotated)
	return append(rotated, path), nil
}

// globEscape keeps names with glob characters from matching others.
func globEscape(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}
