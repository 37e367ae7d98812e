package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Repo is one person's clone of a config repository. Its commands see none of the user's or the
// machine's git configuration. Methods end the test when git refuses; [Repo.Try] does not.
type Repo struct {
	Dir string
	Key *Key // signs unless a commit says otherwise
	t   T
}

// NewRepo makes an empty repository of the lab, with branch main and the remote as origin, for the
// person of this key.
func (l *Lab) NewRepo(t T, key *Key, remote string) *Repo {
	t.Helper()
	r := l.newRepo(t, key)
	r.Git("init", "--quiet", "--initial-branch=main", ".")
	r.Git("remote", "add", "origin", remote)
	r.configure()
	return r
}

// Clone clones the remote for the person of this key: a teammate.
func (l *Lab) Clone(t T, key *Key, remote string) *Repo {
	t.Helper()
	r := l.newRepo(t, key)
	r.Git("clone", "--quiet", remote, ".")
	r.configure()
	return r
}

// OpenRepo takes over an existing work tree, such as one that "pleach init" made.
func (l *Lab) OpenRepo(t T, key *Key, dir string) *Repo {
	t.Helper()
	r := &Repo{Dir: dir, Key: key, t: t}
	r.configure()
	return r
}

func (l *Lab) newRepo(t T, key *Key) *Repo {
	t.Helper()
	dir, err := os.MkdirTemp(l.Dir, "repo-")
	if err != nil {
		t.Fatalf("make a repository: %v", err)
	}
	return &Repo{Dir: dir, Key: key, t: t}
}

func (r *Repo) configure() {
	r.t.Helper()
	name, _, _ := strings.Cut(r.Key.Principal, "@")
	for key, value := range map[string]string{
		"user.name": name, "user.email": r.Key.Principal, "user.signingKey": r.Key.File,
		"gpg.format": "ssh", "commit.gpgSign": "true", "tag.gpgSign": "true", "pull.rebase": "false", "gc.auto": "0",
	} {
		r.Git("config", key, value)
	}
}

// Try runs git in the work tree and returns its standard output without the last newline.
func (r *Repo) Try(args ...string) (string, error) { return r.input(nil, args...) }

func (r *Repo) input(stdin []byte, args ...string) (string, error) {
	cmd := exec.CommandContext(r.t.Context(), "git", args...)
	cmd.Dir = r.Dir
	cmd.Env = gitEnv(r.Dir)
	cmd.Stdin = bytes.NewReader(stdin)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(complaint.Bytes()))
	}
	return strings.TrimSuffix(string(out), "\n"), nil
}

// Git runs git in the work tree, and ends the test when it fails.
func (r *Repo) Git(args ...string) string {
	r.t.Helper()
	out, err := r.Try(args...)
	if err != nil {
		r.t.Fatalf("%v", err)
	}
	return out
}

// Write writes a file of the work tree, and its directories.
func (r *Repo) Write(path, content string) {
	r.t.Helper()
	file := filepath.Join(r.Dir, path)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		r.t.Fatalf("%v", err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		r.t.Fatalf("%v", err)
	}
}

// Read reads a file of the work tree.
func (r *Repo) Read(path string) string {
	r.t.Helper()
	content, err := os.ReadFile(filepath.Join(r.Dir, path))
	if err != nil {
		r.t.Fatalf("%v", err)
	}
	return string(content)
}

// Replace replaces the one place where old stands in a file.
func (r *Repo) Replace(path, old, to string) {
	r.t.Helper()
	content := r.Read(path)
	if n := strings.Count(content, old); n != 1 {
		r.t.Fatalf("%s: %q stands there %d times, want once", path, old, n)
	}
	r.Write(path, strings.Replace(content, old, to, 1))
}

// Symlink makes a symbolic link in the work tree.
func (r *Repo) Symlink(path, target string) {
	r.t.Helper()
	file := filepath.Join(r.Dir, path)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		r.t.Fatalf("%v", err)
	}
	if err := os.Symlink(target, file); err != nil {
		r.t.Fatalf("%v", err)
	}
}

// Remove removes files and directories of the work tree.
func (r *Repo) Remove(paths ...string) {
	r.t.Helper()
	for _, path := range paths {
		if err := os.RemoveAll(filepath.Join(r.Dir, path)); err != nil {
			r.t.Fatalf("%v", err)
		}
	}
}

// Commit commits the whole work tree, even when it equals the last commit or is empty, signed by
// the person's own key, and returns the commit's id.
func (r *Repo) Commit(message string) string {
	r.t.Helper()
	return r.commit(message, "-S"+r.Key.File)
}

// CommitUnsigned commits without a signature.
func (r *Repo) CommitUnsigned(message string) string {
	r.t.Helper()
	return r.commit(message, "--no-gpg-sign")
}

// CommitBy commits under the person's own name, but signed by another key.
func (r *Repo) CommitBy(key *Key, message string) string {
	r.t.Helper()
	return r.commit(message, "-S"+key.File)
}

func (r *Repo) commit(message string, flags ...string) string {
	r.t.Helper()
	r.Git("add", "--all")
	r.Git(append([]string{"commit", "--quiet", "--allow-empty", "--message", message}, flags...)...)
	return r.Head()
}

// Head is the id of the checked out commit.
func (r *Repo) Head() string {
	r.t.Helper()
	return r.Git("rev-parse", "HEAD")
}

// Push pushes the checked out branch.
func (r *Repo) Push() {
	r.t.Helper()
	r.Git("push", "--quiet", "origin", "HEAD")
}

