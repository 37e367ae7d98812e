package gitstore

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
)

const (
	// maxPacks is how many packs may lie side by side. Every look-up asks each of them.
	maxPacks = 16
	// maxMergeBytes bounds what one merge holds in memory; larger packs are left as they are.
	maxMergeBytes = 32 << 20
	// deltaWindow is git's own.
	deltaWindow = 10
)

type packOnDisk struct {
	base string // path without .pack
	size int64
}

// compactLocked merges the small packs that fetches leave behind. As with git repack --geometric, a
// pack that stays is at least twice as large as all smaller ones together, so that an object is
// copied a number of times that grows with the logarithm of the store only. Nothing is dropped: a
// commit that the branch has left may be the one that runs.
func (s *Store) compactLocked() error {
	dir := filepath.Join(s.dir, "objects", "pack")
	packs, err := listPacks(dir)
	if err != nil || len(packs) <= maxPacks {
		return err
	}
	slices.SortFunc(packs, func(a, b packOnDisk) int { return cmp.Or(cmp.Compare(a.size, b.size), cmp.Compare(a.base, b.base)) })
	merge, sum := 0, int64(0)
	for i, p := range packs {
		if sum+p.size > maxMergeBytes {
			break
		}
		if p.size < 2*sum {
			merge = i + 1
		}
		sum += p.size
	}
	if merge < 2 {
		return nil
	}
	packs = packs[:merge]
	var objects []plumbing.Hash
	for _, p := range packs {
		ids, err := packedObjects(p.base + ".idx")
		if err != nil {
			return err
		}
		objects = append(objects, ids...)
	}
	plumbing.HashesSort(objects)
	objects = slices.Compact(objects)
	f, err := os.CreateTemp(dir, "tmp_merge_")
	if err != nil {
		return err
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(f.Name()) // gone by its new name, or swept later
	}()
	if _, err := packfile.NewEncoder(f, s.objects, false).Encode(objects, deltaWindow); err != nil {
		return fmt.Errorf("git store: merge packs: %w", err)
	}
	base, err := s.installLocked(f)
	if err != nil {
		return fmt.Errorf("git store: merge packs: %w", err)
	}
	for _, p := range packs {
		if p.base == base {
			continue
		}
		// The pack goes first: without it the index is swept.
		if err := errors.Join(os.Remove(p.base+".pack"), os.Remove(p.base+".idx")); err != nil {
			return err
		}
	}
	s.reopenLocked()
	return nil
}

func listPacks(dir string) ([]packOnDisk, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var packs []packOnDisk
	for _, e := range entries {
		base, ok := strings.CutSuffix(e.Name(), ".pack")
		if !ok {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		packs = append(packs, packOnDisk{filepath.Join(dir, base), info.Size()})
	}
	return packs, nil
}

func packedObjects(path string) ([]plumbing.Hash, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	index := idxfile.NewMemoryIndex()
	if err := idxfile.NewDecoder(f).Decode(index); err != nil {
		return nil, fmt.Errorf("git store: %s: %w", filepath.Base(path), err)
	}
	entries, err := index.Entries()
	if err != nil {
		return nil, err
	}
	var ids []plumbing.Hash
	for {
		e, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return ids, nil
		}
		if err != nil {
			return nil, err
		}
		ids = append(ids, e.Hash)
	}
}
