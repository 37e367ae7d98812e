package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Stop tears the node down: it removes every pod, ends the daemon and what is left of shims, and
// unmounts what lies in the node's directory. Images and files stay. It must not run beside Run, and
// does nothing to an external containerd. Whatever fails, the rest is still done.
func (s *Supervisor) Stop(ctx context.Context) error {
	if s.External != "" {
		return nil
	}
	p := newPaths(s.Dir)
	var errs []error
	proc, err := find(p)
	if err != nil {
		errs = append(errs, err)
	}
	if proc != nil {
		defer proc.close()
		errs = append(errs, removePods(ctx, p.socket), proc.stop(ctx, stopGrace))
	}
	errs = append(errs, endShims(ctx, p.bin), unmountBelow(s.Dir), os.RemoveAll(p.shims))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stop containerd: %w", err)
	}
	return nil
}

// removePods removes every pod sandbox, as many at a time as a machine bears.
func removePods(ctx context.Context, socket string) error {
	conn, err := dial(socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	cri := runtimeapi.NewRuntimeServiceClient(conn)
	list, err := cri.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("list pod sandboxes: %w", err)
	}
	var group errgroup.Group // without its context: one that fails must not stop the others
	group.SetLimit(4)
	for _, sandbox := range list.GetItems() {
		group.Go(func() error {
			id := sandbox.GetId()
			if _, err := cri.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
				return fmt.Errorf("stop pod sandbox %s: %w", id, err)
			}
			if _, err := cri.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
				return fmt.Errorf("remove pod sandbox %s: %w", id, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// endShims kills the processes that were started from the node binaries in bin, and their children:
// containers are children of their shim.
func endShims(ctx context.Context, bin string) error {
	for {
		pids := descendants(startedFrom(bin))
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill process %d: %w", pid, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes %v do not end: %w", pids, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func startedFrom(bin string) []int {
	var pids []int
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return nil
	}
	for _, l := range links {
		exe, err := os.Readlink(l)
		if err != nil || !strings.HasPrefix(exe, bin+"/") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(l))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// descendants returns pids and all their children, parents first.
func descendants(pids []int) []int {
	for i := 0; i < len(pids); i++ {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pids[i]))
		if err != nil {
			continue
		}
		for _, t := range tasks {
			b, err := os.ReadFile(t)
			if err != nil {
				continue // it ended
			}
			for f := range strings.FieldsSeq(string(b)) {
				if pid, err := strconv.Atoi(f); err == nil && !slices.Contains(pids, pid) {
					pids = append(pids, pid)
				}
			}
		}
	}
	return pids
}

// unmountBelow unmounts all that is mounted below dir, the innermost first.
func unmountBelow(dir string) error {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(m.Mountpoint, dir+"/"), false
	})
	if err != nil {
		return fmt.Errorf("mounts below %s: %w", dir, err)
	}
	var errs []error
	for _, m := range slices.Backward(mounts) {
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m.Mountpoint, err))
		}
	}
	return errors.Join(errs...)
}
