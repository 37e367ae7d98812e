// Package power is what the lab tells the first process of a node when it switches the node on.
package power

// Config is sent as JSON over file descriptor 3. The first process answers on file descriptor 4
// with [Ready] or with a sentence about what went wrong. The lab keeps its end of descriptor 3
// open: when it closes, the lab is gone, and the node switches itself off.
type Config struct {
	Hostname string
	// Dir is the node's disk: etc and var are the node's changes to the machine's /etc and /var,
	// pleach is its /var/lib/pleach.
	Dir string
	// Join lists the cgroup directories of the node, one in each hierarchy.
	Join []string
	// Cgroups are the hierarchies that the node mounts.
	Cgroups []Hierarchy
}

// Hierarchy is a mounted cgroup hierarchy.
type Hierarchy struct {
	Path    string // "/sys/fs/cgroup/memory"
	Type    string // "cgroup" or "cgroup2"
	Options string // "memory"; "" for cgroup2
}

// Ready is the first process' answer when the node is up.
const Ready = "ready"

// Leaf is the cgroup below the node's own in which its first process and its agent live where the
// hierarchy is version 2: processes and controllers for children exclude each other there.
const Leaf = "init"
