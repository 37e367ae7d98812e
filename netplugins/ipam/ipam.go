// Package ipam hands out the addresses of a node's podCIDR. A lease is a file named by its address;
// the plugin processes that containerd starts side by side agree through the file system alone.
//
// Leases are not synced to disk: they say nothing that outlives a power cut, after which no pod's
// network namespace exists. A lease that a power cut left empty belongs to nobody and [Store.GC]
// removes it. kill -9 loses nothing, because what was written is in the kernel.
package ipam

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrExhausted is returned by [Store.Acquire] when every address of the range is leased.
var ErrExhausted = errors.New("no free address")

// Settle is how long a sandbox may take from its address to its place in the runtime's list. The
// kubelet gives a sandbox 4 minutes in all.
const Settle = 5 * time.Minute

// Owner names who holds an address: one interface of one sandbox.
type Owner struct {
	Sandbox string // the CRI pod sandbox id, CNI_CONTAINERID
	Ifname  string // the interface inside the sandbox, "eth0"
}

func (o Owner) String() string { return o.Sandbox + " " + o.Ifname }

// Port is a port of the node that leads to a port of a pod.
type Port struct {
	HostIP   netip.Addr // IPv4; 0.0.0.0 for all of the node's
	Protocol uint8      // IANA's number: unix.IPPROTO_TCP, UDP or SCTP
	HostPort uint16
	Port     uint16 // of the pod
}

// Lease is one address in use. It says which ports of the node lead there, so that the rules for them
// can be written again from the leases alone.
type Lease struct {
	Owner
	Ports []Port
	Made  time.Time
}

// Store is a directory of leases. Its methods may be called by many processes at once.
type Store struct {
	Dir   string       // absolute; made when absent
	Range netip.Prefix // the node's podCIDR; network, gateway (first) and broadcast are never leased
}

// Gateway is the address of the node's own bridge in podCIDR: the first one.
func Gateway(podCIDR netip.Prefix) netip.Addr { return podCIDR.Masked().Addr().Next() }

// Acquire leases an address to o, with ports of the node that lead there, or returns the one that o
// has. It goes round the range, so that an address is not reused while others remember its last
// holder. The error is [ErrExhausted] when nothing is free.
func (s Store) Acquire(o Owner, ports ...Port) (netip.Addr, error) {
	var got netip.Addr
	err := s.locked(func() error {
		leases, err := s.leases()
		if err != nil {
			return err
		}
		for addr, lease := range leases {
			if lease.Owner == o && s.Range.Contains(addr) {
				got = addr
				return s.put(addr.String(), format(o, ports))
			}
		}
		addr, ok := s.next(leases)
		if !ok {
			return fmt.Errorf("%w in %s: %d are leased", ErrExhausted, s.Range, len(leases))
		}
		if err := s.put(addr.String(), format(o, ports)); err != nil {
			return err
		}
		got = addr
		return s.put(lastFile, addr.String())
	})
	if err != nil {
		return netip.Addr{}, fmt.Errorf("lease an address to %s: %w", o, err)
	}
	return got, nil
}

// Release gives back what o has. Having nothing is no error.
func (s Store) Release(o Owner) error {
	return s.remove(func(have Owner, _ time.Time) bool { return have == o })
}

// GC gives back every lease made before cutoff whose sandbox is not in live. A runtime lists a
// sandbox only some time after it asked for its address; the cutoff covers that time.
func (s Store) GC(live map[string]bool, cutoff time.Time) error {
	return s.remove(func(have Owner, made time.Time) bool {
		return !live[have.Sandbox] && made.Before(cutoff)
	})
}

