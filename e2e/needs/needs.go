// Package needs lets a test say what it cannot do without. What is lacking skips the test with a
// printed reason; with PLEACH_NO_SKIP=1, as in CI, it fails instead.
package needs

import (
	"os"
	"os/exec"
	"testing"
)

// Root asks for uid 0. With PLEACH_TESTS=unit such tests are left to a run of their own, so that a
// root's unit tests are the same as anybody's.
func Root(t testing.TB) {
	t.Helper()
	if os.Getenv("PLEACH_TESTS") == "unit" {
		t.Skip("skipped: needs root, and only unit tests are asked for")
	}
	if os.Geteuid() != 0 {
		Lacking(t, "root")
	}
}

// Command asks for a program on PATH.
func Command(t testing.TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		Lacking(t, "the program "+name)
	}
}

// Lacking skips the test, or fails it, for want of what.
func Lacking(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("PLEACH_NO_SKIP") == "1" {
		t.Fatalf("needs %s, and PLEACH_NO_SKIP=1 forbids skipping", what)
	}
	t.Skipf("skipped: needs %s", what)
}
