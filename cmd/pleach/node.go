package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pleachdev/pleach/gitsync/repository"
)

func nodeCommand(l *local) *cobra.Command {
	cmd := &cobra.Command{
		Use: "node", Short: "Enrol, drain and remove nodes, by commits to the config repository",
		Example: `  pleach node key
  pleach node add node-2 --key "$(ssh node-2 pleach node key)"
  pleach node drain node-2 && git push`,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		nodeAddCommand(l), nodeKeyCommand(l), nodeCordonCommand(), nodeUncordonCommand(), nodeDrainCommand(),
		nodeRemoveCommand(), nodeRotateCommand(),
	)
	return cmd
}

func nodeAddCommand(l *local) *cobra.Command {
	var node repository.NodeOptions
	var o changeOptions
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Write nodes/NAME.yaml into a clone of the config repository, and commit it",
		Long: `Write nodes/NAME.yaml into a clone of the config repository, with the node's public keys and
the next free part of the cluster's podCIDR, and commit it, signed with your SSH key. The
node joins when the commit is pushed.

Without --key the node is this machine: its keys are read from the agent's directory, or
made there.`,
		Example: `  pleach node add node-1
  pleach node add node-2 --key "$(ssh node-2 pleach node key)" --token-key "$(ssh node-2 pleach node key --token)"
  pleach node add node-3 --key 'ssh-ed25519 AAAA...' --label zone=b -C ./config`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			node.Name = args[0]
			if node.NodeKey == "" {
				node.AgentDir, node.OS, node.Arch = l.dir, runtime.GOOS, runtime.GOARCH
			}
			return o.run(cmd, fmt.Sprintf("nodes/%s.yaml", node.Name),
				fmt.Sprintf("push it, and start \"pleach agent --node %s\" on the node", node.Name),
				func(c repository.Change) (string, error) { return repository.AddNode(o.dir, node, c) })
		},
	}
	f := cmd.Flags()
	o.flags(f)
	f.StringVar(&node.NodeKey, "key", "", "the node's public key, as \"pleach node key\" prints it there")
	f.StringVar(&node.TokenKey, "token-key", "", "the node's key for tokens, as \"pleach node key --token\" prints it there")
	f.StringVar(&node.OS, "os", "linux", "the node's operating system; with --key")
	f.StringVar(&node.Arch, "arch", "", "the node's architecture, amd64 or arm64; with --key")
	f.StringToStringVar(&node.Labels, "label", nil, "labels of the node: zone=b")
	f.StringVar(&node.Address, "address", "", "host[:port] where other nodes can join")
	return cmd
}

// signer is the person who makes a commit.
type signer struct{ name, mail, key string }

func (s *signer) flags(f *pflag.FlagSet) {
	f.StringVar(&s.name, "author-name", "", "the commit's author; git's user.name when not given")
	f.StringVar(&s.mail, "author-email", "", "the author's address; git's user.email when not given")
	f.StringVar(&s.key, "signing-key", "", "an SSH key's file; git's user.signingkey, the ssh-agent's or ~/.ssh's when not given")
}

// user finds the key; done gives it up.
func (s *signer) user() (user repository.User, done func(), err error) {
	key, err := repository.UserKey(s.key)
	if err != nil {
		return user, nil, err
	}
	done = func() { _ = key.Close() } // a connection to an ssh-agent that has served
	return repository.User{Name: s.name, Mail: s.mail, Key: key}, done, nil
}