// remove gives back the leases that gone says, of owner and time of making.
func (s Store) remove(gone func(Owner, time.Time) bool) error {
	err := s.locked(func() error {
		leases, err := s.leases()
		if err != nil {
			return err
		}
		for addr, lease := range leases {
			if !gone(lease.Owner, lease.Made) {
				continue
			}
			if err := os.Remove(filepath.Join(s.Dir, addr.String())); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("release addresses in %s: %w", s.Dir, err)
	}
	return nil
}

// Leases returns who holds what. A lease that cannot be read has the zero Owner.
func (s Store) Leases() (map[netip.Addr]Lease, error) {
	leases, err := s.leases()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return leases, err
}

// View calls f with who holds what. Nobody leases or gives back until f has returned.
func (s Store) View(f func(map[netip.Addr]Lease) error) error {
	return s.locked(func() error {
		leases, err := s.leases()
		if err != nil {
			return err
		}
		return f(leases)
	})
}

// Files in Dir beside the leases.
const (
	lockFile = "lock"
	lastFile = "last" // the address leased most recently
)

func (s Store) leases() (map[netip.Addr]Lease, error) {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return nil, err
	}
	leases := make(map[netip.Addr]Lease, len(entries))
	for _, e := range entries {
		addr, err := netip.ParseAddr(e.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join(s.Dir, e.Name()))
		if err != nil {
			return nil, err
		}
		fi, err := e.Info()
		if err != nil {
			return nil, err
		}
		lease := parse(string(b))
		lease.Made = fi.ModTime()
		leases[addr] = lease
	}
	return leases, nil
}

// format writes a lease as its file has it: the owner, and a line for each port.
func format(o Owner, ports []Port) string {
	var b strings.Builder
	b.WriteString(o.String())
	for _, p := range ports {
		fmt.Fprintf(&b, "\n%s %d %d %d", p.HostIP, p.Protocol, p.HostPort, p.Port)
	}
	return b.String()
}

// parse reads what format wrote. Lines that make no sense count as absent.
func parse(file string) Lease {
	lines := strings.Split(strings.TrimSpace(file), "\n")
	var l Lease
	l.Sandbox, l.Ifname, _ = strings.Cut(lines[0], " ")
	for _, line := range lines[1:] {
		var host string
		var p Port
		if _, err := fmt.Sscanf(line, "%s %d %d %d", &host, &p.Protocol, &p.HostPort, &p.Port); err != nil {
			continue
		}
		var err error
		if p.HostIP, err = netip.ParseAddr(host); err == nil && p.HostIP.Is4() {
			l.Ports = append(l.Ports, p)
		}
	}
	return l
}

// next is the first free address after the one leased most recently, round the range.
func (s Store) next(leases map[netip.Addr]Lease) (netip.Addr, bool) {
	prefix := s.Range.Masked()
	gateway := Gateway(prefix)
	first := gateway.Next()
	start := first
	if b, err := os.ReadFile(filepath.Join(s.Dir, lastFile)); err == nil {
		if last, err := netip.ParseAddr(strings.TrimSpace(string(b))); err == nil {
			start = last.Next()
		}
	}
	usable := func(a netip.Addr) bool {
		// the last address of the range is its broadcast address
		return prefix.Contains(a) && prefix.Contains(a.Next()) && a.Compare(first) >= 0
	}
	if !usable(start) {
		start = first
	}
	for a := start; ; {
		if !usable(a) {
			return netip.Addr{}, false // a range without any usable address
		}
		if _, taken := leases[a]; !taken {
			return a, true
		}
		if a = a.Next(); !usable(a) {
			a = first
		}
		if a == start {
			return netip.Addr{}, false
		}
	}
}

// put writes a whole file or none.
func (s Store) put(name, content string) error {
	tmp := filepath.Join(s.Dir, ".new") // one writer at a time holds the lock
	if err := os.WriteFile(tmp, []byte(content+"\n"), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(s.Dir, name))
}

// locked runs f while no other process changes the directory.
func (s Store) locked(f func() error) error {
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(s.Dir, lockFile), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close() // which also unlocks
	for {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX)
		if err == nil {
			return f()
		}
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
