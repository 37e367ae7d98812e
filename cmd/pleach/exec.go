package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	corev1 "k8s.io/api/core/v1"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	clientexec "k8s.io/client-go/util/exec"

	"github.com/pleachdev/pleach/agent/api"
)

type execOptions struct {
	scope
	container  string
	stdin, tty bool
}

func execCommand(l *local) *cobra.Command {
	o := &execOptions{}
	cmd := &cobra.Command{
		Use:   "exec POD | KIND/NAME -- COMMAND [ARG...]",
		Short: "Run a command in a container on this node",
		Long: `Run a command in a container of a pod on this node, and end with its exit code.
A terminal is given with -it; keys, colours and the size of the window go through.`,
		Example: `  pleach exec web-7c9f4d5b6a-x2k8q -- date
  pleach exec -it deploy/web -c app -- sh
  tar c . | pleach exec -i web-7c9f4d5b6a-x2k8q -- tar x -C /tmp`,
		Args: usage(func(cmd *cobra.Command, args []string) error {
			if cmd.ArgsLenAtDash() != 1 || len(args) < 2 { // what is behind "--" is not for us to read
				return errors.New("want one pod before \"--\" and the command behind it")
			}
			return nil
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd, l.client(), args[0], args[1:])
		},
	}
	o.flags(cmd, false)
	f := cmd.Flags()
	f.StringVarP(&o.container, "container", "c", "", "the container; the first one when not given")
	f.BoolVarP(&o.stdin, "stdin", "i", false, "pass the standard input on")
	f.BoolVarP(&o.tty, "tty", "t", false, "give the command a terminal")
	return cmd
}

func (o *execOptions) run(cmd *cobra.Command, c *api.Client, arg string, command []string) error {
	t, err := parseTarget(arg)
	if err != nil {
		return err
	}
	pods, err := t.pods(cmd.Context(), c, o.namespace)
	if err != nil {
		return err
	}
	stdin, isFile := cmd.InOrStdin().(*os.File)
	tty := o.tty
	if tty && (!o.stdin || !isFile || !term.IsTerminal(int(stdin.Fd()))) {
		fmt.Fprintln(cmd.ErrOrStderr(), "Unable to use a TTY - input is not a terminal or the right kind of file")
		tty = false
	}
	request := &corev1.PodExecOptions{
		Container: o.container, Command: command, Stdin: o.stdin, Stdout: true, Stderr: !tty, TTY: tty,
	}
	url, err := c.Exec(cmd.Context(), pods[0].Namespace, pods[0].Name, request)
	if err != nil {
		return err
	}
	// client-go would report on stderr what follows from the command's end: a terminal whose size
	// nobody wants any more, an input that nobody reads.
	utilruntime.ErrorHandlers = nil
	// CRI's streaming server listens on loopback alone, with a URL that serves once.
	executor, err := remotecommand.NewSPDYExecutor(&rest.Config{}, http.MethodPost, url)
	if err != nil {
		return fmt.Errorf("exec in %s: %w", pods[0].Name, err)
	}
	streams := remotecommand.StreamOptions{Stdout: cmd.OutOrStdout(), Tty: tty}
	if o.stdin {
		streams.Stdin = cmd.InOrStdin()
	}
	if !tty {
		streams.Stderr = cmd.ErrOrStderr()
		return ended(executor.StreamWithContext(cmd.Context(), streams))
	}
	restore, err := term.MakeRaw(int(stdin.Fd()))
	if err != nil {
		return fmt.Errorf("set the terminal up: %w", err)
	}
	defer func() { _ = term.Restore(int(stdin.Fd()), restore) }() // nothing better can be done to it
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	streams.TerminalSizeQueue = followSize(ctx, int(stdin.Fd()))
	return ended(executor.StreamWithContext(ctx, streams))
}

// ended turns the exit code of the command into ours.
func ended(err error) error {
	if exit, ok := errors.AsType[clientexec.CodeExitError](err); ok {
		return commandExit{exit.Code}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// sizes tells the size of a terminal now and after each change.
type sizes struct {
	ctx     context.Context // remotecommand asks through Next, which takes none
	fd      int
	changed chan os.Signal
	told    bool
}

func followSize(ctx context.Context, fd int) *sizes {
	s := &sizes{ctx: ctx, fd: fd, changed: make(chan os.Signal, 1)}
	signal.Notify(s.changed, syscall.SIGWINCH)
	context.AfterFunc(ctx, func() { signal.Stop(s.changed) })
	return s
}

// Next returns the next size, nil when the command ended.
func (s *sizes) Next() *remotecommand.TerminalSize {
	if s.told {
		select {
		case <-s.changed:
		case <-s.ctx.Done():
			return nil
		}
	}
	s.told = true
	width, height, err := term.GetSize(s.fd)
	if err != nil {
		return nil
	}
	return &remotecommand.TerminalSize{Width: uint16(width), Height: uint16(height)} // terminals are smaller
}
