package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/pleachdev/pleach/gitsync/trust"
)

func nodeCommand(l *local) *cobra.Command {
	cmd := &cobra.Command{
		Use: "node", Short: "Enrol nodes: print a node's key, add a node to the config repository",
		Example: "  pleach node key\n  pleach node add node-2 --key \"$(ssh node-2 pleach node key)\"",
		Args:    usage(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(nodeKeyCommand(l))
	return cmd
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
			keys := filepath.Join(l.dir, "keys")
			if err := os.MkdirAll(keys, 0o700); err != nil {
				return fmt.Errorf("node key: %w", err)
			}
			line, err := publicKey(keys, token)
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
		key, err := trust.LoadOrCreateTokenKey(filepath.Join(dir, "token.key"))
		if err != nil {
			return "", err
		}
		return trust.EncodeTokenKey(&key.PublicKey)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "" // a comment in the key's file, no more
	}
	key, err := trust.LoadOrCreateKey(filepath.Join(dir, "node.key"), cmp.Or(host, "node"))
	if err != nil {
		return "", err
	}
	return key.AuthorizedKey(), nil
}
