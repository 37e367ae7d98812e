package gitstore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/storage/memory"

	"github.com/pleachdev/pleach/state/durable"
)

const (
	maxObjectBytes = 64 << 20 // of one unpacked object
	maxTotalBytes  = 8 << 30  // of all unpacked objects of one pack
	maxObjects     = 4 << 20  // in one pack
)

// addPack takes a pack into the store: bounded, indexed with every object's id recomputed, on the
// disk, and only then visible. A crash before the last step leaves nothing but temporary files.
//
// A pack that was downloaded without naming what the store has is whole: it mends the store.
func (s *Store) addPack(pack *os.File, whole bool) error {
	if err := boundPack(pack); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir == "" {
		if _, err := pack.Seek(0, io.SeekStart); err != nil {
			return err
		}
		m, ok := s.objects.(*memory.Storage)
		if !ok {
			return errors.New("git store: not in memory")
		}
		s.damaged = false
		return packfile.UpdateObjectStorage(m, pack)
	}
	if _, err := s.installLocked(pack); err != nil {
		return err
	}
	s.damaged = s.damaged && !whole
	return s.compactLocked()
}

// installLocked indexes a pack, moves both into place and returns their path without the ending.
func (s *Store) installLocked(pack *os.File) (base string, err error) {
	if _, err := pack.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	checksum, index, err := indexPack(pack)
	if err != nil {
		return "", err
	}
	base = s.packPath(checksum)
	return base, s.placeLocked(base, pack, index)
}

// packPath is where a pack lies, without the ending.
func (s *Store) packPath(checksum plumbing.Hash) string {
	return filepath.Join(s.dir, "objects", "pack", "pack-"+checksum.String())
}

func (s *Store) placeLocked(base string, pack *os.File, index *idxfile.MemoryIndex) error {
	if err := pack.Sync(); err != nil {
		return err
	}
	// The index first: a pack without its index would be unreadable, an index without its pack is
	// swept away.
	if err := writeIndex(base+".idx", index); err != nil {
		return err
	}
	if err := os.Rename(pack.Name(), base+".pack"); err != nil {
		return err
	}
	if err := durable.SyncDir(filepath.Dir(base)); err != nil {
		return err
	}
	s.reopenLocked()
	return nil
}

// indexPack recomputes every object of a pack.
func indexPack(pack io.ReadSeeker) (plumbing.Hash, *idxfile.MemoryIndex, error) {
	w := new(idxfile.Writer)
	p, err := packfile.NewParser(packfile.NewScanner(pack), w)
	if err != nil {
		return plumbing.ZeroHash, nil, fmt.Errorf("pack: %w", err)
	}
	checksum, err := p.Parse()
	if err != nil {
		return plumbing.ZeroHash, nil, fmt.Errorf("pack: %w", err)
	}
	index, err := w.Index()
	if err != nil {
		return plumbing.ZeroHash, nil, fmt.Errorf("pack: %w", err)
	}
	return checksum, index, nil
}

func writeIndex(path string, index *idxfile.MemoryIndex) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "tmp_idx_")
	if err != nil {
		return err
	}
	_, err = idxfile.NewEncoder(f).Encode(index)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // sweep takes what stays
	}
	return err
}

// boundPack reads the pack's headers and refuses one that would unpack to more than the limits.
// Inflating never yields more than an object's header declares, so that the headers are enough;
// what a delta grows to stands at its beginning.
func boundPack(pack io.ReadSeeker) error {
	if _, err := pack.Seek(0, io.SeekStart); err != nil {
		return err
	}
	scanner := packfile.NewScanner(pack)
	_, count, err := scanner.Header()
	if err != nil {
		return fmt.Errorf("pack: %w", err)
	}
	if count > maxObjects {
		return fmt.Errorf("pack: %d objects are more than the limit of %d", count, maxObjects)
	}
	var total int64
	for range count {
		h, err := scanner.NextObjectHeader()
		if err != nil {
			return fmt.Errorf("pack: %w", err)
		}
		size := h.Length
		if size <= maxObjectBytes && h.Type.IsDelta() {
			var head prefix
			if _, _, err := scanner.NextObject(&head); err != nil {
				return fmt.Errorf("pack: %w", err)
			}
			size = max(size, head.deltaTarget())
		}
		total += size
		if size > maxObjectBytes || total > maxTotalBytes {
			return fmt.Errorf("pack: object at offset %d unpacks to %d bytes, in all %d: more than the limits of %d and %d",
				h.Offset, size, total, int64(maxObjectBytes), int64(maxTotalBytes))
		}
	}
	return nil
}

// prefix keeps the first bytes that are written to it.
type prefix struct{ buf []byte }

func (p *prefix) Write(b []byte) (int, error) {
	p.buf = append(p.buf, b[:min(len(b), 20-len(p.buf))]...)
	return len(b), nil
}

// deltaTarget is the second of the two sizes with which a delta begins (gitformat-pack).
func (p *prefix) deltaTarget() int64 {
	var size uint64
	rest := p.buf
	for range 2 {
		size = 0
		for shift := 0; len(rest) > 0 && shift < 63; shift += 7 {
			b := rest[0]
			rest = rest[1:]
			size |= uint64(b&0x7f) << shift
			if b&0x80 == 0 {
				break
			}
		}
	}
	return int64(min(size, 1<<62))
}
