package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/agent/access"
)

// podRequest makes a request for a pod, signed when the pod runs on another node.
func (c *Client) podRequest(ctx context.Context, method string, action access.Action, namespace, pod string, query url.Values, body io.Reader) (*http.Request, error) {
	path := podPath(namespace, pod)
	var challenge access.Challenge
	if err := c.get(ctx, path+"/access", nil, &challenge); err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://agent"+path+"/"+string(action)+"?"+query.Encode(), body)
	if err != nil || !challenge.Needed {
		return r, err
	}
	ticket, err := c.sign(access.NewTerms(challenge, action, namespace, pod, query), challenge.Now)
	if err != nil {
		return nil, fmt.Errorf("pod %s/%s runs on node %s, which wants your signature: %w", namespace, pod, challenge.Node, err)
	}
	r.Header.Set(access.Header, ticket.Encode())
	return r, nil
}

func (c *Client) sign(t access.Terms, nodeNow time.Time) (ticket access.Ticket, err error) {
	if c.Key == nil {
		return ticket, errors.New("there is no key to sign with")
	}
	key, err := c.Key()
	if err != nil {
		return ticket, err
	}
	defer func() { err = errors.Join(err, key.Close()) }()
	return access.Sign(key, t, nodeNow, time.Now())
}

// Logs copies a container's log to w.
func (c *Client) Logs(ctx context.Context, namespace, pod string, o *corev1.PodLogOptions, w io.Writer) error {
	r, err := c.podRequest(ctx, http.MethodGet, access.Log, namespace, pod, logQuery(o), http.NoBody)
	if err != nil {
		return err
	}
	resp, err := c.send(&c.http, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close() // it was read, or is given up
	if _, err := io.Copy(w, resp.Body); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("log of pod %s/%s: %w", namespace, pod, err)
	}
	return nil
}

// Streams are those of a command, of this side.
type Streams struct {
	In       io.Reader // nil for none
	Out, Err io.Writer
	// Sizes brings the terminal's size, at first and after each change; nil without a terminal.
	Sizes <-chan Size
}

// Exec runs a command in a container and returns its exit code. An error means that it did not run, or
// that its end was not seen.
func (c *Client) Exec(ctx context.Context, namespace, pod string, o *corev1.PodExecOptions, s Streams) (code int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body, input := io.Pipe()
	defer input.Close() // the agent sees that nobody is there
	r, err := c.podRequest(ctx, http.MethodPost, access.Exec, namespace, pod, execQuery(o), body)
	if err != nil {
		return 0, err
	}
	resp, err := c.send(&c.streams, r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close() // it was read, or is given up
	in := &frameWriter{w: input, flush: func() error { return nil }}
	go func() {
		var err error
		if s.In != nil {
			_, err = io.Copy(in.stream(frameStdin), s.In)
		}
		if err == nil {
			_ = in.write(frameEOF, nil) // or the command has ended
		}
	}()
	if s.Sizes != nil {
		go func() {
			for {
				select {
				case size := <-s.Sizes:
					_ = in.write(frameSize, size.encode()) // or the command has ended
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	return receive(resp.Body, s)
}

// receive writes what a command says until its end.
func receive(from io.Reader, s Streams) (code int, err error) {
	buffer := make([]byte, maxFrame)
	for {
		kind, data, err := readFrame(from, buffer)
		if err != nil {
			return 0, fmt.Errorf("the connection to the command broke, and it may have ended or go on: %w", err)
		}
		switch kind {
		case frameStdout:
			_, err = s.Out.Write(data)
		case frameStderr:
			_, err = s.Err.Write(data)
		case frameEnd:
			e, err := decodeEnding(data)
			if err == nil && e.Error != "" {
				err = errors.New(e.Error)
			}
			return e.Code, err
		case frameStdin, frameSize, frameEOF:
			err = fmt.Errorf("a frame of kind %d came from the wrong side", kind)
		default: // of a later version
		}
		if err != nil {
			return 0, err
		}
	}
}
