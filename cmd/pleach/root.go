package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/pleachdev/pleach/agent"
	"github.com/pleachdev/pleach/agent/api"
)

// Exit codes. "pleach help" lists them.
const (
	exitFailed  = 1
	exitUsage   = 2
	exitNoAgent = 3
)

const about = `Pleach runs containers on many machines from one Git branch: push to deploy, revert to
roll back. Every node runs "pleach agent"; the other commands show what the agent of
this machine knows, or prepare the config repository.

Exit codes:
  0    done
  1    it did not work: the message says why, what goes on meanwhile, and what to do
  2    the command line is wrong
  3    no agent runs on this machine, or it cannot be reached
  any  "pleach exec" ends with the exit code of the command that it ran`

// local is what the commands that talk to this machine's agent share.
type local struct{ dir string }

func (l *local) client() *api.Client { return api.NewClient(filepath.Join(l.dir, api.SocketName)) }

func newRoot() *cobra.Command {
	l := &local{}
	root := &cobra.Command{
		Use: "pleach", Short: "Containers from one Git branch", Long: about,
		SilenceErrors: true, SilenceUsage: true,
		// an unknown command is one of the command line's errors
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("%s: no such command; \"pleach help\" lists them", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.PersistentFlags().StringVar(&l.dir, "dir", cmp.Or(os.Getenv("PLEACH_DIR"), agent.DefaultDir),
		"the agent's directory; $PLEACH_DIR when set")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(
		statusCommand(l), getCommand(l), describeCommand(l), explainCommand(l), logsCommand(l), execCommand(l),
		agentCommand(l), initCommand(l), nodeCommand(l), resetCommand(l), validateCommand(), planCommand(), simCommand(), versionCommand(),
	)
	return root
}

// usageError is a mistake in the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// usage makes a rule about arguments report a usageError.
func usage(rule cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := rule(cmd, args); err != nil {
			return usageError{fmt.Errorf("%w; the form is: %s", err, cmd.UseLine())}
		}
		return nil
	}
}

// commandExit carries the exit code of a command that ran elsewhere.
type commandExit struct{ code int }

func (e commandExit) Error() string { return fmt.Sprintf("command ended with exit code %d", e.code) }

// quiet is an error about which everything was said already.
type quiet struct{ error }

// exitCode prints what there is to say about an error and returns the process's exit code for it.
func exitCode(err error, w io.Writer) int {
	if err == nil {
		return 0
	}
	if exit, ok := errors.AsType[commandExit](err); ok {
		return exit.code
	}
	if errors.Is(err, context.Canceled) { // the person pressed Ctrl-C, and knows
		return exitFailed
	}
	if _, ok := errors.AsType[quiet](err); !ok {
		fmt.Fprintf(w, "pleach: %v\n", err) // there is no place left to complain
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	if errors.Is(err, api.ErrNoAgent) {
		return exitNoAgent
	}
	return exitFailed
}

// isTerminal reports whether a person sees what is written to w.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
