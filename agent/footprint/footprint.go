// Package footprint gives memory back to the machine that a process needed for a while only.
package footprint

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Trim collects the garbage and returns free memory to the kernel, and gives up the pages of the
// program's own file that are mapped. Most of them were touched once, when the packages were
// initialized; the kernel cannot know, and counts them for the process as long as it lives. Those in
// use come back by page faults, from the page cache and without reading the disk, some hundred in all.
func Trim() error {
	debug.FreeOSMemory()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return err
	}
	var errs []error
	for line := range strings.Lines(string(maps)) {
		// Variables live in the writable part: what was written there is nowhere else.
		from, to, mode, path, ok := mapping(line)
		if !ok || path != program || strings.Contains(mode, "w") {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
			errs = append(errs, fmt.Errorf("give up %s of %s: %w", mode, path, errno))
		}
	}
	return errors.Join(errs...)
}

// mapping reads a line of /proc/<pid>/maps, see proc_pid_maps(5); ok is false when it has no path.
func mapping(line string) (from, to uintptr, mode, path string, ok bool) {
	fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 6)
	if len(fields) < 6 {
		return 0, 0, "", "", false
	}
	first, last, _ := strings.Cut(fields[0], "-")
	start, startErr := strconv.ParseUint(first, 16, 64)
	end, endErr := strconv.ParseUint(last, 16, 64)
	path = strings.TrimLeft(fields[5], " ")
	return uintptr(start), uintptr(end), fields[1], path, startErr == nil && endErr == nil && path != ""
}
