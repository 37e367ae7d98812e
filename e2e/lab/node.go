package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pleachdev/pleach/e2e/lab/internal/power"
)

// Node is one machine of the lab: processes, mounts, network, host name and cgroups of its own on
// this machine's kernel. It has its own /run, which a power-off empties, and its own /etc, /var and
// /var/lib/pleach, which stay; everything else, with /tmp and the lab's directory, it shares. It is
// off until [Node.Start].
//
// /proc/meminfo and the number of processors are the machine's.
type Node struct {
	Name string     // a DNS label of at most 14 characters; also the host name
	Dir  string     // its disk, as seen from outside and inside
	Addr netip.Addr // on the underlay

	lab      *Lab
	underlay *Underlay
	program  string // nodeinit

	mu      sync.Mutex
	first   *exec.Cmd // nil while the node is off
	ns      *namespace
	line    *os.File // closing it would end the node
	cgroups []string
	ended   chan struct{}
	running []*Process // what Run started; some may have ended
	agent   *Process
	frozen  bool
	small   bool  // its disk is its own, see SmallDisk
	long    bool  // its cable is a wire, see LongCable
	wire    *wire // nil while it is off
}

var nodeName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,12}[a-z0-9])?$`)

// NewNode makes a node and leaves it off. The first one is 10.99.0.1, and so on. It needs root and
// an underlay.
func (l *Lab) NewNode(ctx context.Context, name string) (*Node, error) {
	if !nodeName.MatchString(name) {
		return nil, fmt.Errorf("node %q: want a DNS label of at most 14 characters", name)
	}
	program, err := Program(ctx, "e2e/lab/nodeinit")
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.underlay == nil {
		return nil, errors.New("make the underlay before nodes")
	}
	if l.nodes++; l.nodes > 250 {
		return nil, errors.New("the underlay has room for 250 nodes")
	}
	octets := underlayPrefix.Addr().As4()
	octets[3] = byte(l.nodes)
	n := &Node{
		Name: name, Dir: filepath.Join(l.Dir, "nodes", name), Addr: netip.AddrFrom4(octets),
		lab: l, underlay: l.underlay, program: program,
	}
	if err := os.MkdirAll(filepath.Dir(n.Dir), 0o755); err != nil {
		return nil, err
	}
	if err := os.Mkdir(n.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("node %s: %w", name, err)
	}
	l.undo = append(l.undo, undo{"remove node " + name, n.remove})
	return n, nil
}

func cableOf(node string) string { return "v" + node }

func (n *Node) cable() string { return cableOf(n.Name) }

// Start switches the node on. When it returns the network is up and nothing else runs.
func (n *Node) Start(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.first != nil {
		return fmt.Errorf("node %s is on", n.Name)
	}
	if err := n.start(ctx); err != nil {
		return errors.Join(fmt.Errorf("start node %s: %w", n.Name, err), n.offLocked())
	}
	return nil
}

func (n *Node) start(ctx context.Context) error {
	hierarchies, err := cgroupMounts()
	if err != nil {
		return err
	}
	if n.cgroups, err = makeCgroups(hierarchies, n.lab.Name, n.Name); err != nil {
		return err
	}
	inside, line, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = inside.Close() }()
	n.line = line
	answer, reply, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = answer.Close() }()

	cmd := exec.CommandContext(context.WithoutCancel(ctx), n.program, "up") // it outlives the call
	cmd.ExtraFiles = []*os.File{inside, reply}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Setsid:     true,
	}
	err = spawn(cmd)
	_ = reply.Close()
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	n.first, n.ended = cmd, ended
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	if n.ns, err = namespaceOf(cmd.Process.Pid); err != nil {
		return err
	}
	if err := n.underlay.plug(n, n.ns); err != nil {
		return err
	}
	if err := json.NewEncoder(line).Encode(power.Config{
		Hostname: n.Name, Dir: n.Dir, Join: n.cgroups, Cgroups: hierarchies,
	}); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = answer.SetReadDeadline(time.Now()) })()
	said, err := io.ReadAll(answer)
	if err != nil {
		return err
	}
	if string(said) != power.Ready {
		return fmt.Errorf("its first process says: %s", bytes.TrimSpace(said))
	}
	return nil
}

// PowerOff ends all processes of the node at once, as when the plug is pulled, and returns when
// they are gone. What they wrote to files stays. Switching off twice is harmless.
func (n *Node) PowerOff() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.offLocked()
}

func (n *Node) offLocked() error {
	var errs []error
	if n.first != nil {
		// The kernel ends the rest of a pid namespace with its first process, and lets nobody wait
		// for that one before.
		if err := n.first.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, err)
		}
		if n.frozen {
			errs = append(errs, n.freezeLocked(false)) // what is frozen does not end
		}
		select {
		case <-n.ended:
		case <-time.After(30 * time.Second):
			errs = append(errs, errors.New("its first process is still there 30 s after SIGKILL"))
		}
		errs = append(errs, n.underlay.unplug(n))
	}
	if n.ns != nil {
		errs = append(errs, n.ns.file.Close())
	}
	if n.line != nil {
		errs = append(errs, n.line.Close())
	}
	// The door-keepers stand outside: they end with their commands, but a moment later.
	for _, p := range n.running {
		errs = append(errs, p.Kill())
	}
	for _, dir := range n.cgroups {
		errs = append(errs, removeCgroup(dir))
	}
	n.first, n.ns, n.line, n.cgroups, n.running, n.agent = nil, nil, nil, nil, nil, nil
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("switch node %s off: %w", n.Name, err)
	}
	return nil
}

// remove switches the node off and removes the lab's cgroups when they are empty.
func (n *Node) remove() error {
	err := n.PowerOff()
	if n.small {
		err = errors.Join(err, unmountBelow(n.Dir))
	}
	groups, findErr := cgroupDirs(func(base string) bool { return base == n.lab.Name })
	for _, dir := range groups {
		if e := syscall.Rmdir(dir); e != nil && !errors.Is(e, syscall.EBUSY) {
			err = errors.Join(err, &os.PathError{Op: "rmdir", Path: dir, Err: e})
		}
	}
	return errors.Join(err, findErr)
}

// PID is the process id, on this machine, of the node's first process; 0 while the node is off.
func (n *Node) PID() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.first == nil {
		return 0
	}
	return n.first.Process.Pid
}

// Command makes a command that runs inside the node, in the root directory, with the environment of
// this process. Its process id is that of a door-keeper outside, which passes signals on and ends as
// the command did.
func (n *Node) Command(ctx context.Context, args ...string) (*exec.Cmd, error) {
	cmd, err := n.door(ctx, "enter", args)
	if err != nil {
		return nil, err
	}
	cmd.Cancel = func() error {
		for _, inside := range childrenOf(cmd.Process.Pid) {
			_ = syscall.Kill(inside, syscall.SIGKILL)
		}
		return cmd.Process.Kill()
	}
	return cmd, nil
}

// door makes the command of a door-keeper.
func (n *Node) door(ctx context.Context, verb string, args []string) (*exec.Cmd, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.first == nil {
		return nil, fmt.Errorf("node %s is off", n.Name)
	}
	var groups []string
	for _, dir := range n.cgroups {
		if _, err := os.Stat(filepath.Join(dir, power.Leaf)); err == nil {
			dir = filepath.Join(dir, power.Leaf)
		}
		groups = append(groups, dir)
	}
	door := append([]string{verb, strconv.Itoa(n.first.Process.Pid), strings.Join(groups, ":")}, args...)
	cmd := exec.CommandContext(ctx, n.program, door...)
	cmd.Dir = "/"
	return cmd, nil
}

// Exec runs a command inside the node and returns its standard output. The error holds what it
// printed as errors. When ctx ends the command and its children are killed.
func (n *Node) Exec(ctx context.Context, args ...string) ([]byte, error) {
	cmd, err := n.door(ctx, "enter", args)
	if err != nil {
		return nil, err
	}
	// In a group of its own, so that a command that is out of time takes its children along.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%s: %s: %w: %s", n.Name, strings.Join(args, " "), err, lastLines(string(exit.Stderr), 20))
	}
	return out, err
}

// Run starts a process inside the node, with its output in <node>-<name>.log of the lab's directory.
func (n *Node) Run(name string, args ...string) (*Process, error) {
	cmd, err := n.door(context.Background(), "run", args)
	if err != nil {
		return nil, err
	}
	tell, told, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = tell.Close() }()
	cmd.ExtraFiles = []*os.File{told}
	p, err := n.lab.start(n.Name+"-"+name, cmd)
	_ = told.Close()
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.running = append(n.running, p)
	n.mu.Unlock()
	if _, err := fmt.Fscan(tell, &p.inside); err != nil {
		return nil, fmt.Errorf("start %s: see %s: %w", p.Name, p.Log, err)
	}
	return p, nil
}

// StartAgent starts the node's agent: a process that [Node.KillAgent] finds. A node has one.
func (n *Node) StartAgent(args ...string) (*Process, error) {
	p, err := n.Run("agent", args...)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.agent = p
	return p, nil
}

// Agent is the process that StartAgent started last; nil when it was killed.
func (n *Node) Agent() *Process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.agent
}

// KillAgent sends SIGKILL to the agent alone, and waits for its end. Its children live on.
func (n *Node) KillAgent() error {
	n.mu.Lock()
	agent := n.agent
	n.agent = nil
	n.mu.Unlock()
	if agent == nil {
		return fmt.Errorf("node %s has no agent", n.Name)
	}
	if err := agent.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := agent.Wait(ctx)
	if _, ended := errors.AsType[*exec.ExitError](err); ended {
		return nil
	}
	return err
}

// KillContainerd sends SIGKILL to the containerd of the node, which its agent may have started, and
// returns its process id.
func (n *Node) KillContainerd() (int, error) {
	processes, err := n.Processes()
	if err != nil {
		return 0, err
	}
	at := slices.IndexFunc(processes, func(u Usage) bool { return u.Name() == "containerd" || u.Name() == "pleach-containerd" })
	if at < 0 {
		return 0, fmt.Errorf("node %s has no process named containerd", n.Name)
	}
	pid := processes[at].PID
	return pid, syscall.Kill(pid, syscall.SIGKILL)
}

// Processes reads what each process of the node takes, sorted by process id; ids are this machine's.
func (n *Node) Processes() ([]Usage, error) {
	first := n.PID()
	if first == 0 {
		return nil, fmt.Errorf("node %s is off", n.Name)
	}
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", first))
	if err != nil {
		return nil, err
	}
	pids, err := processIDs()
	if err != nil {
		return nil, err
	}
	var inside []Usage
	for _, pid := range pids {
		// Containers may have pid namespaces of their own below the node's.
		if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid)); err != nil || ns != own && !n.holds(pid) {
			continue
		}
		if u, err := UsageOf(pid); err == nil {
			inside = append(inside, u)
		}
	}
	return inside, nil
}

// holds says whether a process is in the node's cgroups and not one of our door-keepers.
func (n *Node) holds(pid int) bool {
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || !bytes.Contains(groups, []byte("/"+n.lab.Name+"/"+n.Name)) {
		return false
	}
	program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && program != n.program
}

// Listen listens on an address of the node, such as 127.0.0.1:5000, on the lab's behalf. The
// listener outlives a power-off, but nobody can reach it then.
func (n *Node) Listen(address string) (net.Listener, error) {
	ns, err := n.network()
	if err != nil {
		return nil, err
	}
	return ns.listen(address)
}

// DialContext connects from the node. The address needs a number for its host.
func (n *Node) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	ns, err := n.network()
	if err != nil {
		return nil, err
	}
	return ns.dial(ctx, network, address)
}

func (n *Node) network() (*namespace, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ns == nil {
		return nil, fmt.Errorf("node %s is off", n.Name)
	}
	return n.ns, nil
}

// childrenOf lists the children of a process.
func childrenOf(pid int) []int {
	var children []int
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		for child := range strings.FieldsSeq(string(text)) {
			if id, err := strconv.Atoi(child); err == nil {
				children = append(children, id)
			}
		}
	}
	return children
}
