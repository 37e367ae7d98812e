package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pleachdev/pleach/gitsync/repository"
)

// changeOptions are those of every command that writes a commit.
type changeOptions struct {
	who     signer
	dir     string
	message string
	commit  bool
}

func (o *changeOptions) flags(f *pflag.FlagSet) {
	o.who.flags(f)
	f.StringVarP(&o.dir, "repository", "C", ".", "the clone of the config repository")
	f.StringVarP(&o.message, "message", "m", "", "the commit's message")
	f.BoolVar(&o.commit, "commit", true, "commit the change; with --commit=false it stays in the working tree")
}

// run makes the change and says what is to be done next. what names it: "nodes/n1.yaml".
func (o *changeOptions) run(cmd *cobra.Command, what, next string, change func(repository.Change) (string, error)) error {
	c := repository.Change{Message: o.message, NoCommit: !o.commit}
	if o.commit {
		user, done, err := o.who.user()
		if err != nil {
			return err
		}
		defer done()
		c.User = user
	}
	id, err := change(c)
	switch {
	case err != nil:
		return err
	case id != "":
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: commit %s\n  to do: %s\n", what, id, next)
	case o.commit:
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: is so already; nothing was changed\n", what)
	default:
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: is changed, not committed\n  to do: commit it, signed; then %s\n", what, next)
	}
	return err
}

// nodeChange is a command that changes one node's file.
func nodeChange(cmd *cobra.Command, next string, change func(dir, name string, c repository.Change) (string, error)) *cobra.Command {
	var o changeOptions
	cmd.Args = usage(cobra.ExactArgs(1))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return o.run(cmd, "node "+args[0], next, func(c repository.Change) (string, error) { return change(o.dir, args[0], c) })
	}
	o.flags(cmd.Flags())
	return cmd
}

func nodeCordonCommand() *cobra.Command {
	return nodeChange(&cobra.Command{
		Use: "cordon NAME", Short: "Let no new pod come to a node; those that run there stay",
		Long: `Write spec.unschedulable: true into nodes/NAME.yaml of a clone, and commit it, signed with
your SSH key. It counts from the push: no pod is given to the node any more, and those
that run there stay.`,
		Example: "  pleach node cordon node-2 && git push",
	}, "git push; then no new pod comes to the node", repository.CordonNode)
}

func nodeUncordonCommand() *cobra.Command {
	return nodeChange(&cobra.Command{
		Use: "uncordon NAME", Short: "Take back cordon and drain",
		Long: `Take spec.unschedulable and the drain's taint out of nodes/NAME.yaml of a clone, and commit
it, signed with your SSH key. Pods come to the node again when they need a place; none is
moved back for its own sake.`,
		Example: "  pleach node uncordon node-2 && git push",
	}, "git push; then pods may come to the node again", repository.UncordonNode)
}

func nodeDrainCommand() *cobra.Command {
	return nodeChange(&cobra.Command{
		Use: "drain NAME", Short: "Move a node's pods to other nodes, gently; DaemonSets' stay",
		Long: `Cordon a node, and give it the taint pleach.dev/drain (NoExecute), by a commit to a clone,
signed with your SSH key. From the push on, its pods move: each starts elsewhere before
it ends here where maxSurge lets it, within maxUnavailable otherwise. Pods of DaemonSets
stay. "pleach get pods -A -o wide" shows what is left; "pleach node uncordon" takes it back.`,
		Example: "  pleach node drain node-2 -m 'node-2 gets a new disk' && git push",
	}, "git push; then its pods move: pleach get pods -A -o wide", repository.DrainNode)
}

func nodeRemoveCommand() *cobra.Command {
	var forget bool
	cmd := nodeChange(&cobra.Command{
		Use: "remove NAME", Short: "Take a node out of the flock",
		Long: `Remove nodes/NAME.yaml from a clone, and commit it, signed with your SSH key. From the push
on the others hear the node no more, and what ran there is started elsewhere: drain it
first. "pleach reset" on the machine takes the rest away.

The node's line in trust/allowed_signers stays, so that the status commits that it signed
are shown as good for ever; a key with a node's principal counts for nothing else. When
the key was stolen, --forget removes the line too.`,
		Example: `  pleach node drain node-2 && git push     # and wait until its pods are gone
  pleach node remove node-2 && git push`,
	}, "git push; then \"pleach reset\" on the machine itself", func(dir, name string, c repository.Change) (string, error) {
		return repository.RemoveNode(dir, name, forget, c)
	})
	cmd.Flags().BoolVar(&forget, "forget", false, "remove the node's lines from trust/allowed_signers too")
	return cmd
}

func nodeRotateCommand() *cobra.Command {
	var key string
	var finish, forget bool
	cmd := nodeChange(&cobra.Command{
		Use: "rotate NAME --key KEY | --finish", Short: "Replace a node's key: enrol the new one, later drop the old one",
		Long: `Replace a node's key without a moment in which it is not known. Four steps:

  1. on the node:   pleach node key --next            prints the new key
  2. in a clone:    pleach node rotate NAME --key "…" && git push
  3. on the node, when "pleach status" shows that commit on all nodes:
                    pleach node key --activate        and restart the agent
  4. in a clone:    pleach node rotate NAME --finish && git push

Between 2 and 4 both keys are the node's. The old key's line in trust/allowed_signers stays,
so that earlier status commits are shown as good; when that key was stolen, begin with
step 4's --forget in mind: it removes the line too.`,
		Example: `  pleach node rotate node-2 --key "$(ssh node-2 pleach node key --next)" && git push
  pleach node rotate node-2 --finish && git push`,
	}, "git push; \"pleach node rotate --help\" says what follows", func(dir, name string, c repository.Change) (string, error) {
		switch {
		case finish == (key != ""):
			return "", usageError{errors.New("want --key with the new key, or --finish")}
		case finish:
			return repository.DropNodeKey(dir, name, forget, c)
		}
		return repository.AddNodeKey(dir, name, key, c)
	})
	cmd.Flags().StringVar(&key, "key", "", "the new public key, as \"pleach node key --next\" prints it on the node")
	cmd.Flags().BoolVar(&finish, "finish", false, "drop the old key")
	cmd.Flags().BoolVar(&forget, "forget", false, "with --finish: remove the old key's line from trust/allowed_signers too")
	return cmd
}
