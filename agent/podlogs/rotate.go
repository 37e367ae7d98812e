package podlogs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// Bounds of one container's log, as the kubelet's defaults.
const (
	MaxSize  = 10 << 20 // bytes of one file
	MaxFiles = 5
)

// Rotate gives a log that has grown beyond MaxSize a new file and removes parts beyond MaxFiles.
// reopen must make the runtime write to the path anew; when it fails, the old file is put back.
// A log that does not exist is left alone.
func Rotate(path string, reopen func() error) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	if info.Size() < MaxSize {
		return nil
	}
	files, err := parts(path)
	if err != nil {
		return err
	}
	for len(files) > MaxFiles-1 {
		if err := os.Remove(files[0]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("rotate log: %w", err)
		}
		files = files[1:]
	}
	rotated := path + "." + time.Now().UTC().Format("20060102-150405.000")
	if err := os.Rename(path, rotated); err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	if err := reopen(); err != nil {
		// The runtime still writes to the old file: under its old name it is found again.
		return fmt.Errorf("rotate log %s: %w", path, errors.Join(err, os.Rename(rotated, path)))
	}
	return nil
}
