package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pleachdev/pleach/state/durable"
)

// bootEpoch is from when the seconds are counted at which disks were new.
var bootEpoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// nextBoot counts this start of the agent, on disk before it is used anywhere: a number that was ever
// published must not come again with other contents.
//
// A new disk begins at the second of the clock: so a machine that comes back under its name with an empty one
// is above what it was before, also where nobody can tell it how far that was. Where the clock is wrong, the
// others tell.
func nextBoot(dir string, now time.Time) (int64, error) {
	path := filepath.Join(dir, "boot")
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		data = strconv.AppendInt(nil, min(max(0, int64(now.Sub(bootEpoch)/time.Second)), math.MaxUint32/2), 10)
	case err != nil:
		return 0, fmt.Errorf("read the boot counter: %w", err)
	}
	last, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: want a whole number, got %q; write a number larger than any this node has published", path, data)
	}
	return last + 1, raiseBoot(dir, last+1)
}

// raiseBoot writes down that a life with number to has begun.
func raiseBoot(dir string, to int64) error {
	if err := durable.WriteFile(filepath.Join(dir, "boot"), []byte(strconv.FormatInt(to, 10)+"\n")); err != nil {
		return fmt.Errorf("write the boot counter: %w", err)
	}
	return nil
}

// lock keeps a second agent away from the directory. The lock goes with the process, however it ends.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: another agent runs from this directory", dir), f.Close())
	}
	return f, nil
}
