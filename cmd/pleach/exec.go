package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/agent/api"
)

type execOptions struct {
	scope
	identity
	container  string
	stdin, tty bool
}

func execCommand(l *local) *cobra.Command {
	o := &execOptions{}
	cmd := &cobra.Command{
		Use:   "exec POD | KIND/NAME -- COMMAND [ARG...]",
		Short: "Run a command in a container, on any node",
		Long: `Run a command in a container of a pod, and end with its exit code. A terminal is given
with -it; keys, colours and the size of the window go through.

For a pod of another node the request is signed with your SSH key, and judged there: the
key must be in trust/allowed_signers, and an accepted Role and its binding must let you
create pods/exec. On the pod's own node root needs neither.`,
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
			return o.run(cmd, o.signing(l.client()), args[0], args[1:])
		},
	}
	o.scope.flags(cmd, false)
	f := cmd.Flags()
	o.identity.flags(f)
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
	streams := api.Streams{Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr()}
	if o.stdin {
		streams.In = cmd.InOrStdin()
	}
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	if tty {
		restore, err := term.MakeRaw(int(stdin.Fd()))
		if err != nil {
			return fmt.Errorf("set the terminal up: %w", err)
		}
		defer func() { _ = term.Restore(int(stdin.Fd()), restore) }() // nothing better can be done to it
		streams.Sizes = sizes(ctx, int(stdin.Fd()))
	}
	code, err := c.Exec(ctx, pods[0].Namespace, pods[0].Name, request, streams)
	if err == nil && code != 0 {
		return commandExit{code}
	}
	return err
}

// sizes tells the size of a terminal now and after each change, until ctx ends.
func sizes(ctx context.Context, fd int) <-chan api.Size {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	out := make(chan api.Size)
	go func() {
		defer signal.Stop(changed)
		for {
			width, height, err := term.GetSize(fd)
			if err != nil {
				return
			}
			select {
			case out <- api.Size{Width: uint16(width), Height: uint16(height)}: // terminals are smaller
			case <-ctx.Done():
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}