// ForcePush makes the remote's main the commit of this id, whatever it was.
func (r *Repo) ForcePush(id string) {
	r.t.Helper()
	r.Git("push", "--quiet", "--force", "origin", id+":refs/heads/main")
}

// DeleteBranch deletes a branch of the remote.
func (r *Repo) DeleteBranch(branch string) {
	r.t.Helper()
	r.Git("push", "--quiet", "origin", ":refs/heads/"+branch)
}

// Pull merges the remote's main, as a teammate's git pull does: the own commit becomes the merge's
// first parent.
func (r *Repo) Pull() string {
	r.t.Helper()
	r.Git("pull", "--quiet", "--no-edit", "--no-rebase", "--gpg-sign="+r.Key.File, "origin", "main")
	return r.Head()
}

// Merge merges a branch or commit with a signed merge commit.
func (r *Repo) Merge(commit string) string {
	r.t.Helper()
	r.Git("merge", "--quiet", "--no-edit", "--no-ff", "--gpg-sign="+r.Key.File, commit)
	return r.Head()
}

// Revert undoes a commit by a signed one.
func (r *Repo) Revert(commit string) string {
	r.t.Helper()
	r.Git("revert", "--no-edit", "--gpg-sign="+r.Key.File, commit)
	return r.Head()
}

// Reset moves the checked out branch and the work tree to a commit.
func (r *Repo) Reset(commit string) {
	r.t.Helper()
	r.Git("reset", "--quiet", "--hard", commit)
}

// Fetch fetches a branch of the remote and returns its id; for the status branch, among others.
func (r *Repo) Fetch(branch string) string {
	r.t.Helper()
	r.Git("fetch", "--quiet", "--force", "origin", "refs/heads/"+branch+":refs/remotes/origin/"+branch)
	return r.Git("rev-parse", "refs/remotes/origin/"+branch)
}

// Raw reads the bytes of a commit.
func (r *Repo) Raw(commit string) []byte {
	r.t.Helper()
	out, err := r.input(nil, "cat-file", "commit", commit)
	if err != nil {
		r.t.Fatalf("%v", err)
	}
	return []byte(out + "\n") // input took one away
}

// Forge stores any bytes as a commit object, without the checks that git commit makes, and moves
// the checked out branch there. The work tree stays as it is.
func (r *Repo) Forge(raw []byte) string {
	r.t.Helper()
	id, err := r.input(raw, "hash-object", "-t", "commit", "-w", "--stdin", "--literally")
	if err != nil {
		r.t.Fatalf("%v", err)
	}
	r.Git("update-ref", "HEAD", id)
	return id
}

// Blob stores content as an object and returns its id.
func (r *Repo) Blob(content string) string {
	r.t.Helper()
	id, err := r.input([]byte(content), "hash-object", "-w", "--stdin")
	if err != nil {
		r.t.Fatalf("%v", err)
	}
	return id
}

// Tree stores a tree of these entries, as git ls-tree prints them, "100644 blob <id>\t<name>", and
// returns its id. Names and modes that no work tree can have, such as "..", are taken.
func (r *Repo) Tree(entries ...string) string {
	r.t.Helper()
	lines := strings.Join(entries, "\n")
	if lines != "" {
		lines += "\n"
	}
	id, err := r.input([]byte(lines), "mktree", "--missing")
	if err != nil {
		r.t.Fatalf("%v", err)
	}
	return id
}

// CommitTree commits a stored tree on top of the last commit, signed, and moves the branch there.
// The work tree stays as it is.
func (r *Repo) CommitTree(message, tree string) string {
	r.t.Helper()
	id := r.Git("commit-tree", "-S"+r.Key.File, "-p", "HEAD", "-m", message, tree)
	r.Git("update-ref", "HEAD", id)
	return id
}

// Unsigned gives the commit's bytes without any gpgsig header: the text that its signature signs.
func Unsigned(raw []byte) []byte {
	var out bytes.Buffer
	headers, inSignature := true, false
	for line := range bytes.Lines(raw) {
		if headers {
			if inSignature = bytes.HasPrefix(line, []byte("gpgsig ")) || inSignature && line[0] == ' '; inSignature {
				continue
			}
			headers = len(line) > 1
		}
		out.Write(line)
	}
	return out.Bytes()
}

// WithHeader inserts a header line, such as "tree <id>", before the first header of that kind.
func WithHeader(raw []byte, name, value string) []byte {
	at := 0
	if !bytes.HasPrefix(raw, []byte(name+" ")) {
		at = bytes.Index(raw, []byte("\n"+name+" ")) + 1
	}
	if at == 0 && !bytes.HasPrefix(raw, []byte(name+" ")) {
		at = bytes.Index(raw, []byte("\n\n")) + 1
	}
	return bytes.Join([][]byte{raw[:at], []byte(name + " " + value + "\n"), raw[at:]}, nil)
}

// Sign adds one more gpgsig header with the key's signature over the commit without signatures.
func Sign(ctx context.Context, raw []byte, key *Key) ([]byte, error) {
	signature, err := key.sign(ctx, Unsigned(raw))
	if err != nil {
		return nil, err
	}
	end := bytes.Index(raw, []byte("\n\n"))
	if end < 0 {
		return nil, fmt.Errorf("sign a commit: no end of its headers in %q", raw)
	}
	folded := strings.ReplaceAll(strings.TrimSuffix(string(signature), "\n"), "\n", "\n ")
	return bytes.Join([][]byte{raw[:end+1], []byte("gpgsig " + folded + "\n"), raw[end+1:]}, nil), nil
}
