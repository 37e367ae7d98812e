package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	clientexec "k8s.io/client-go/util/exec"
)

// exec runs a command in a container; input, output and the terminal's size go through as frames.
func (s *Server) exec(w http.ResponseWriter, r *http.Request, pod *corev1.Pod) error {
	opts, err := execOptions(r.URL.Query())
	if err != nil {
		return err
	}
	if opts.Container, err = pickContainer(pod, opts.Container); err != nil {
		return err
	}
	at, err := s.Exec(r.Context(), pod, opts)
	if err != nil {
		return err
	}
	where, err := url.Parse(at)
	if err != nil {
		return err
	}
	// CRI's streaming server listens on loopback alone, with a URL that serves once.
	executor, err := remotecommand.NewSPDYExecutor(&rest.Config{}, http.MethodPost, where)
	if err != nil {
		return err
	}
	control := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/vnd.pleach.streams")
	w.WriteHeader(http.StatusOK)
	if err := control.Flush(); err != nil { // the other side sends only once it sees the answer
		return err
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	out := &frameWriter{w: w, flush: control.Flush}
	streams := remotecommand.StreamOptions{Stdout: out.stream(frameStdout), Tty: opts.TTY}
	if opts.Stderr {
		streams.Stderr = out.stream(frameStderr)
	}
	input, typed := io.Pipe()
	defer input.Close() // frees the reader below
	if opts.Stdin {
		streams.Stdin = input
	}
	sizes := &sizeQueue{ctx: ctx, sizes: make(chan Size, 1)}
	if opts.TTY {
		streams.TerminalSizeQueue = sizes
	}
	go func() { cancel(readInput(r.Body, typed, sizes)) }()
	end := ending{}
	err = executor.StreamWithContext(ctx, streams)
	if exit, ok := errors.AsType[clientexec.CodeExitError](err); ok {
		end.Code = exit.Code
	} else if err != nil && !errors.Is(err, io.EOF) {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		end = ending{1, err.Error()}
	}
	body, err := json.Marshal(end)
	if err != nil {
		return err
	}
	return out.write(frameEnd, body)
}

func execOptions(values url.Values) (*corev1.PodExecOptions, error) {
	opts := &corev1.PodExecOptions{Command: values["command"], Container: values.Get("container")}
	if len(opts.Command) == 0 {
		return nil, apierrors.NewBadRequest("no command to run in the container")
	}
	for name, field := range map[string]*bool{"stdin": &opts.Stdin, "stdout": &opts.Stdout, "stderr": &opts.Stderr, "tty": &opts.TTY} {
		if text := values.Get(name); text != "" {
			var err error
			if *field, err = strconv.ParseBool(text); err != nil {
				return nil, apierrors.NewBadRequest(name + ": " + err.Error())
			}
		}
	}
	return opts, nil
}

func execQuery(o *corev1.PodExecOptions) url.Values {
	query := url.Values{"command": o.Command}
	if o.Container != "" {
		query.Set("container", o.Container)
	}
	for name, value := range map[string]bool{"stdin": o.Stdin, "stdout": o.Stdout, "stderr": o.Stderr, "tty": o.TTY} {
		query.Set(name, strconv.FormatBool(value))
	}
	return query
}

// readInput passes on what comes for the command, until the other side is gone: then it returns why.
func readInput(body io.Reader, typed *io.PipeWriter, sizes *sizeQueue) error {
	buffer := make([]byte, maxFrame)
	for {
		kind, data, err := readFrame(body, buffer)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the one who asked went away")
			}
			_ = typed.CloseWithError(err) // never fails
			return err
		}
		switch kind {
		case frameStdin:
			// A command that reads no more loses what is typed, as in a shell.
			_, _ = typed.Write(data)
		case frameEOF:
			_ = typed.Close() // never fails
		case frameSize:
			size, err := decodeSize(data)
			if err != nil {
				return err
			}
			sizes.set(size)
		case frameStdout, frameStderr, frameEnd:
			return fmt.Errorf("a frame of kind %d came from the wrong side", kind)
		default: // of a later version
		}
	}
}

// sizeQueue hands the newest size of a terminal on.
type sizeQueue struct {
	ctx   context.Context // remotecommand asks through Next, which takes none
	sizes chan Size       // buffered by one
}

func (q *sizeQueue) set(s Size) {
	select {
	case <-q.sizes: // an older one that nobody has seen
	default:
	}
	q.sizes <- s
}

// Next returns the next size, nil when the command ended.
func (q *sizeQueue) Next() *remotecommand.TerminalSize {
	select {
	case s := <-q.sizes:
		return &remotecommand.TerminalSize{Width: s.Width, Height: s.Height}
	case <-q.ctx.Done():
		return nil
	}
}
