package durable_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/pleachdev/pleach/state/durable"
)

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "boot")
	// What a crash in the middle of a write leaves behind.
	if err := os.WriteFile(filepath.Join(dir, ".boot.tmp"), []byte("a long half of something"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1\n", "22\n", "3\n", ""} {
		if err := durable.WriteFile(path, []byte(want)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("read %q, %v; want %q", got, err, want)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("the directory holds %v, want the one file", entries)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode() != fs.FileMode(0o600) {
		t.Errorf("mode %v, %v; want 0600", fi.Mode(), err)
	}
}

func TestWriteFileFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(path, "inside"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(path, []byte("x")); err == nil {
		t.Error("a directory was replaced by a file")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("the directory holds %v, %v; want what was there before", entries, err)
	}
	if err := durable.WriteFile(filepath.Join(dir, "none", "file"), nil); err == nil {
		t.Error("no error for a directory that does not exist")
	}
}
