package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	clientexec "k8s.io/utils/exec"

	"github.com/pleachdev/pleach/agent/api"
	"github.com/pleachdev/pleach/state"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"pleach": func() { os.Exit(run()) }})
}

// TestScripts runs the commands as a person would, against an agent's API whose state is the
// laboratory of fixture_test.go. Goldens are rewritten with PLEACH_UPDATE=1.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		UpdateScripts:       os.Getenv("PLEACH_UPDATE") == "1",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			// sockets have short names, and the script's directory may have a long one
			dir, err := os.MkdirTemp("", "pleach") //nolint:usetesting // t.TempDir has the test's name in it, and belongs to all scripts
			if err != nil {
				return err
			}
			env.Defer(func() { _ = os.RemoveAll(dir) })
			env.Setenv("PLEACH_DIR", dir)
			env.Setenv("GORACE", "atexit_sleep_ms=0") // or each command takes a second longer under the race detector
			env.Values["store"] = state.New()
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"agent": startAgent, "change": change},
	})
}

// startAgent serves the API of a node: "agent" with the laboratory, "agent empty" with nothing.
func startAgent(ts *testscript.TestScript, _ bool, args []string) {
	store := ts.Value("store").(*state.Store)
	if len(args) == 0 {
		fill(store)
	}
	cri := newFakeCRI(ts)
	server := &api.Server{
		Node: "node-1", Version: "v0.1.0", Store: store,
		Logs: func(_ context.Context, pod *corev1.Pod, opts *corev1.PodLogOptions, w io.Writer) error {
			return writeLog(pod, opts, w)
		},
		Exec: cri.exec,
	}
	listener, err := api.Listen(filepath.Join(ts.Getenv("PLEACH_DIR"), api.SocketName))
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- server.Run(ctx, listener, nil, nil) }()
	ts.Defer(func() {
		cancel()
		if err := <-done; err != nil {
			ts.Logf("the agent's api: %v", err)
		}
	})
}

// change does something to the state while a command watches it.
func change(ts *testscript.TestScript, _ bool, args []string) {
	store := ts.Value("store").(*state.Store)
	switch args[0] {
	case "pod":
		store.SetPod(pod("web-7c9f4d5b6a-bbbbb", "7c9f4d5b6a", "example.com/web:2", true))
	case "remove":
		store.DeletePod("uid-web-7c9f4d5b6a-bbbbb")
	default:
		ts.Fatalf("change %s: no such change", args[0])
	}
}

// writeLog writes a log that shows what was asked for.
func writeLog(pod *corev1.Pod, opts *corev1.PodLogOptions, w io.Writer) error {
	if opts.Previous {
		return fmt.Errorf("previous terminated container %q in pod %q not found", opts.Container, pod.Name)
	}
	lines := []string{"one", "two", "three"}
	if opts.TailLines != nil {
		lines = lines[max(0, len(lines)-int(*opts.TailLines)):]
	}
	_, err := fmt.Fprintf(w, "%s %s\n", opts.Container, strings.Join(lines, "\n"+opts.Container+" "))
	return err
}

// fakeCRI is the streaming server that containerd has, with commands of its own behind it.
type fakeCRI struct{ server streaming.Server }

func newFakeCRI(ts *testscript.TestScript) *fakeCRI {
	c := &fakeCRI{}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.server.ServeHTTP(w, r) }))
	ts.Defer(front.Close)
	base, err := url.Parse(front.URL)
	ts.Check(err)
	config := streaming.DefaultConfig
	config.BaseURL = base
	c.server, err = streaming.NewServer(config, c)
	ts.Check(err)
	return c
}

func (c *fakeCRI) exec(_ context.Context, pod *corev1.Pod, opts *corev1.PodExecOptions) (string, error) {
	answer, err := c.server.GetExec(&runtimeapi.ExecRequest{
		ContainerId: pod.Name + "/" + opts.Container, Cmd: opts.Command, Stdin: opts.Stdin, Stdout: opts.Stdout, Stderr: opts.Stderr, Tty: opts.TTY,
	})
	if err != nil {
		return "", err
	}
	return answer.Url, nil
}

// Exec knows five commands: where, cat, complain, tty and fail.
func (c *fakeCRI) Exec(_ context.Context, container string, cmd []string, in io.Reader, out, errs io.WriteCloser, tty bool, _ <-chan remotecommand.TerminalSize) error {
	switch cmd[0] {
	case "where":
		_, err := fmt.Fprintf(out, "%s %q\n", container, cmd[1:])
		return err
	case "cat":
		var all bytes.Buffer
		if _, err := io.Copy(&all, in); err != nil {
			return err
		}
		_, err := out.Write(all.Bytes())
		return err
	case "tty":
		_, err := fmt.Fprintf(out, "a terminal: %t\r\n", tty)
		return err
	case "complain":
		_, err := fmt.Fprintln(errs, "it hurts")
		return err
	}
	return clientexec.CodeExitError{Err: fmt.Errorf("%s failed", cmd[0]), Code: 42}
}

// Attach and PortForward are no part of what the commands use.
func (c *fakeCRI) Attach(context.Context, string, io.Reader, io.WriteCloser, io.WriteCloser, bool, <-chan remotecommand.TerminalSize) error {
	return io.ErrUnexpectedEOF
}

func (c *fakeCRI) PortForward(context.Context, string, int32, io.ReadWriteCloser) error {
	return io.ErrUnexpectedEOF
}
