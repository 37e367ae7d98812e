package gitstore

import (
	"bytes"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
)

// Whatever the parser accepts, it accounts for every byte: the payload with the signature put back
// as git writes it is the object again.
func FuzzParseCommit(f *testing.F) {
	id := strings.Repeat("0123456789", 4)
	const idents = "author A <a@x> 1 +0000\ncommitter A <a@x> 1 +0000\n"
	for _, seed := range []string{
		"tree " + id + "\n" + idents + "\nm\n",
		"tree " + id + "\nparent " + id + "\n" + idents + "gpgsig a\n b\n \n c\n\nm",
		"tree " + id + "\n" + idents + "encoding x\nmergetag object x\n type y\nmergetag z\ngpgsig s\nlast x\n\n",
		"tree " + id + "\n" + idents + "gpgsig a\ngpgsig b\n\n", "tree " + id + "\ntree " + id + "\n" + idents + "\n",
		"", "\n\n", "tree \n\n", "tree " + strings.ToUpper("abcdef"+id[6:]) + "\n" + idents + "\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, reason := parseCommit(raw)
		if (c == nil) != (reason != "") {
			t.Fatalf("commit %+v and reason %q", c, reason)
		}
		if c == nil {
			return
		}
		if c.Signature == "" {
			if !bytes.Equal(c.Payload, raw) {
				t.Fatalf("payload %q of the unsigned %q", c.Payload, raw)
			}
			return
		}
		header := "gpgsig " + strings.ReplaceAll(c.Signature, "\n", "\n ") + "\n"
		if got := strings.Replace(string(raw), header, "", 1); got != string(c.Payload) {
			t.Fatalf("payload %q, want %q", c.Payload, got)
		}
		if bytes.Count(raw, []byte("\ngpgsig ")) > 1+strings.Count(c.Message, "\ngpgsig ")+strings.Count("\n"+c.Message, "\ngpgsig ") {
			t.Fatalf("second signature in %q", raw)
		}
	})
}

func FuzzParseTree(f *testing.F) {
	f.Add([]byte("100644 a\x00" + strings.Repeat("x", 20) + "40000 b\x00" + strings.Repeat("y", 20)))
	f.Add([]byte("100644 a\x00short"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		entries, ok := parseTree(raw)
		if !ok {
			return
		}
		var back bytes.Buffer
		for _, e := range entries {
			id := plumbing.NewHash(e.ID)
			back.WriteString(e.Mode + " " + e.Name + "\x00")
			back.Write(id[:])
		}
		if !bytes.Equal(back.Bytes(), raw) {
			t.Fatalf("%q became %+v", raw, entries)
		}
		if _, reason := badEntry(entries, DefaultLimits()); reason != "" {
			return
		}
		for _, e := range entries {
			if strings.ContainsAny(e.Name, "/\\\x00") || e.Name == ".." || strings.EqualFold(e.Name, ".git") {
				t.Fatalf("accepted the name %q", e.Name)
			}
		}
	})
}
