package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/pleachdev/pleach/e2e/needs"
)

// The demo starts its services by running itself once more, and people call it to break things.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-test.") {
		main()
		return
	}
	os.Exit(m.Run())
}

// Everything that the demo suggests works as printed; it can be brought up again while it is up; and
// when it is taken away nothing is left.
func TestEverySuggestionWorks(t *testing.T) {
	for _, nodes := range []int{1, 3} {
		t.Run(fmt.Sprintf("nodes=%d", nodes), func(t *testing.T) { everySuggestionWorks(t, nodes) })
	}
}

func everySuggestionWorks(t *testing.T, nodes int) {
	needs.Root(t)
	for _, program := range []string{"git", "ssh-keygen", "curl", "bash"} {
		needs.Command(t, program)
	}
	t.Chdir("../..")
	pleach, err := filepath.Abs("bin/pleach")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(pleach); err != nil {
		needs.Lacking(t, "bin/pleach, which make build makes")
	}
	dir, err := os.MkdirTemp("", "pleach-demo") //nolint:usetesting // paths of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	d := &demo{dir: dir, pleach: pleach, nodes: nodes}
	t.Cleanup(func() {
		if t.Failed() {
			logs, _ := filepath.Glob(filepath.Join(dir, "*.log"))
			inLab, _ := filepath.Glob(filepath.Join(dir, "*", "*-agent.log"))
			for _, log := range append(logs, inLab...) {
				body, _ := os.ReadFile(log)
				t.Logf("%s:\n%s", log, body[max(0, len(body)-4000):])
			}
		}
		if err := d.down(t.Context()); err != nil && !t.Failed() {
			t.Error(err)
		}
	})
	if err := d.up(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, up, err := d.services()
	if err != nil || !up {
		t.Fatalf("the services are not up: %v", err)
	}

	address, err := run(t.Context(), "", pleach, "--dir", s.Nodes[0].Dir, "get", "pods", "-o", "jsonpath={.items[0].status.podIP}")
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	script.WriteString("set -e\nshopt -s expand_aliases\n")
	for _, group := range d.suggestions(s) {
		for _, c := range group.commands {
			line := c.line
			if strings.HasPrefix(line, "timeout ") {
				line += " || test $? = 124" // ended by timeout, as meant
			}
			script.WriteString("echo '> " + strings.ReplaceAll(line, "'", `'\''`) + "'\n" + line + "\n")
			if strings.Contains(line, "git push") {
				script.WriteString("sleep 3\n") // a person reads meanwhile
			}
		}
		if group.title == "Revert" || group.title == "Cut off" {
			script.WriteString("pleach get pods\necho addresses $(pleach get pods -o jsonpath='{.items[*].status.podIP}')\n")
		}
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script.String())
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "TERM=dumb")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		"3/3", `"version": "1.0"`, // Look
		"ImagePull",                           // Break: what the rollout waits for
		"is not signed",                       // Attack
		"# demo",                              // Status
		`Good "git" signature for node/demo-`, // its signature
	} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("the session does not show %q:\n%s", want, out)
		}
	}
	addresses := "" // where the pods were at last
	for line := range strings.Lines(string(out)) {
		if rest, ok := strings.CutPrefix(line, "addresses "); ok {
			addresses = rest
		}
	}
	if n := len(strings.Fields(addresses)); n != 5 {
		t.Errorf("at last there are %d pods, want 5: %s", n, addresses)
	}
	// Of one node the agent is dead; the pods are not.
	for pod := range strings.FieldsSeq(addresses) {
		body, err := run(t.Context(), "", "curl", "-sS", "--max-time", "5", "http://"+pod+":9898/version")
		if err != nil || !strings.Contains(body, "2.0") {
			t.Errorf("pod %s answers %q, %v", pod, body, err)
		}
	}
	if nodes == 1 && strings.Contains(addresses, address+" ") {
		t.Errorf("the first pod's address %s was not given to another, so the rollout replaced nothing", address)
	}

	// A second "make demo" starts the agent again.
	if err := d.up(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.down(t.Context()); err != nil {
		t.Fatal(err)
	}
	leftNothing(t, d)
}

func leftNothing(t *testing.T, d *demo) {
	t.Helper()
	if _, err := os.Stat(d.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there", d.dir)
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		if body, err := os.ReadFile(line); err == nil && bytes.Contains(body, []byte(d.dir)) {
			t.Errorf("a process is left: %s", bytes.ReplaceAll(body, []byte{0}, []byte{' '}))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(mounts, []byte(d.dir)) {
		t.Error("a mount is left")
	}
	if _, err := netlink.LinkByName(bridge); err == nil {
		t.Errorf("the bridge %s is left", bridge)
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/*" + cgroupRoot)
	if err != nil {
		t.Fatal(err)
	}
	if len(groups) > 0 {
		t.Errorf("control groups are left: %v", groups)
	}
}
