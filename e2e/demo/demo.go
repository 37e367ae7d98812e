package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/pleachdev/pleach/agent/api"
	"github.com/pleachdev/pleach/e2e/lab"
	"github.com/pleachdev/pleach/reconcile"
)

// demo is one flock on this machine, with everything in one directory.
type demo struct {
	dir    string
	pleach string // the program, absolute
	nodes  int
}

const user = "demo@pleach.example"

func nodeName(i int) string { return fmt.Sprintf("demo-%d", i+1) }

func (d *demo) config() string { return filepath.Join(d.dir, "flock") } // the config repository's clone

// up brings the demo up, or finds it up: then the agents are replaced by the program as it is now,
// and the containers go on.
func (d *demo) up(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("containers need root: sudo make demo")
	}
	s, up, err := d.services()
	if err != nil {
		return err
	}
	introduction, err := d.introduction(ctx)
	switch {
	case up && err == nil && len(s.Nodes) == d.nodes:
		step("the demo is up already: only its agents are started anew, on the program as it is now")
	default: // it did not come as far as its first push, or is another
		step("clearing away what an earlier demo left")
		if err := d.down(ctx); err != nil {
			return err
		}
		if s, err = d.prepare(ctx); err != nil {
			return err
		}
		if introduction, err = d.introduction(ctx); err != nil {
			return err
		}
	}
	step(fmt.Sprintf("starting the agents: %d", d.nodes))
	if err := d.startAgents(ctx, s, introduction); err != nil {
		return err
	}
	step("waiting for the first deployment")
	if err := d.waitReady(ctx, s); err != nil {
		return err
	}
	fmt.Print(d.screen(s))
	return nil
}

// prepare starts Git and the registry, and pushes the first commits.
func (d *demo) prepare(ctx context.Context) (services, error) {
	var none services
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return none, err
	}
	step("starting a Git server and a registry, and building the sample app's image (two versions)")
	self, err := os.Executable()
	if err != nil {
		return none, err
	}
	// The server must outlive "go run" and its temporary file.
	server := filepath.Join(d.dir, "demo")
	if err := copyFile(self, server); err != nil {
		return none, err
	}
	if _, err := d.detach("services", server, "-dir", d.dir, "-nodes", strconv.Itoa(d.nodes), "serve"); err != nil {
		return none, err
	}
	var s services
	soon, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	err = lab.Poll(soon, func(context.Context) error {
		var up bool
		if s, up, err = d.services(); err != nil || up {
			return err
		}
		return fmt.Errorf("the services are not up yet; %s says why", filepath.Join(d.dir, "services.log"))
	})
	if err != nil {
		return none, err
	}
	step("writing a config repository: pleach init")
	key, err := lab.NewKey(ctx, d.dir, user)
	if err != nil {
		return none, err
	}
	var nodes []lab.Enrolled
	for _, m := range s.Nodes {
		nodes = append(nodes, lab.Enrolled{Name: m.Name, Dir: m.Dir, Address: m.Address})
	}
	if _, err := lab.Enrol(ctx, d.pleach, d.config(), "demo", key, "Demo", nodes...); err != nil {
		return none, err
	}
	if err := d.addApp(ctx, s); err != nil {
		return none, err
	}
	step("pushing it: this deploys")
	_, err = run(ctx, d.config(), "git", "push", "--quiet", "--set-upstream", s.Remote, "main")
	return s, err
}

// addApp replaces the sample of "pleach init" by podinfo, whose image this machine's registry has.
func (d *demo) addApp(ctx context.Context, s services) error {
	const old, path = "stefanprodan/podinfo:6.14.1", "apps/podinfo/podinfo.yaml"
	manifest, err := os.ReadFile("examples/podinfo/podinfo.yaml")
	if err != nil {
		return fmt.Errorf("%w; run the demo from the repository's root", err)
	}
	cluster, err := os.ReadFile(filepath.Join(d.config(), "pleach.yaml"))
	if err != nil {
		return err
	}
	manifest = bytes.ReplaceAll(manifest, []byte(old), []byte(s.Registry+"/podinfo:1.0"))
	cluster = bytes.ReplaceAll(cluster, []byte("hello"), []byte("podinfo"))
	for name, body := range map[string][]byte{path: manifest, "pleach.yaml": cluster} {
		name = filepath.Join(d.config(), name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, body, 0o644); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"rm", "-r", "--quiet", "apps/hello"},
		{"add", "--all"},
		{"commit", "--quiet", "-m", "podinfo: deploy version 1.0"},
		{"remote", "add", "origin", s.Remote},
	} {
		if _, err := run(ctx, d.config(), "git", args...); err != nil {
			return err
		}
	}
	return nil
}

