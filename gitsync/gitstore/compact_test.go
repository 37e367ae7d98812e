package gitstore_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// Every fetch brings a pack. Their number stays bounded, and with it the time of a fetch. FETCHES=200
// measures a longer run.
func TestPacksStayFew(t *testing.T) {
	fetches := 20
	if n, _ := fmt.Sscan(os.Getenv("FETCHES"), &fetches); n == 1 {
		t.Logf("%d fetches", fetches)
	}
	l := newLab(t)
	files := map[string]string{}
	for i := range 100 {
		files[fmt.Sprintf("apps/a%d/deployment.yaml", i)] = fmt.Sprintf("kind: Deployment\nname: a%d\n", i)
	}
	first := l.Commit("first", files)
	l.Push()
	s := openStore(t)
	var times []time.Duration
	head := first
	for i := range fetches {
		head = l.Commit(fmt.Sprintf("change %d", i), map[string]string{"apps/a1/deployment.yaml": fmt.Sprintf("replicas: %d\n", i)})
		l.Push()
		start := time.Now()
		if _, err := s.Fetch(t.Context(), l.HTTP, mainRef); err != nil {
			t.Fatal(err)
		}
		times = append(times, time.Since(start))
	}
	packs, err := filepath.Glob(filepath.Join(s.Dir(), "objects", "pack", "*.pack"))
	if err != nil || len(packs) > 24 {
		t.Errorf("%d packs after %d fetches, %v", len(packs), fetches, err)
	}
	all, err := os.ReadDir(filepath.Join(s.Dir(), "objects", "pack"))
	if err != nil || len(all) != 2*len(packs) {
		t.Errorf("%d files for %d packs, %v", len(all), len(packs), err)
	}
	if c, err := s.Commit(head); err != nil || c.Level != int64(fetches)+1 {
		t.Errorf("head %+v, %v", c, err)
	}
	l.Git(s.Dir(), "fsck", "--strict", "--no-dangling", head)
	quarter := len(times) / 4
	early, late := slices.Clone(times[:quarter]), slices.Clone(times[len(times)-quarter:])
	slices.Sort(early)
	slices.Sort(late)
	t.Logf("p50 of the first quarter %v, of the last %v, max %v; %d packs", early[quarter/2], late[quarter/2], slices.Max(times), len(packs))
	again := openStore(t) // a fresh node gets it all at once
	if got, err := again.Fetch(t.Context(), l.HTTP, mainRef); err != nil || got != head {
		t.Errorf("fresh store: %s, %v", got, err)
	}
}
