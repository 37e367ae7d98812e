package lab_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pleachdev/pleach/e2e/lab"
	"github.com/pleachdev/pleach/e2e/needs"
)

// TestLabInAProcess is not a test but the process that TestLabEndsWithItsProcess ends: it opens a
// lab with a node and a process, says what it made, and waits.
func TestLabInAProcess(t *testing.T) {
	if os.Getenv("PLEACH_LAB_CHILD") == "" {
		return
	}
	l, list := nodes(t, 1)
	if _, err := list[0].StartAgent("sleep", "1000"); err != nil {
		t.Fatal(err)
	}
	outside, err := l.Start("outside", exec.Command("sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("lab", l.Name, list[0].PID(), list[0].Agent().PID(), outside.PID())
	time.Sleep(time.Minute)
}

func TestLabEndsWithItsProcess(t *testing.T) {
	needs.Root(t)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(sig.String(), func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestLabInAProcess$")
			cmd.Env = append(os.Environ(), "PLEACH_LAB_CHILD=1")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var name string
			pids := make([]int, 3)
			for lines := bufio.NewScanner(out); name == "" && lines.Scan(); {
				_, _ = fmt.Sscanf(lines.Text(), "lab %s %d %d %d", &name, &pids[0], &pids[1], &pids[2])
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			err = cmd.Wait()
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.Sys().(syscall.WaitStatus).Signal() != sig {
				t.Errorf("the process ended with %v, want by %v", err, sig)
			}
			if name == "" {
				t.Fatal("the process opened no lab")
			}
			if sig == syscall.SIGKILL {
				lab.Wait(t, 10*time.Second, "processes end with the lab's", func(context.Context) error {
					for _, pid := range pids {
						if syscall.Kill(pid, 0) == nil {
							return fmt.Errorf("process %d is there", pid)
						}
					}
					return nil
				})
				if err := lab.Sweep(); err != nil {
					t.Fatal(err)
				}
			}
			left, err := lab.Leftovers(name)
			if err != nil {
				t.Fatal(err)
			}
			if len(left) > 0 {
				t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
			}
			if _, err := os.Stat(os.TempDir() + "/" + name); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the lab's directory is left behind (%v)", err)
			}
		})
	}
}

func TestLeftoversAreFound(t *testing.T) {
	l, list := nodes(t, 1)
	if _, err := list[0].Run("sleeper", "sleep", "1000"); err != nil {
		t.Fatal(err)
	}
	left, err := lab.Leftovers(l.Name)
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(left, "\n")
	for _, want := range []string{"sleep 1000", "cgroup /"} {
		if !strings.Contains(all, want) {
			t.Errorf("a running lab shows no %q in:\n%s", want, all)
		}
	}
}

func TestWaitTellsWhatItSaw(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	asked := 0
	err := lab.Poll(ctx, func(context.Context) error {
		asked++
		return fmt.Errorf("%d of 3 pods ready", min(asked/2, 2))
	})
	for _, want := range []string{"0 of 3", "1 of 3", "2 of 3", "not within 0.1 s"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %q, want it to tell %q", err, want)
		}
	}
	if err := lab.Poll(t.Context(), func(context.Context) error { return nil }); err != nil {
		t.Error(err)
	}
}

func TestUsageOfThisProcess(t *testing.T) {
	u, err := lab.UsageOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if u.PSS <= 0 || u.Private > u.PSS || u.PSS > u.RSS || u.Parent != os.Getppid() || !strings.HasSuffix(u.Name(), ".test") {
		t.Errorf("usage of the test: %+v", u)
	}
}
