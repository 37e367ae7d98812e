package lab

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// namespace is a network namespace, held by an open file: it has no name and goes when the last
// process that uses it does.
type namespace struct{ file *os.File }

// newNamespace makes an empty network namespace.
func newNamespace() (*namespace, error) {
	var file *os.File
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		var err error
		file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return &namespace{file}, err
}

// namespaceOf opens the network namespace of a process.
func namespaceOf(pid int) (*namespace, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	return &namespace{file}, err
}

func (n *namespace) fd() int { return int(n.file.Fd()) }

// do runs f on a thread that is inside the namespace. Sockets that f makes stay there. Goroutines
// that f starts are outside.
func (n *namespace) do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(n.fd(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

// onThread runs f on a thread of its own, which is thrown away afterwards with whatever f did to it.
func onThread(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		result <- f()
	}()
	return <-result
}
