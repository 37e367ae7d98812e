package volumes

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"syscall"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Mounts changes the mount table. [Kernel] does; tests without root use another.
type Mounts interface {
	// Tmpfs mounts a tmpfs of at most size bytes (0: the kernel's own bound) at dir, unless one is
	// there already; fresh tells which.
	Tmpfs(dir string, size int64) (fresh bool, err error)
	// Bind makes an open file or directory appear at target, which must exist.
	Bind(source *os.File, target string) error
	// Unmount undoes every mount at target; none is no error.
	Unmount(target string) error
	// UnmountBelow undoes every mount at or below dir. After a nil error there is none.
	UnmountBelow(dir string) error
}

// Kernel is the mount table of this process' mount namespace.
type Kernel struct{}

var _ Mounts = Kernel{}

// Tmpfs implements [Mounts].
func (Kernel) Tmpfs(dir string, size int64) (bool, error) {
	at, err := mountsBelow(dir)
	if err != nil {
		return false, err
	}
	if slices.Contains(at, dir) {
		return false, nil
	}
	options := "mode=0777"
	if size > 0 {
		options += ",size=" + strconv.FormatInt(size, 10)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return false, fmt.Errorf("mount tmpfs on %s: %w", dir, err)
	}
	return true, nil
}

// Bind implements [Mounts].
func (Kernel) Bind(source *os.File, target string) error {
	from := fmt.Sprintf("/proc/self/fd/%d", source.Fd())
	if err := unix.Mount(from, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s on %s: %w", source.Name(), target, err)
	}
	return nil
}

// Unmount implements [Mounts].
func (Kernel) Unmount(target string) error {
	for {
		err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		default:
			return fmt.Errorf("unmount %s: %w", target, err)
		}
	}
}

// UnmountBelow implements [Mounts].
func (Kernel) UnmountBelow(dir string) error {
	at, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	slices.Reverse(at) // mounts are listed in the order they were made: inner ones last
	for _, target := range at {
		if err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", target, err)
		}
	}
	return nil
}

func mountsBelow(dir string) ([]string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return nil, err
	}
	at := make([]string, 0, len(mounts))
	for _, m := range mounts {
		at = append(at, m.Mountpoint)
	}
	return at, nil
}

// openAt opens a file or directory without following symlinks out of the volume and without
// waiting for the other end of a FIFO.
func openAt(volume *os.Root, path string) (*os.File, error) {
	return volume.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}
