package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pleachdev/pleach/agent/cgroups"
	"github.com/pleachdev/pleach/agent/containerd"
	"github.com/pleachdev/pleach/netplugins"
)

// Reset takes a node off its machine: its pods, containerd, the pod network, control groups, logs and
// the directory with everything in it, the node's keys included. No agent may run from the directory.
// Whatever fails, the rest is still done; repeating it is harmless.
func Reset(ctx context.Context, cfg Config) error {
	cfg.fill()
	if _, err := os.Stat(cfg.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock, err := lock(cfg.Dir)
	if err != nil {
		return fmt.Errorf("%w; stop it first", err)
	}
	runtime := &containerd.Supervisor{Dir: cfg.Dir, External: cfg.Containerd, Log: cfg.Log}
	errs := []error{runtime.Stop(ctx)}
	errs = append(errs,
		netplugins.Cleanup(ctx, netplugins.Desired{
			Bridge: cfg.Bridge, ConfDir: containerd.CNIConfDir(cfg.Dir), LeaseDir: leaseDir(cfg.Dir),
		}),
		removeGroups(cfg.CgroupRoot),
		removeLogs(cfg),
	)
	if err := errors.Join(errs...); err != nil {
		return errors.Join(err, lock.Close()) // the directory stays: it tells what is left
	}
	return errors.Join(removeDir(cfg.Dir), lock.Close())
}

// removeDir removes a directory with all that is in it. One that a disk is mounted at stays, empty.
func removeDir(dir string) error {
	err := os.RemoveAll(dir)
	if errors.Is(err, unix.EBUSY) {
		if left, readErr := os.ReadDir(dir); readErr == nil && len(left) == 0 {
			return nil
		}
	}
	return err
}

func removeGroups(root string) error {
	groups, err := cgroups.New(root)
	if err != nil {
		return err
	}
	return groups.RemoveRoot()
}

// removeLogs removes the log directories of this node's pods, by their records: another node may
// log to the same place.
func removeLogs(cfg Config) error {
	records, err := os.ReadDir(filepath.Join(cfg.Dir, "pods"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	logs, err2 := os.ReadDir(cfg.PodLogDir)
	if err2 != nil && !errors.Is(err2, fs.ErrNotExist) {
		err = errors.Join(err, err2)
	}
	errs := []error{err}
	for _, record := range records {
		for _, log := range logs {
			if strings.HasSuffix(log.Name(), "_"+record.Name()) {
				errs = append(errs, os.RemoveAll(filepath.Join(cfg.PodLogDir, log.Name())))
			}
		}
	}
	return errors.Join(errs...)
}

// leaseDir holds the addresses that pods of the node directory dir have.
func leaseDir(dir string) string { return filepath.Join(dir, "cni", "leases") }
