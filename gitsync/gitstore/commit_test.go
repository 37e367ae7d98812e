package gitstore_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pleachdev/pleach/e2e/needs"
	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/gitsync/trust"
)

// raw stores an object that git itself would not make, and returns its id.
func (l *lab) raw(kind, content string) string {
	l.T.Helper()
	return strings.TrimSpace(l.GitIn(l.Bare, content, "hash-object", "--literally", "-w", "-t", kind, "--stdin"))
}

// serve points main at a commit whatever it is, and fetches it.
func (l *lab) serve(s *gitstore.Store, id string) {
	l.T.Helper()
	if err := os.WriteFile(filepath.Join(l.Bare, "refs", "heads", "main"), []byte(id+"\n"), 0o644); err != nil {
		l.T.Fatal(err)
	}
	if got, err := s.Fetch(l.T.Context(), l.HTTP, mainRef); err != nil || got != id {
		l.T.Fatalf("fetch: %s, %v; want %s", got, err, id)
	}
}

const idents = "author Ada <ada@example.com> 1700000000 +0000\ncommitter Ada <ada@example.com> 1700000000 +0000\n"

// Commits that git and others could read differently are refused, each for its reason. They go
// through a real server: that is how an attacker delivers them.
func TestMalformedCommits(t *testing.T) {
	l := newLab(t)
	s := openStore(t)
	l.Commit("good", map[string]string{"a": "1"})
	l.Push()
	tree := strings.TrimSpace(l.Git(l.Work, "rev-parse", "HEAD^{tree}"))
	evil := strings.TrimSpace(l.Git(l.Bare, "hash-object", "-w", "-t", "tree", "/dev/null"))
	base := strings.TrimSpace(l.Git(l.Work, "rev-parse", "HEAD"))
	treeLine, parent := "tree "+tree+"\n", "parent "+base+"\n"
	const sig = "gpgsig -----BEGIN SSH SIGNATURE-----\n abc\n -----END SSH SIGNATURE-----\n"
	for _, tt := range []struct{ name, raw, want string }{
		{"good", treeLine + parent + idents + sig + "\nmessage\n", ""},
		{"empty message", treeLine + parent + idents + "\n", ""},
		{"other headers", treeLine + parent + idents + "encoding ISO-8859-1\nchange-id abc\n" + sig + "\nmessage\n", ""},
		{"two trees", treeLine + "tree " + evil + "\n" + parent + idents + "\nm\n", `lacks the header "author"`},
		{"tree at the end", treeLine + parent + idents + "tree " + evil + "\n\nm\n", `header "tree" a second time`},
		{"late parent", treeLine + idents + parent + "\nm\n", `header "parent" a second time`},
		{"two authors", treeLine + parent + strings.Replace(idents, "committer", "author", 1) + "\nm\n", `lacks the header "committer"`},
		{"two committers", treeLine + parent + idents + "committer Eve <e@x> 1 +0000\n\nm\n", `header "committer" a second time`},
		{"two signatures", treeLine + parent + idents + sig + sig + "\nm\n", `header "gpgsig" a second time`},
		{"empty signature", treeLine + parent + idents + "gpgsig \n\nm\n", "empty gpgsig"},
		{"two encodings", treeLine + parent + idents + "encoding a\nencoding b\n\nm\n", `header "encoding" a second time`},
		{"other hash's signature", treeLine + parent + idents + "gpgsig-sha256 x\n\nm\n", "gpgsig-sha256"},
		{"NUL in a header", treeLine + parent + strings.Replace(idents, "Ada", "Ada\x00Eve", 1) + "\nm\n", "NUL"},
		{"NUL in the message", treeLine + parent + idents + "\nm\x00hidden\n", "NUL"},
		{"continued author", treeLine + parent + strings.Replace(idents, "\n", "\n x\n", 1) + "\nm\n", "second line"},
		{"bad ident", treeLine + parent + strings.Replace(idents, "1700000000", "yesterday", 1) + "\nm\n", `malformed header "author"`},
		{"ident with angle brackets", treeLine + parent + strings.Replace(idents, "Ada <", "Ada <x> <", 1) + "\nm\n", `malformed header "author"`},
		{"header without a value", treeLine + parent + idents + "nothing\n\nm\n", "malformed header"},
		{"starts with a continuation", treeLine + parent + idents + " x\n\nm\n", "second line"},
		{"no headers' end", treeLine + parent + strings.TrimSuffix(idents, "\n"), "no empty line"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l.T = t
			id := l.raw("commit", tt.raw)
			l.serve(s, id)
			_, err := s.Commit(id)
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			oe, ok := errors.AsType[*gitstore.ObjectError](err)
			if !ok || !strings.Contains(oe.Reason, tt.want) || oe.ID != id {
				t.Fatalf("%v, want %q", err, tt.want)
			}
		})
	}
}

