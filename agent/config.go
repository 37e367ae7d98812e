// Package agent runs one node: it follows the config repository, decides with package reconcile what
// this node should run, runs it, and publishes what it observes.
package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// Config is what a node is told at its start. Everything else stands in the config repository.
type Config struct {
	// Dir holds all that the node keeps: keys, the git store, pods, the runtime's data.
	Dir string
	// Node is this node's name, as in nodes/<name>.yaml.
	Node string
	// Remote and Branch say which branch to follow; Remote is an http, https or file URL.
	Remote, Branch string
	// Introduction is the full id of the commit that is trusted to begin with. It is the same on
	// every node of the flock.
	Introduction string
	// RemoteCredentials is a file of two lines, user name and password or token; "" for none.
	RemoteCredentials string
	// StatusCredentials is the same for spec.status.remote, where the cluster keeps its status branch
	// in another repository.
	StatusCredentials string
	// Containerd is the socket of a containerd to use; "" to run an own one.
	Containerd string
	// Listen is the TCP address for metrics, health and hints, "" for none.
	Listen string
	// Journal is a file to which every document that this node publishes is added, a line of JSON each;
	// "" for none. Nothing ever shortens it.
	Journal string
	// HintSecretFile holds the shared secret that hints are signed with; "" accepts unsigned hints,
	// which only ever cause a poll.
	HintSecretFile string
	// PeerListen is the TCP address at which the other nodes' agents are served; Serf has the next port,
	// TCP and UDP. Nothing listens while the node is the only one that is enrolled.
	PeerListen string
	// Advertise is the address at which the others reach this node, with a port where that is not
	// PeerListen's; "" for PeerListen's, or else the machine's first.
	Advertise string
	// Join lists addresses where other nodes may be found, host or host:port, beside those that the
	// config repository has.
	Join []string
	// GossipKeyFile holds the keys that membership is encrypted with, one a line in base64, the first to
	// send with; "" derives one from the introduction.
	GossipKeyFile string
	// PollInterval is the time between two looks at the remote without a hint.
	PollInterval time.Duration
	// PodLogDir is where containers' logs go, as <namespace>_<name>_<uid>/<container>/<n>.log.
	PodLogDir string
	// CgroupRoot is the cgroup under which all pods live, absolute: "/pleach".
	CgroupRoot string
	// Bridge is the name of the bridge that pods are attached to.
	Bridge string
	// Version is the program's, as "pleach version" prints it.
	Version string
	// Log receives what happens; it never holds a secret.
	Log *slog.Logger
}

// Defaults of the configuration.
const (
	DefaultDir          = "/var/lib/pleach"
	DefaultBranch       = "main"
	DefaultListen       = "127.0.0.1:7433"
	DefaultPeerListen   = ":7434"
	DefaultPollInterval = 5 * time.Second
	DefaultPodLogDir    = "/var/log/pods"
	DefaultCgroupRoot   = "/pleach"
	DefaultBridge       = "pleach0"
)

// fill puts defaults where nothing is said.
func (c *Config) fill() {
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&c.Dir, DefaultDir)
	set(&c.Branch, DefaultBranch)
	set(&c.PodLogDir, DefaultPodLogDir)
	set(&c.PeerListen, DefaultPeerListen)
	set(&c.CgroupRoot, DefaultCgroupRoot)
	set(&c.Bridge, DefaultBridge)
	if c.PollInterval == 0 {
		c.PollInterval = DefaultPollInterval
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

// complete fills in defaults and names everything that is missing or wrong at once.
func (c *Config) complete() error {
	c.fill()
	var errs []error
	if c.PollInterval < time.Second {
		errs = append(errs, fmt.Errorf("--poll-interval: want at least 1s, got %s", c.PollInterval))
	}
	if c.Node == "" {
		host, err := os.Hostname()
		if err != nil {
			errs = append(errs, fmt.Errorf("--node: no name given and the host has none: %w", err))
		}
		c.Node = host
	}
	if c.Remote == "" {
		errs = append(errs, errors.New("--remote: want the URL of the config repository"))
	}
	if !isCommitID(c.Introduction) {
		errs = append(errs, fmt.Errorf("--introduction: want the full id of a commit, got %q; \"git rev-parse HEAD\" in a clone prints it", c.Introduction))
	}
	if !filepath.IsAbs(c.Dir) {
		abs, err := filepath.Abs(c.Dir)
		if err != nil {
			errs = append(errs, fmt.Errorf("--dir %s: %w", c.Dir, err))
		}
		c.Dir = abs
	}
	return errors.Join(errs...)
}

func isCommitID(s string) bool {
	if len(s) != 40 && len(s) != 64 {
		return false
	}
	for _, r := range s {
		if (r < '0' || r > '9') && (r < 'a' || r > 'f') {
			return false
		}
	}
	return true
}
