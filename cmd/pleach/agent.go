package main

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"github.com/pleachdev/pleach/agent"
)

// agentFlags declares the agent's settings on flags; config gets them.
func agentFlags(flags *pflag.FlagSet, config *agent.Config) {
	flags.StringVar(&config.Node, "node", "", "this node's name, as in nodes/NAME.yaml; the host's name when empty")
	flags.StringVar(&config.Remote, "remote", "", "URL of the config repository: http, https or file")
	flags.StringVar(&config.Branch, "branch", agent.DefaultBranch, "branch to follow")
	flags.StringVar(&config.Introduction, "introduction", "", "full id of the commit that is trusted to begin with, the same on every node")
	flags.StringVar(&config.RemoteCredentials, "remote-credentials", "", "file of two lines: user name, and password or token")
	flags.StringVar(&config.StatusCredentials, "status-credentials", "", "the same for the status branch, where it is in another repository")
	flags.StringVar(&config.Containerd, "containerd", "", "socket of a containerd to use; an own one runs when empty")
	flags.StringVar(&config.Listen, "listen", agent.DefaultListen, "address for metrics, health and hints; \"\" for none")
	flags.StringVar(&config.PeerListen, "peer-listen", agent.DefaultPeerListen, "address for the other nodes' agents; Serf has the next port, TCP and UDP")
	flags.StringVar(&config.Advertise, "advertise", "", "address at which other nodes reach this one, IP or IP:PORT; the machine's first when empty")
	flags.StringSliceVar(&config.Join, "join", nil, "where to look for other nodes, HOST or HOST:PORT, beside the addresses in Git")
	flags.StringVar(&config.GossipKeyFile, "gossip-key-file", "", "file with the keys of membership's encryption, one a line; derived from the introduction when empty")
	flags.StringVar(&config.Journal, "journal", "", "file to add every document to that this node publishes, to look into how nodes agreed; it only grows")
	flags.StringVar(&config.HintSecretFile, "hint-secret-file", "", "file with the secret that hints are signed with; unsigned hints are taken when empty")
	flags.DurationVar(&config.PollInterval, "poll-interval", agent.DefaultPollInterval, "time between two looks at the remote without a hint")
	flags.StringVar(&config.PodLogDir, "pod-log-dir", agent.DefaultPodLogDir, "where containers' logs go")
	flags.StringVar(&config.CgroupRoot, "cgroup-root", agent.DefaultCgroupRoot, "control group under which all pods live")
	flags.StringVar(&config.Bridge, "bridge", agent.DefaultBridge, "name of the bridge that pods are attached to")
}

func agentCommand(l *local) *cobra.Command {
	var config agent.Config
	var file, level string
	cmd := &cobra.Command{
		Use: "agent", Short: "Run a node on this machine",
		Long: `Run a node: follow the config repository, run the pods that it gives to this node,
and write what is seen to the status branch. It needs root.

Stopping the agent stops no container: the next agent finds them and goes on.
Every flag can stand in a YAML file (--config) under the same name; the command
line wins over the file.`,
		Example: `  pleach agent --remote https://git.example.org/flock.git --introduction 4f9d2c1a77b0e5d3c2b1a0f9e8d7c6b5a4f3e2d1
  pleach agent --config /etc/pleach/agent.yaml`,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := fromFile(cmd.Flags(), file); err != nil {
				return usageError{err}
			}
			var threshold slog.Level
			if err := threshold.UnmarshalText([]byte(level)); err != nil {
				return usageError{fmt.Errorf("--log-level: want debug, info, warn or error, got %q", level)}
			}
			config.Dir, config.Version = l.dir, buildVersion()
			config.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: threshold}))
			return agent.Run(cmd.Context(), config)
		},
	}
	agentFlags(cmd.Flags(), &config)
	cmd.Flags().StringVar(&file, "config", "", "YAML file with the same settings")
	cmd.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	return cmd
}

// fromFile sets the flags that the command line left alone from a YAML file of the same names.
func fromFile(flags *pflag.FlagSet, file string) error {
	if file == "" {
		return nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	var settings map[string]any
	if err := yaml.UnmarshalStrict(data, &settings); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		flag := flags.Lookup(name)
		if flag == nil || name == "config" || name == "help" {
			errs = append(errs, fmt.Errorf("%s: %s: no such setting; \"pleach agent --help\" lists them", file, name))
			continue
		}
		if flag.Changed {
			continue
		}
		switch value := settings[name].(type) {
		case string, bool, int64, float64:
			if err := flags.Set(name, fmt.Sprint(value)); err != nil {
				errs = append(errs, fmt.Errorf("%s: %s: %w", file, name, err))
			}
		default:
			errs = append(errs, fmt.Errorf("%s: %s: want one value, as on the command line", file, name))
		}
	}
	return errors.Join(errs...)
}

func resetCommand(l *local) *cobra.Command {
	var config agent.Config
	var yes bool
	cmd := &cobra.Command{
		Use: "reset", Short: "Take the node off this machine: pods, containerd, network, keys and data",
		Long: `Take the node off this machine: stop its pods and its containerd, remove the pod
network, the control groups, the logs and the agent's directory. The node's keys
go with it. Stop the agent first. The config repository is not touched.`,
		Example: "  pleach reset --dir /var/lib/pleach", Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			config.Dir = l.dir
			if !yes {
				fmt.Fprintf(cmd.OutOrStdout(), "This removes the node in %s with everything that it runs. Type yes to go on: ", l.dir) // a question that cannot be asked gets no answer
				answer, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
				if err != nil || strings.TrimSpace(answer) != "yes" {
					return errors.New("nothing was changed")
				}
			}
			return agent.Reset(cmd.Context(), config)
		},
	}
	cmd.Flags().StringVar(&config.Containerd, "containerd", "", "socket of the containerd that the agent used, if not its own")
	cmd.Flags().StringVar(&config.PodLogDir, "pod-log-dir", agent.DefaultPodLogDir, "where containers' logs are")
	cmd.Flags().StringVar(&config.CgroupRoot, "cgroup-root", agent.DefaultCgroupRoot, "control group under which the pods lived")
	cmd.Flags().StringVar(&config.Bridge, "bridge", agent.DefaultBridge, "name of the bridge that pods were attached to")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}
