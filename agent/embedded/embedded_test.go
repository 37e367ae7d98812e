package embedded

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/klauspost/compress/zstd"

	"github.com/pleachdev/pleach/e2e/needs"
)

// pack makes assets of programs that hold content.
func pack(t *testing.T, content []byte) fs.FS {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	packed := z.EncodeAll(content, nil)
	from := fstest.MapFS{"assets/README.md": {Data: []byte("read me")}}
	for _, name := range []string{Shim, CNI, Runc, Pause} {
		from["assets/"+name+".zst"] = &fstest.MapFile{Data: packed}
	}
	return from
}

func mustExtract(t *testing.T, from fs.FS, dir string) Programs {
	t.Helper()
	p, err := extract(from, dir)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestExtract(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bin")
	one := mustExtract(t, pack(t, []byte("one")), dir)
	for _, name := range []string{Shim, CNI, Runc, Pause} {
		b, err := os.ReadFile(one.Path(name))
		if err != nil || string(b) != "one" {
			t.Errorf("%s: got %q, %v", name, b, err)
		}
		if fi, err := os.Stat(one.Path(name)); err != nil || fi.Mode().Perm() != 0o755 {
			t.Errorf("%s: mode %v, %v", name, fi.Mode(), err)
		}
	}
	if again := mustExtract(t, pack(t, []byte("one")), dir); again != one {
		t.Errorf("the same content: got %v, want %v", again, one)
	}
	two := mustExtract(t, pack(t, []byte("two")), dir)
	if two.Dir != one.Dir || two.Version == one.Version {
		t.Errorf("want the same way to another version, got %v and %v", one, two)
	}
	if b, err := os.ReadFile(one.Path(Runc)); err != nil || string(b) != "two" {
		t.Errorf("the old path leads to %q, %v, want the new version", b, err)
	}
}

func TestMissing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bin")
	_, err := extract(fstest.MapFS{"assets/README.md": {}}, dir)
	if !errors.Is(err, ErrMissing) {
		t.Errorf("got %v, want ErrMissing", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was written: %v", err)
	}
}

func TestDamagedAssetLeavesNothing(t *testing.T) {
	from := pack(t, []byte("one")).(fstest.MapFS)
	from["assets/"+Runc+".zst"].Data = []byte("not zstd")
	dir := filepath.Join(t.TempDir(), "bin")
	if _, err := extract(from, dir); err == nil {
		t.Fatal("want an error")
	}
	if left := names(t, dir); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestPruneKeepsWhatRuns(t *testing.T) {
	needs.Command(t, "sleep")
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "bin")
	unused := mustExtract(t, pack(t, []byte("unused")), dir)
	running := mustExtract(t, pack(t, program), dir)
	cmd := exec.CommandContext(t.Context(), running.Path(Shim), "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	now := mustExtract(t, pack(t, []byte("now")), dir)
	if err := os.Mkdir(filepath.Join(dir, ".new-crashed"), 0o755); err != nil {
		t.Fatal(err)
	}

	prune := func(want ...string) {
		t.Helper()
		if err := now.Prune(); err != nil {
			t.Fatal(err)
		}
		want = append(want, "current")
		slices.Sort(want)
		if got := names(t, dir); !slices.Equal(got, want) {
			t.Errorf("kept %v, want %v (unused: %s)", got, want, filepath.Base(unused.Version))
		}
	}
	prune(filepath.Base(running.Version), filepath.Base(now.Version))
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	prune(filepath.Base(now.Version))
}
