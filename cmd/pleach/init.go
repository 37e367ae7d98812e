package main

import (
	"fmt"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/pleachdev/pleach/gitsync/repository"
)

func initCommand(l *local) *cobra.Command {
	var o repository.InitOptions
	var who signer
	cmd := &cobra.Command{
		Use:   "init DIR",
		Short: "Write a new config repository",
		Long: `Write a new config repository into DIR, which must be empty or not exist: pleach.yaml,
trust/allowed_signers with your SSH key, one node, a sample app and a README, in a signed
commit. Its id is the introduction that agents are started with.

Without --key the node is this machine: its keys are read from the agent's directory, or
made there.`,
		Example: `  pleach init config
  pleach init config --node node-1 --pod-cidr 10.42.0.0/16
  pleach init config --node node-1 --key "$(ssh node-1 pleach node key)" --token-key "$(ssh node-1 pleach node key --token)"`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			var done func()
			var err error
			if o.User, done, err = who.user(); err != nil {
				return err
			}
			defer done()
			if o.Node.Name == "" {
				if o.Node.Name, err = os.Hostname(); err != nil {
					return fmt.Errorf("--node: no name given and the host has none: %w", err)
				}
			}
			if o.Node.NodeKey == "" {
				o.Node.AgentDir, o.Node.OS, o.Node.Arch = l.dir, runtime.GOOS, runtime.GOARCH
			}
			commit, err := repository.Init(args[0], o)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: a config repository with node %s\n"+
				"  introduction: %s\n"+
				"  to do: push it to your Git server, then start the node:\n"+
				"    pleach agent --node %[2]s --remote URL --introduction %[3]s\n", args[0], o.Node.Name, commit)
			return err
		},
	}
	f := cmd.Flags()
	who.flags(f)
	f.StringVar(&o.ClusterName, "cluster", "", "the cluster's name; DIR's when not given")
	f.StringVar(&o.PodCIDR, "pod-cidr", repository.DefaultPodCIDR, "the range of pod addresses, of which each node gets a part")
	f.StringVar(&o.ServiceCIDR, "service-cidr", repository.DefaultServiceCIDR, "the range of Service addresses")
	f.StringVar(&o.Image, "image", repository.DefaultImage, "the sample app's image: a web server on port 80")
	f.StringVar(&o.Node.Name, "node", "", "the first node's name; the host's name when not given")
	f.StringVar(&o.Node.NodeKey, "key", "", "the node's public key, as \"pleach node key\" prints it there")
	f.StringVar(&o.Node.TokenKey, "token-key", "", "the node's key for tokens, as \"pleach node key --token\" prints it there")
	return cmd
}
