package gitstore

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
)

// Signer signs the raw bytes of a commit and returns an armoured signature.
type Signer interface {
	Sign(payload []byte) (armoured string, err error)
}

// NewCommit is what a commit is made from.
type NewCommit struct {
	Tree      string
	Parents   []string
	Author    Ident
	Committer Ident
	Message   string
}

// WriteBlob stores a file's content and returns its id.
func (s *Store) WriteBlob(data []byte) (string, error) {
	return s.write(plumbing.BlobObject, data)
}

// BlobID is the id that WriteBlob would return.
func BlobID(data []byte) string {
	return plumbing.ComputeHash(plumbing.BlobObject, data).String()
}

// WriteTree stores a directory and returns its id. The entries may come in any order; those that
// [Store.CheckTree] would refuse are refused here.
func (s *Store) WriteTree(entries []TreeEntry) (string, error) {
	entries = slices.SortedFunc(slices.Values(entries), compareEntries)
	limits := DefaultLimits()
	limits.Files = math.MaxInt64
	if i, reason := badEntry(entries, limits); reason != "" {
		return "", &ObjectError{ID: entries[i].ID, Path: printable(entries[i].Name), Reason: reason}
	}
	var raw bytes.Buffer
	for _, e := range entries {
		id, err := parseID(e.ID)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&raw, "%s %s\x00", e.Mode, e.Name)
		raw.Write(id[:])
	}
	return s.write(plumbing.TreeObject, raw.Bytes())
}

// WriteCommit signs a commit, stores it and returns its id.
func (s *Store) WriteCommit(c NewCommit, signer Signer) (string, error) {
	var head strings.Builder
	fmt.Fprintf(&head, "tree %s\n", c.Tree)
	for _, p := range c.Parents {
		fmt.Fprintf(&head, "parent %s\n", p)
	}
	fmt.Fprintf(&head, "author %s\ncommitter %s\n", identLine(c.Author), identLine(c.Committer))
	message := strings.TrimRight(c.Message, "\n") + "\n"
	payload := []byte(head.String() + "\n" + message)
	armoured, err := signer.Sign(payload)
	if err != nil {
		return "", err
	}
	folded := strings.ReplaceAll(strings.TrimRight(armoured, "\n"), "\n", "\n ")
	raw := []byte(head.String() + "gpgsig " + folded + "\n\n" + message)
	// What is written must be what a reader will find.
	if got, reason := parseCommit(raw); reason != "" {
		return "", fmt.Errorf("git store: commit to write %s", reason)
	} else if !bytes.Equal(got.Payload, payload) {
		return "", fmt.Errorf("git store: signature does not fit into a commit")
	}
	return s.write(plumbing.CommitObject, raw)
}

func identLine(i Ident) string {
	return fmt.Sprintf("%s <%s> %d +0000", i.Name, i.Mail, i.When.Unix())
}

func (s *Store) write(t plumbing.ObjectType, data []byte) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.objects.NewEncodedObject()
	o.SetType(t)
	o.SetSize(int64(len(data)))
	w, err := o.Writer()
	if err != nil {
		return "", fmt.Errorf("git store: %w", err)
	}
	if _, err := w.Write(data); err != nil {
		return "", fmt.Errorf("git store: %w", err)
	}
	if err := w.Close(); err != nil {
		return "", fmt.Errorf("git store: %w", err)
	}
	id, err := s.objects.SetEncodedObject(o)
	if err != nil {
		return "", fmt.Errorf("git store: %w", err)
	}
	return id.String(), nil
}
