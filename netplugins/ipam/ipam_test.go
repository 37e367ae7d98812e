package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

func store(t *testing.T, cidr string) Store {
	t.Helper()
	return Store{Dir: filepath.Join(t.TempDir(), "leases"), Range: netip.MustParsePrefix(cidr)}
}

func owner(i int) Owner { return Owner{Sandbox: fmt.Sprintf("pod-%d", i), Ifname: "eth0"} }

func acquire(t *testing.T, s Store, o Owner) string {
	t.Helper()
	a, err := s.Acquire(o)
	if err != nil {
		t.Fatal(err)
	}
	return a.String()
}

func TestRange(t *testing.T) {
	s := store(t, "10.0.0.0/29")
	for i := range 5 {
		if got, want := acquire(t, s, owner(i)), fmt.Sprintf("10.0.0.%d", i+2); got != want {
			t.Errorf("address %d: got %s, want %s", i, got, want)
		}
	}
	if _, err := s.Acquire(owner(9)); !errors.Is(err, ErrExhausted) {
		t.Errorf("full range: got %v, want ErrExhausted", err)
	}
	if got := acquire(t, s, owner(3)); got != "10.0.0.5" {
		t.Errorf("the same owner: got %s, want its own 10.0.0.5", got)
	}
}

func TestReleasedAddressesWaitTheirTurn(t *testing.T) {
	s := store(t, "10.0.0.0/29")
	for i := range 20 {
		got, want := acquire(t, s, owner(i)), fmt.Sprintf("10.0.0.%d", i%5+2)
		if got != want {
			t.Errorf("turn %d: got %s, want %s", i, got, want)
		}
		if err := s.Release(owner(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Release(owner(0)); err != nil {
		t.Errorf("release of nothing: %v", err)
	}
}

func TestGC(t *testing.T) {
	s := store(t, "10.0.0.0/24")
	for i := range 4 {
		acquire(t, s, owner(i))
	}
	// what a power cut may leave
	if err := os.WriteFile(filepath.Join(s.Dir, "10.0.0.77"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	live := map[string]bool{"pod-1": true, "pod-9": true}
	if err := s.GC(live, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if leases, err := s.Leases(); err != nil || len(leases) != 5 {
		t.Errorf("young leases: got %v, %v, want all of them", leases, err)
	}
	if err := s.GC(live, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	leases, err := s.Leases()
	if err != nil {
		t.Fatal(err)
	}
	if len(leases) != 1 || leases[netip.MustParseAddr("10.0.0.3")].Owner != owner(1) {
		t.Errorf("got %v, want pod-1 with 10.0.0.3 alone", leases)
	}
}

func TestNarrowRangeAndBadLastAddress(t *testing.T) {
	if _, err := store(t, "10.0.0.0/32").Acquire(owner(1)); !errors.Is(err, ErrExhausted) {
		t.Errorf("/32: got %v, want ErrExhausted", err)
	}
	s := store(t, "255.255.255.248/29")
	for i := range 5 {
		acquire(t, s, owner(i))
	}
	if err := s.put(lastFile, "no address"); err != nil {
		t.Fatal(err)
	}
	if err := s.Release(owner(0)); err != nil {
		t.Fatal(err)
	}
	if got := acquire(t, s, owner(7)); got != "255.255.255.250" {
		t.Errorf("got %s", got)
	}
}

func TestConcurrentAcquire(t *testing.T) {
	s := store(t, "10.0.0.0/24")
	var mu sync.Mutex
	seen := map[string]int{}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			a, err := s.Acquire(owner(i))
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			seen[a.String()]++
		})
	}
	wg.Wait()
	if len(seen) != 100 {
		t.Errorf("100 owners got %d addresses", len(seen))
	}
}
