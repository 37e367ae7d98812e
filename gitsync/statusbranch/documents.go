package statusbranch

import (
	"crypto/ed25519"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/gossip"
)

// Keys returns the public keys of a node by its name, none when it is not enrolled.
type Keys func(node string) []ed25519.PublicKey

const (
	documentDir = "status"
	signedExt   = ".cbor" // what the node signed
	shownExt    = ".json" // the same for people
)

// DocumentPath is where a node's signed document stands in the branch.
func DocumentPath(node string) string { return path.Join(documentDir, node+signedExt) }

// nodeOf returns the node whose document, signed or shown, stands at a path.
func nodeOf(name, ext string) (node string, ok bool) {
	dir, file := path.Split(name)
	node, ok = strings.CutSuffix(file, ext)
	return node, ok && dir == documentDir+"/" && node != ""
}

// open verifies the document at a path: it must be of the node that the path names.
func open(name string, data []byte, keys Keys) (gossip.Sealed, error) {
	node, _ := nodeOf(name, signedExt)
	d, err := gossip.Open(data, keys)
	if err != nil {
		return d, fmt.Errorf("%s: %w", name, err)
	}
	if d.Node != node {
		return gossip.Sealed{}, fmt.Errorf("%s: is the document of node %s", name, d.Node)
	}
	return d, nil
}

// readDocuments reads the signed documents of a commit, by node; refused says why some do not count.
func readDocuments(tree *gitstore.Tree, keys Keys) (documents map[string]gossip.Sealed, refused []error, err error) {
	documents = map[string]gossip.Sealed{}
	names, err := fs.Glob(tree, documentDir+"/*"+signedExt)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		info, err := fs.Stat(tree, name)
		if err != nil {
			return nil, nil, err
		}
		if info.Size() > gossip.MaxSize {
			refused = append(refused, fmt.Errorf("%s: %d bytes, want at most %d", name, info.Size(), gossip.MaxSize))
			continue
		}
		data, err := tree.ReadFile(name)
		if err != nil {
			return nil, nil, err
		}
		d, err := open(name, data, keys)
		if err != nil {
			refused = append(refused, err)
			continue
		}
		documents[d.Node] = d
	}
	return documents, refused, nil
}

// newest chooses what the branch is to hold of every node: of what is wanted and what is there already,
// the newer document, with the form for people that was written with it. A courier that hears less than
// the one before it, so, takes nothing back. Documents that do not verify, and those of nodes that are
// not enrolled any more, are left out; refused says why of those that were wanted.
func (b *branch) newest(wanted map[string]gitstore.TreeEntry, files map[string][]byte) (documents map[string]gossip.Sealed, refused []error) {
	documents = map[string]gossip.Sealed{}
	for name, data := range files {
		if _, ok := nodeOf(name, signedExt); !ok {
			continue
		}
		d, err := open(name, data, b.cfg.Keys)
		if err != nil {
			refused = append(refused, err)
			delete(wanted, name)
			continue
		}
		documents[d.Node] = d
	}
	for node, there := range b.documents {
		if _, err := gossip.Open(there.Bytes(), b.cfg.Keys); err != nil {
			continue // not enrolled any more, or with another key
		}
		if mine, ok := documents[node]; ok && !there.Version.Newer(mine.Version) {
			continue
		}
		documents[node] = there
		for _, ext := range []string{signedExt, shownExt} {
			name := path.Join(documentDir, node+ext)
			if e, ok := b.files[name]; ok {
				wanted[name] = e
			} else {
				delete(wanted, name)
			}
		}
	}
	return documents, refused
}

// covers reports whether the branch holds every one of the documents among files, or a newer one.
func (b *branch) covers(files map[string][]byte) bool {
	for name, data := range files {
		if _, ok := nodeOf(name, signedExt); !ok {
			continue
		}
		d, err := open(name, data, b.cfg.Keys)
		if err != nil {
			continue // will not be written
		}
		if there, ok := b.documents[d.Node]; !ok || d.Version.Newer(there.Version) {
			return false
		}
	}
	return true
}