// introduction is the first commit of the config repository.
func (d *demo) introduction(ctx context.Context) (string, error) {
	id, err := run(ctx, d.config(), "git", "rev-list", "--max-parents=0", "HEAD")
	return strings.TrimSpace(id), err
}

// startAgents starts the agents, or starts them anew.
func (d *demo) startAgents(ctx context.Context, s services, introduction string) error {
	if len(s.Nodes) == 1 {
		return d.startHost(s, introduction)
	}
	orders := startOrders{Program: d.pleach, Introduction: introduction, PodCIDRs: map[string]netip.Prefix{}}
	for _, m := range s.Nodes {
		var enrolled corev1.Node
		data, err := os.ReadFile(filepath.Join(d.config(), "nodes", m.Name+".yaml"))
		if err == nil {
			err = yaml.Unmarshal(data, &enrolled)
		}
		if err != nil {
			return err
		}
		if orders.PodCIDRs[m.Name], err = netip.ParsePrefix(enrolled.Spec.PodCIDR); err != nil {
			return err
		}
	}
	return d.order(ctx, "start", orders)
}

// waitReady shows what the workloads wait for until all are complete.
func (d *demo) waitReady(ctx context.Context, s services) error {
	client := api.NewClient(filepath.Join(s.Nodes[0].Dir, api.SocketName))
	last := ""
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	return lab.Poll(ctx, func(ctx context.Context) error {
		status, err := client.Status(ctx)
		if err != nil {
			return fmt.Errorf("the agent does not answer yet; %s says why: %w", s.Nodes[0].Log, err)
		}
		switch {
		case len(status.Workloads) > 0:
		case len(status.Refusals) > 0:
			return fmt.Errorf("the first commit was refused: %s", status.Refusals[0].Reason)
		default:
			return errors.New("no workload was accepted yet")
		}
		for _, w := range status.Workloads {
			if line := progress(w); line != last {
				fmt.Println("    " + line)
				last = line
			}
			if w.Available < w.Desired || len(w.Waiting) > 0 {
				return errors.New(progress(w))
			}
		}
		return nil
	})
}

func progress(w *reconcile.WorkloadStatus) string {
	return fmt.Sprintf("%s/%s: %d of %d ready", strings.ToLower(w.Kind), w.Name, w.Ready, w.Desired)
}

// down takes everything away again.
func (d *demo) down(ctx context.Context) error {
	if err := d.resetHost(ctx); err != nil {
		return err
	}
	s, up, err := d.services()
	if err != nil {
		fmt.Println("   ", err)
	}
	if up {
		if err := d.end(s.PID); err != nil {
			return err
		}
	}
	return os.RemoveAll(d.dir)
}

// detach starts a process that outlives this one. Its output goes to <name>.log.
func (d *demo) detach(name, program string, args ...string) (pid int, err error) {
	log, err := os.OpenFile(filepath.Join(d.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	cmd := exec.Command(program, args...) //nolint:noctx // it must outlive this process
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	pid = cmd.Process.Pid
	return pid, cmd.Process.Release()
}

// alive reports whether pid is a process of the demo: each names the directory on its command line.
func (d *demo) alive(pid int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && bytes.Contains(line, []byte(d.dir))
}

// end asks a process of the demo to end, and waits for it.
func (d *demo) end(pid int) error {
	if !d.alive(pid) {
		return nil
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	for range 300 {
		if !d.alive(pid) {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("process %d does not end", pid)
}

func run(ctx context.Context, dir, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", filepath.Base(program), strings.Join(args, " "), err, complaint.Bytes())
	}
	return out.String(), nil
}

func copyFile(from, to string) error {
	body, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, body, 0o755)
}

func step(text string) { fmt.Println("==> " + text) }
