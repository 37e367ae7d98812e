package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// SmallDisk gives the node a disk of this many bytes of its own for /var/lib/pleach, in memory. It lasts as
// long as the lab, and stays when the node is switched off. Call it before anything is written there.
func (n *Node) SmallDisk(bytes int64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.first != nil || n.small {
		return fmt.Errorf("give node %s a small disk: it is on, or has one", n.Name)
	}
	disk := n.disk()
	if err := os.Mkdir(disk, 0o755); err != nil {
		return fmt.Errorf("give node %s a small disk: %w", n.Name, err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprintf("mode=755,size=%d", bytes)); err != nil {
		return fmt.Errorf("give node %s a small disk: %w", n.Name, err)
	}
	n.small = true
	return nil
}

// FillDisk takes all room that is left on the node's small disk, or gives it back. Whoever writes there
// then gets "no space left on device"; what they remove meanwhile is room again, for whoever is first.
func (n *Node) FillDisk(full bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.small {
		return fmt.Errorf("fill the disk of node %s: it has this machine's", n.Name)
	}
	path := filepath.Join(n.disk(), ".filled")
	if !full {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("empty the disk of node %s: %w", n.Name, err)
		}
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("fill the disk of node %s: %w", n.Name, err)
	}
	for block := make([]byte, 1<<20); len(block) > 0; {
		if _, err = f.Write(block); err != nil {
			if !errors.Is(err, unix.ENOSPC) {
				break
			}
			block, err = block[:len(block)/2], nil
		}
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("fill the disk of node %s: %w", n.Name, err)
	}
	return nil
}

func (n *Node) disk() string { return filepath.Join(n.Dir, "pleach") }

// unmountBelow unmounts what is mounted below a directory. Who still uses it keeps it until it ends.
func unmountBelow(dir string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH); err != nil {
			return &os.PathError{Op: "unmount", Path: m.Mountpoint, Err: err}
		}
	}
	return nil
}