// The payload and signature that the parser finds are the ones that git verifies: both say the same
// of a good commit and of one that was changed after signing.
func TestAgreesWithGit(t *testing.T) {
	needs.Command(t, "ssh-keygen")
	l := newLab(t)
	key := filepath.Join(t.TempDir(), "key")
	if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	line := "ada@example.com " + string(public)
	allowed := filepath.Join(t.TempDir(), "allowed_signers")
	if err := os.WriteFile(allowed, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	signers, err := trust.ParseAllowedSigners("allowed_signers", []byte(line))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range map[string]string{"gpg.format": "ssh", "user.signingkey": key, "commit.gpgsign": "true", "tag.gpgsign": "true"} {
		l.Git(l.Work, "config", k, v)
	}
	plain := l.Commit("plain", map[string]string{"a": "1"})
	utf8 := l.Commit("Grüße\n\n\nwith   blanks \n", map[string]string{"a": "2"})
	empty := strings.TrimSpace(l.Git(l.Work, "commit-tree", "-S", "-p", utf8, "-m", "", "HEAD^{tree}"))
	l.Git(l.Work, "config", "i18n.commitEncoding", "ISO-8859-1")
	latin := l.Commit("encoded", map[string]string{"a": "3"})
	l.Git(l.Work, "config", "--unset", "i18n.commitEncoding")
	l.Git(l.Work, "checkout", "-q", "-b", "side", plain)
	l.Commit("side", map[string]string{"b": "1"})
	l.Git(l.Work, "tag", "-s", "-m", "a signed tag", "v1")
	l.Git(l.Work, "checkout", "-q", "main")
	l.Git(l.Work, "merge", "-q", "--no-ff", "-m", "merge of a signed tag", "v1") // has a mergetag header
	merge := strings.TrimSpace(l.Git(l.Work, "rev-parse", "HEAD"))
	l.Git(l.Work, "merge", "-q", "--no-ff", "-s", "ours", "-m", "merge", empty)
	l.Push()
	s := openStore(t)
	if _, err := s.Fetch(t.Context(), l.HTTP, mainRef); err != nil {
		t.Fatal(err)
	}
	check := func(name, id string, good bool) {
		t.Helper()
		c, err := s.Commit(id)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, ours := signers.Verify(c.Payload, c.Signature)
		cmd := exec.CommandContext(t.Context(), "git", "-c", "gpg.ssh.allowedSignersFile="+allowed, "verify-commit", id)
		cmd.Dir = l.Bare
		theirs := cmd.Run()
		if (ours == nil) != good || (theirs == nil) != good {
			t.Errorf("%s: we say %v, git says %v, want good %v", name, ours, theirs, good)
		}
	}
	for name, id := range map[string]string{"plain": plain, "utf8": utf8, "empty message": empty, "encoding": latin, "mergetag": merge} {
		check(name, id, true)
	}
	raw := l.Git(l.Bare, "cat-file", "commit", plain)
	forged := l.raw("commit", strings.Replace(raw, "plain", "forged", 1))
	l.serve(s, forged)
	check("forged message", forged, false)
	// A header that is added behind the signature is part of what is signed.
	added := l.raw("commit", strings.Replace(raw, "\n\n", "\nx-added yes\n\n", 1))
	l.serve(s, added)
	check("added header", added, false)
}
