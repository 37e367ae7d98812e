package lab_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/pleachdev/pleach/e2e/lab"
)

// TestFreeze: what runs on the node stands still, goes on later, and can be switched off while it stands.
func TestFreeze(t *testing.T) {
	_, list := nodes(t, 1)
	n := list[0]
	if _, err := n.Run("count", "sh", "-c", "while :; do echo >>"+n.Dir+"/ticks; sleep 0.02; done"); err != nil {
		t.Fatal(err)
	}
	ticks := func() int64 {
		info, err := os.Stat(filepath.Join(n.Dir, "ticks"))
		if err != nil {
			return 0
		}
		return info.Size()
	}
	goesOn := func() {
		t.Helper()
		before := ticks()
		lab.Wait(t, 20*time.Second, "the process goes on", func(context.Context) error {
			if now := ticks(); now <= before {
				return fmt.Errorf("%d ticks", now)
			}
			return nil
		})
	}
	goesOn()
	if err := n.Freeze(true); err != nil {
		t.Fatal(err)
	}
	before := ticks()
	lab.Hold(t, 300*time.Millisecond, "it stands still", func(context.Context) error {
		if ticks() != before {
			return errors.New("it ran on")
		}
		return nil
	})
	if err := n.Freeze(false); err != nil {
		t.Fatal(err)
	}
	goesOn()
	if err := n.Freeze(true); err != nil {
		t.Fatal(err)
	}
	if err := n.PowerOff(); err != nil {
		t.Fatal(err)
	}
}

// TestStarve: a busy node gets the share that it was given.
func TestStarve(t *testing.T) {
	_, list := nodes(t, 1)
	n := list[0]
	if err := n.Starve(10); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Run("busy", "sh", "-c", "while :; do :; done"); err != nil {
		t.Fatal(err)
	}
	before, err := n.CPU()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	time.Sleep(time.Second)
	after, err := n.CPU()
	if err != nil {
		t.Fatal(err)
	}
	if used, wall := after-before, time.Since(began); used > wall/5 {
		t.Errorf("used %s in %s with a tenth of a processor", used, wall)
	}
	if err := n.Starve(0); err != nil {
		t.Fatal(err)
	}
}

// TestFullDisk: what writes to the node's disk fails while that is full, what reads does not, and the rest of
// the machine has room.
func TestFullDisk(t *testing.T) {
	l, list := nodes(t, 1)
	n := list[0]
	if err := n.PowerOff(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(n.Dir, "pleach")); err != nil {
		t.Fatal(err) // made, and left empty, by its first start
	}
	if err := n.SmallDisk(4 << 20); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	write := func(name string) error {
		_, err := n.Exec(t.Context(), "sh", "-c", "echo something >/var/lib/pleach/"+name)
		return err
	}
	if err := write("before"); err != nil {
		t.Fatal(err)
	}
	if err := n.FillDisk(true); err != nil {
		t.Fatal(err)
	}
	if err := write("meanwhile"); err == nil {
		t.Error("wrote to a full disk")
	}
	if err := os.WriteFile(filepath.Join(n.Dir, "pleach", "outside"), []byte("something"), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("write to a full disk, from outside: %v", err)
	}
	if out, err := n.Exec(t.Context(), "cat", "/var/lib/pleach/before"); err != nil || string(out) != "something\n" {
		t.Errorf("read from a full disk: %q, %v", out, err)
	}
	if err := os.WriteFile(filepath.Join(l.Dir, "elsewhere"), make([]byte, 1<<20), 0o600); err != nil {
		t.Error(err)
	}
	if err := n.PowerOff(); err != nil {
		t.Fatal(err)
	}
	if err := n.FillDisk(false); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := write("after"); err != nil {
		t.Error(err)
	}
	if out, err := n.Exec(t.Context(), "cat", "/var/lib/pleach/before"); err != nil || string(out) != "something\n" {
		t.Errorf("the disk was lost with the power: %q, %v", out, err)
	}
}
