package containerd

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"

	"golang.org/x/sys/unix"

	"github.com/pleachdev/pleach/agent/embedded"
)

// paths are the daemon's files in the directory of a node.
type paths struct {
	dir        string
	bin        string // the node binaries, see package embedded
	programs   string // those of the current version
	root       string // images, snapshots, metadata: what survives a reboot
	state      string // bundles, mounts, sockets of what runs
	socket     string
	config     string
	lock       string
	record     string
	log        string
	registries string // hosts.toml files, as containerd's certs.d
	cniConf    string
	shims      string // the shims' sockets
}

func newPaths(dir string) paths {
	own := filepath.Join(dir, "containerd")
	p := paths{
		dir:        dir,
		bin:        filepath.Join(dir, "bin"),
		programs:   filepath.Join(dir, "bin", "current"),
		root:       filepath.Join(own, "root"),
		state:      filepath.Join(own, "state"),
		socket:     filepath.Join(own, "containerd.sock"),
		config:     filepath.Join(own, "config.toml"),
		lock:       filepath.Join(own, "lock"),
		record:     filepath.Join(own, "daemon.json"),
		log:        filepath.Join(dir, "logs", "containerd.log"),
		registries: filepath.Join(dir, "registries"),
		cniConf:    CNIConfDir(dir),
		shims:      filepath.Join(own, "s"),
	}
	// A socket's name is a hash of 64 characters and the kernel takes 107 in all, so containerd
	// takes a directory of 42.
	if len(p.shims) > 42 {
		h := sha256.Sum256([]byte(dir))
		p.shims = "/run/pleach/" + hex.EncodeToString(h[:6])
	}
	return p
}

// CNIConfDir is where the daemon of the node directory dir looks for its CNI network configuration.
func CNIConfDir(dir string) string { return filepath.Join(dir, "cni", "net.d") }

// Every choice that is not containerd's default has its reason beside it.
var configTemplate = template.Must(template.New("config.toml").Funcs(template.FuncMap{"q": quote}).Parse(
	`# Written by pleach agent, which overwrites it when it starts.
version = 4
root = {{q .Root}}
state = {{q .State}}
# Nothing of a containerd that the machine may have besides.
imports = []
# No plugins from elsewhere may change what a verified commit asked for.
disabled_plugins = ['io.containerd.nri.v1.nri']
oom_score = {{.OOMScore}}

[plugins.'io.containerd.server.v1.grpc']
  address = {{q .Socket}}

[plugins.'io.containerd.server.v1.ttrpc']
  address = {{q .TTRPC}}

[plugins.'io.containerd.shim.v1.manager']
  socket_dir = {{q .Shims}}

[plugins.'io.containerd.gc.v1.scheduler']
  # After a pod's end there is nothing to hurry for; the default of 0 collects at every removal.
  schedule_delay = '5s'

[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs'
  stats_collect_period = 60
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = {{q .PauseImage}}
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = {{q .Registries}}

[plugins.'io.containerd.cri.v1.runtime']
  # Without CAP_SYS_RESOURCE nobody may lower an oom_score_adj, and runc fails on the sandbox's.
  restrict_oom_score_adj = {{.RestrictOOM}}
  # Namespaces are then found, and removed, beside everything else of this node.
  netns_mounts_under_state_dir = true
  # The default of 1s reads every container's cgroup each second, for a figure nobody asks for.
  stats_collect_period = '10s'
  # A process that leaves a child with the output open must not hold an exec for ever.
  drain_exec_sync_io_timeout = '5s'
[plugins.'io.containerd.cri.v1.runtime'.containerd]
  default_runtime_name = 'runc'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
  # No runtime_path: containerd keeps it with a pod's sandbox but not with its containers, and cannot
  # find their shim again after a restart. The shim is found by PATH.
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = {{q .Runc}}
  # The default is shared by every containerd of the machine.
  Root = {{q .RuncRoot}}
  SystemdCgroup = false
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = [{{q .CNIBin}}]
  conf_dir = {{q .CNIConf}}
  # One process less per pod.
  use_internal_loopback = true
`))

// config is the text of the daemon's configuration file. The same input gives the same bytes.
func config(p paths, programs embedded.Programs, pause string, canLowerOOM bool) ([]byte, error) {
	oomScore := 0
	if canLowerOOM {
		oomScore = -999 // as for the kubelet: the node's own machinery is the last to go
	}
	var b strings.Builder
	err := configTemplate.Execute(&b, map[string]any{
		"Root":        p.root,
		"State":       p.state,
		"OOMScore":    oomScore,
		"Socket":      p.socket,
		"TTRPC":       p.socket + ".ttrpc",
		"Shims":       p.shims,
		"PauseImage":  pause,
		"Registries":  p.registries,
		"RestrictOOM": !canLowerOOM,
		"Runc":        programs.Path(embedded.Runc),
		"RuncRoot":    filepath.Join(p.state, "runc"),
		"CNIBin":      programs.Dir,
		"CNIConf":     p.cniConf,
	})
	return []byte(b.String()), err
}

// quote writes a TOML basic string; Go's escapes of printable paths are TOML's too.
func quote(s string) string { return strconv.Quote(s) }

// canLowerOOMScore reports whether this process has CAP_SYS_RESOURCE.
func canLowerOOMScore() bool {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "CapEff:"); ok {
			caps, err := strconv.ParseUint(strings.TrimSpace(rest), 16, 64)
			return err == nil && caps&(1<<unix.CAP_SYS_RESOURCE) != 0
		}
	}
	return false
}
