package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pleachdev/pleach/agent/api"
	"github.com/pleachdev/pleach/e2e/lab"
	"github.com/pleachdev/pleach/reconcile"
)

// demo is one flock of one node on this machine, with everything in one directory.
type demo struct {
	dir    string
	pleach string // the program, absolute
}

const (
	nodeName = "demo-1"
	user     = "demo@pleach.example"
)

// The demo's node beside a real one on the same machine: nothing they have is shared.
const (
	cgroupRoot = "/pleach-demo"
	bridge     = "pleachdemo0"
)

func (d *demo) agentDir() string { return filepath.Join(d.dir, "node") }
func (d *demo) config() string   { return filepath.Join(d.dir, "flock") } // the config repository's clone
func (d *demo) logs() string     { return filepath.Join(d.dir, "pod-logs") }
func (d *demo) pidFile() string  { return filepath.Join(d.dir, "agent.pid") }

// up brings the demo up, or finds it up: then the node's agent is replaced by the program as it is
// now, and the containers go on.
func (d *demo) up(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("containers need root: sudo make demo")
	}
	s, up, err := d.services()
	if err != nil {
		return err
	}
	if _, err := os.Stat(d.pidFile()); up && err == nil { // else it did not come as far as its first push
		step("the demo is up already: only its agent is started anew, on the program as it is now")
		if err := d.stopAgent(); err != nil {
			return err
		}
	} else {
		step("clearing away what an earlier demo left")
		if err := d.down(ctx); err != nil {
			return err
		}
		if s, err = d.prepare(ctx); err != nil {
			return err
		}
	}
	step("starting the node " + nodeName)
	if err := d.startAgent(ctx, s); err != nil {
		return err
	}
	step("waiting for the first deployment")
	if err := d.waitReady(ctx); err != nil {
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
	listen, err := freePort()
	if err != nil {
		return none, err
	}
	step("starting a Git server and a registry, and building the sample app's image (two versions)")
	hint := "http://" + listen + "/hint"
	self, err := os.Executable()
	if err != nil {
		return none, err
	}
	// The server must outlive "go run" and its temporary file.
	server := filepath.Join(d.dir, "demo")
	if err := copyFile(self, server); err != nil {
		return none, err
	}
	if _, err := d.detach("services", server, "-dir", d.dir, "-hint", hint, "serve"); err != nil {
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
	if _, err := run(ctx, "", d.pleach, "init", d.config(), "--cluster", "demo", "--node", nodeName, "--dir", d.agentDir(),
		"--signing-key", key.File, "--author-name", "Demo", "--author-email", user); err != nil {
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

// startAgent starts the node's agent in the background.
func (d *demo) startAgent(ctx context.Context, s services) error {
	introduction, err := run(ctx, d.config(), "git", "rev-list", "--max-parents=0", "HEAD")
	if err != nil {
		return err
	}
	listen := strings.TrimSuffix(strings.TrimPrefix(s.Hint, "http://"), "/hint")
	pid, err := d.detach("agent", d.pleach, "agent", "--dir", d.agentDir(), "--node", nodeName,
		"--remote", s.Remote, "--branch", "main", "--introduction", strings.TrimSpace(introduction), "--listen", listen,
		"--pod-log-dir", d.logs(), "--cgroup-root", cgroupRoot, "--bridge", bridge)
	if err != nil {
		return err
	}
	return os.WriteFile(d.pidFile(), []byte(strconv.Itoa(pid)), 0o644)
}

// waitReady shows what the workloads wait for until all are complete.
func (d *demo) waitReady(ctx context.Context) error {
	client := api.NewClient(filepath.Join(d.agentDir(), api.SocketName))
	last := ""
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	return lab.Poll(ctx, func(ctx context.Context) error {
		status, err := client.Status(ctx)
		if err != nil {
			return fmt.Errorf("the agent does not answer yet; %s says why: %w", filepath.Join(d.dir, "agent.log"), err)
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
	if err := d.stopAgent(); err != nil {
		return err
	}
	if _, err := os.Stat(d.agentDir()); err == nil {
		if _, err := run(ctx, "", d.pleach, "reset", "--yes", "--dir", d.agentDir(),
			"--pod-log-dir", d.logs(), "--cgroup-root", cgroupRoot, "--bridge", bridge); err != nil {
			return err
		}
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

func (d *demo) stopAgent() error {
	data, err := os.ReadFile(d.pidFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return fmt.Errorf("%s: %w", d.pidFile(), err)
	}
	if err := d.end(pid); err != nil {
		return err
	}
	return os.Remove(d.pidFile())
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

// freePort returns a loopback address that nobody listens on.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // returns at once
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func copyFile(from, to string) error {
	body, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, body, 0o755)
}

func step(text string) { fmt.Println("==> " + text) }
