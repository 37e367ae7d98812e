package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/pleachdev/pleach/gitsync/repository"
	"github.com/pleachdev/pleach/gitsync/trust"
)

func nodeKeyCommand(l *local) *cobra.Command {
	var token, next, activate bool
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Print this machine's public node key, and make the key when there is none",
		Long: `Print the public half of this machine's key, which "pleach node add" writes into the config
repository. The private half never leaves the agent's directory. The key is made when
there is none yet, so that a machine can be enrolled before its agent first starts.

--next makes a second key beside the first and prints it; --activate puts it in the
first one's place, for the agent's next start. "pleach node rotate" says when.`,
		Example: `  pleach node key
  pleach node key --token
  pleach node key --next
  pleach node key --activate`,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(l.dir, repository.NodeKeyFile)), 0o700); err != nil {
				return fmt.Errorf("node key: %w", err)
			}
			if activate {
				return activateKey(cmd, l.dir)
			}
			line, err := publicKey(l.dir, token, next)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), line)
			return err
		},
	}
	cmd.Flags().BoolVar(&token, "token", false, "print the key for ServiceAccount tokens instead")
	cmd.Flags().BoolVar(&next, "next", false, "make the key that shall follow this one, and print that")
	cmd.Flags().BoolVar(&activate, "activate", false, "put the key of --next in the place of the first one")
	cmd.MarkFlagsMutuallyExclusive("token", "next", "activate")
	return cmd
}

// nextKey ends the name of the key that shall follow, oldKey of the one that was followed.
const nextKey, oldKey = ".next", ".old"

// activateKey puts the next key in the place of the first one, which is kept as node.key.old.
func activateKey(cmd *cobra.Command, dir string) error {
	path := filepath.Join(dir, repository.NodeKeyFile)
	if _, err := trust.LoadKey(path + nextKey); err != nil {
		return fmt.Errorf("%w\n  to do: make it with \"pleach node key --next\", and enrol it with \"pleach node rotate\" first", err)
	}
	for _, half := range []string{"", ".pub"} {
		// The link keeps the old key when the second step fails; at no moment is there no key.
		old := path + oldKey + half
		if err := os.Remove(old); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := errors.Join(os.Link(path+half, old), os.Rename(path+nextKey+half, path+half)); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: is the new key; the old one is kept as %[1]s%s\n  to do: restart the agent, and then, in a clone: pleach node rotate NAME --finish\n", path, oldKey)
	return err
}

func publicKey(dir string, token, next bool) (string, error) {
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
	path := filepath.Join(dir, repository.NodeKeyFile)
	if next {
		path += nextKey
	}
	key, err := trust.LoadOrCreateKey(path, cmp.Or(host, "node"))
	if err != nil {
		return "", err
	}
	return key.AuthorizedKey(), nil
}
