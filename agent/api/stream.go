package api

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// The streams of a command travel as frames in the two bodies of one request: a byte that says what it
// is, the length in four bytes, big endian, and so many bytes.

type frame byte

const (
	frameStdin  frame = iota // to the command
	frameSize                // to the command: columns and rows, two bytes each
	frameEOF                 // to the command: its input ends
	frameStdout              // from the command
	frameStderr              // from the command
	frameEnd                 // from the command: an ending in JSON, the last frame
)

// maxFrame bounds a frame's length.
const maxFrame = 64 << 10

// ending is how a command ended.
type ending struct {
	Code int `json:"code"`
	// Error says what kept the command from running, or from going on; "" when it came to its end.
	Error string `json:"error,omitempty"`
}

// frameWriter writes frames, each whole, from several goroutines.
type frameWriter struct {
	mu    sync.Mutex
	w     io.Writer
	flush func() error
}

func (w *frameWriter) write(kind frame, data []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		part := data[:min(len(data), maxFrame)]
		head := binary.BigEndian.AppendUint32([]byte{byte(kind)}, uint32(len(part))) // at most maxFrame
		if _, err := w.w.Write(append(head, part...)); err != nil {
			return err
		}
		if data = data[len(part):]; len(data) == 0 {
			return w.flush()
		}
	}
}

// stream is the io.Writer of one kind of frames.
func (w *frameWriter) stream(kind frame) io.Writer { return frameStream{w, kind} }

type frameStream struct {
	to   *frameWriter
	kind frame
}

func (s frameStream) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	return len(b), s.to.write(s.kind, b)
}

// readFrame returns the next frame; io.EOF when the stream ended between two of them. data is good until
// the next call with the same buffer.
func readFrame(r io.Reader, buffer []byte) (kind frame, data []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(head[1:])
	if length > maxFrame {
		return 0, nil, fmt.Errorf("a frame of %d bytes; at most %d are sent", length, maxFrame)
	}
	data = buffer[:length]
	if _, err = io.ReadFull(r, data); errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return frame(head[0]), data, err
}

// Size is a terminal's, in characters.
type Size struct{ Width, Height uint16 }

func (s Size) encode() []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, s.Width), s.Height)
}

func decodeSize(data []byte) (Size, error) {
	if len(data) != 4 {
		return Size{}, fmt.Errorf("a terminal's size of %d bytes", len(data))
	}
	return Size{binary.BigEndian.Uint16(data), binary.BigEndian.Uint16(data[2:])}, nil
}

func decodeEnding(data []byte) (e ending, err error) {
	if err := json.Unmarshal(data, &e); err != nil {
		return e, fmt.Errorf("end of the command: %w", err)
	}
	return e, nil
}
