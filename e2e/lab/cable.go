package lab

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// LongCable gives the node, which is off, a cable that can delay: see [Underlay.Delay]. This process then
// carries each of its frames, which costs some of the speed.
func (n *Node) LongCable() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.first != nil {
		return fmt.Errorf("give node %s a long cable: it is on", n.Name)
	}
	n.long = true
	return nil
}

// Delay makes every frame that a node with a long cable sends or gets so much later, and loses none.
func (u *Underlay) Delay(n *Node, by time.Duration) error {
	if !n.long {
		return fmt.Errorf("delay what %s sends: it has no long cable", n.Name)
	}
	return u.change(func(f *faults) { f.delay[n.Name] = by })
}

// wire is a cable between two TAP devices, one in a node and one at the bridge.
type wire struct {
	ends    [2]*os.File
	delay   atomic.Int64 // nanoseconds, each way
	carried sync.WaitGroup
}

// layWire makes both devices. They live as long as the wire.
func layWire(inside *namespace, name string, outside *namespace, cable string) (*wire, error) {
	a, err := tap(inside, name)
	if err != nil {
		return nil, err
	}
	b, err := tap(outside, cable)
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	w := &wire{ends: [2]*os.File{a, b}}
	w.carry(a, b)
	w.carry(b, a)
	return w, nil
}

func tap(ns *namespace, name string) (file *os.File, err error) {
	err = ns.do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
		}
		request, err := unix.NewIfreq(name)
		if err == nil {
			request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("make device %s: %w", name, err), unix.Close(fd))
		}
		file = os.NewFile(uintptr(fd), name)
		return nil
	})
	return file, err
}

type frame struct {
	due  time.Time
	data []byte
}

// carry brings frames from one end to the other, in their order, until the wire is cut.
func (w *wire) carry(from, to *os.File) {
	under := make(chan frame, 4096) // on their way
	w.carried.Go(func() {
		defer close(under)
		buffer := make([]byte, 64<<10)
		for {
			n, err := from.Read(buffer)
			if err != nil {
				return // the wire is cut, or the node is off
			}
			under <- frame{time.Now().Add(time.Duration(w.delay.Load())), append([]byte(nil), buffer[:n]...)}
		}
	})
	w.carried.Go(func() {
		for f := range under {
			time.Sleep(time.Until(f.due))
			_, _ = to.Write(f.data) // a device that is down takes none, as a cable with nothing at its end
		}
	})
}

// cut ends the wire and its devices.
func (w *wire) cut() error {
	err := errors.Join(w.ends[0].Close(), w.ends[1].Close())
	w.carried.Wait()
	return err
}
