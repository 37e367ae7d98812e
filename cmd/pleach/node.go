package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pleachdev/pleach/gitsync/repository"
	"github.com/pleachdev/pleach/gitsync/trust"
)

func nodeCommand(l *local) *cobra.Command {
	cmd := &cobra.Command{
		Use: "node", Short: "Enrol nodes: print a node's key, add a node to the config repository",
		Example: "  pleach node key\n  pleach node add node-2 --key \"$(ssh node-2 pleach node key)\"",
		Args:    usage(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(nodeAddCommand(l), nodeKeyCommand(l))
	return cmd
}

func nodeAddCommand(l *local) *cobra.Command {
	var node repository.NodeOptions
	var who signer
	var repo string
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
			user, done, err := who.user()
			if err != nil {
				return err
			}
			defer done()
			node.Name = args[0]
			if node.NodeKey == "" {
				node.AgentDir, node.OS, node.Arch = l.dir, runtime.GOOS, runtime.GOARCH
			}
			commit, err := repository.AddNode(repo, node, user)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "nodes/%s.yaml: commit %s\n  to do: push it, and start \"pleach agent --node %[1]s\" on the node\n", node.Name, commit)
			return err
		},
	}
	f := cmd.Flags()
	who.flags(f)
	f.StringVarP(&repo, "repository", "C", ".", "the clone of the config repository")
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

func nodeKeyCommand(l *local) *cobra.Command {
	var token bool
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Print this machine's public node key, and make the key when there is none",
		Long: `Print the public half of this machine's key, which "pleach node add" writes into the config
repository. The private half never leaves the agent's directory. The key is made when
there is none yet, so that a machine can be enrolled before its agent first starts.`,
		Example: `  pleach node key
  pleach node key --token`,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(l.dir, repository.NodeKeyFile)), 0o700); err != nil {
				return fmt.Errorf("node key: %w", err)
			}
			line, err := publicKey(l.dir, token)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), line)
			return err
		},
	}
	cmd.Flags().BoolVar(&token, "token", false, "print the key for ServiceAccount tokens instead")
	return cmd
}

func publicKey(dir string, token bool) (string, error) {
	if token {
		key, err := trust.LoadOrCreateTokenKey(filepath.Join(dir, repository.TokenKeyFile))
		if err != nil {
			return "", err
		}
		return trust.EncodeTokenKey(&key.PublicKey)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "" // a comment in the key's file, no more
	}
	key, err := trust.LoadOrCreateKey(filepath.Join(dir, repository.NodeKeyFile), cmp.Or(host, "node"))
	if err != nil {
		return "", err
	}
	return key.AuthorizedKey(), nil
}
