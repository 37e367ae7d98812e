package gitsync

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/pleachdev/pleach/gitsync/gitstore"
)

// people have a key each. What a history's allowed_signers says at its start: ada and bob.
var people = []string{"ada", "bob", "eve"}

// keys makes the people's keys once with ssh-keygen, and returns the folder.
var keys = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "gitsync-keys-")
	if err != nil {
		return "", err
	}
	for _, p := range people {
		out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", p, "-f", filepath.Join(dir, p)).CombinedOutput()
		if err != nil {
			return dir, fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := keys(); err == nil {
		_ = os.RemoveAll(dir) // the temporary folder goes with the machine
	}
	os.Exit(code)
}

// story is a repository whose commits have labels, written with git and ssh-keygen. A script has
// one line for each commit or push:
//
//	LABEL BY [on LABEL[+LABEL…]] CHANGE…
//	push LABEL
//	restart
//
// BY signs; "-" leaves the commit unsigned, and "ada!dup" and the like forge one, see forge. The
// parents are the commit of the line before, unless "on" names them (a commit on itself has none); the
// files are the first parent's. See change for the changes. A push moves the branch, and then the syncer looks.
// A restart makes a new syncer, which must believe what the old one did.
type story struct {
	t      testing.TB
	dir    string // the repository, and the remote
	syncer *Syncer
	state  string // the syncer's folder
	judge  Judge

	ids    map[string]string            // label to commit
	labels map[string]string            // commit to label
	files  map[string]map[string]string // by label
	blobs  map[string]string            // content to object
	last   string
	err    error // of the last Sync
}

func newStory(t testing.TB) *story {
	t.Helper()
	if _, err := keys(); err != nil {
		t.Fatal(err)
	}
	s := &story{
		t: t, dir: t.TempDir(), state: t.TempDir(), ids: map[string]string{}, labels: map[string]string{},
		files: map[string]map[string]string{}, blobs: map[string]string{},
	}
	s.git("init", "-q", "-b", "none")
	t.Cleanup(func() {
		if s.syncer != nil {
			_ = s.syncer.Close() // the test is over
		}
	})
	return s
}

func (s *story) git(args ...string) string { return s.gitIn(nil, args...) }

func (s *story) gitIn(in []byte, args ...string) string {
	s.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=Somebody", "GIT_AUTHOR_EMAIL=somebody@example.com",
		"GIT_COMMITTER_NAME=Somebody", "GIT_COMMITTER_EMAIL=somebody@example.com",
		"GIT_AUTHOR_DATE="+s.date(), "GIT_COMMITTER_DATE="+s.date())
	cmd.Stdin = bytes.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("git %s: %v: %s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// date falls from commit to commit: no verdict may read it.
func (s *story) date() string { return fmt.Sprintf("%d +0000", 1_800_000_000-100*len(s.ids)) }

// run plays a script.
func (s *story) run(script string) {
	s.t.Helper()
	for line := range strings.Lines(script) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case words[0] == "push":
			s.push(words[1])
		case words[0] == "restart":
			if s.syncer != nil {
				s.restarted()
			}
		default:
			s.commit(words)
		}
	}
}

func (s *story) push(label string) {
	s.t.Helper()
	switch label {
	case "nothing":
		s.git("update-ref", "-d", "refs/heads/main")
	default:
		s.git("update-ref", "refs/heads/main", s.ids[label])
	}
	s.sync()
}

func (s *story) sync() {
	s.t.Helper()
	if s.syncer == nil {
		s.syncer = s.open(s.state)
	}
	_, s.err = s.syncer.Sync(s.t.Context())
}

func (s *story) open(dir string) *Syncer {
	s.t.Helper()
	y, err := Open(s.t.Context(), Config{
		Dir: dir, Remote: gitstore.Remote{URL: "file://" + s.dir}, Branch: "main",
		Introduction: s.ids["start"], Judge: s.judge,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return y
}

func (s *story) commit(words []string) {
	s.t.Helper()
	label, by, words := words[0], words[1], words[2:]
	var parents []string
	if s.last != "" {
		parents = []string{s.last}
	}
	if len(words) > 1 && words[0] == "on" {
		if words[1] == label { // a history of its own
			parents = nil
		} else {
			parents = strings.Split(words[1], "+")
		}
		words = words[2:]
	}
	files := map[string]string{}
	if len(parents) > 0 {
		files = maps.Clone(s.files[parents[0]])
	}
	message := label + "\n"
	for _, w := range words {
		if of, ok := strings.CutPrefix(w, "adopt:"); ok {
			message += "\nPleach-Adopt: " + s.ids[of] + "\n"
			continue
		}
		s.change(files, w)
	}
	tree := s.tree(files)
	by, forgery, _ := strings.Cut(by, "!")
	args := []string{"-c", "gpg.format=ssh"}
	if by != "-" {
		dir, _ := keys() // newStory has checked the error
		args = append(args, "-c", "user.signingkey="+filepath.Join(dir, by))
	}
	args = append(args, "commit-tree", tree, "-m", strings.TrimSuffix(message, "\n"))
	for _, p := range parents {
		args = append(args, "-p", s.ids[p])
	}
	if by != "-" {
		args = append(args, "-S")
	}
	id := s.git(args...)
	if forgery != "" {
		id = s.forge(id, forgery)
	}
	s.ids[label], s.labels[id], s.files[label], s.last = id, label, files, label
}

// forge writes a signed commit anew with a part of it changed.
func (s *story) forge(id, how string) string {
	s.t.Helper()
	raw := s.git("cat-file", "commit", id) + "\n"
	start := strings.Index(raw, "gpgsig ")
	end := strings.Index(raw, "-----END SSH SIGNATURE-----\n") + len("-----END SSH SIGNATURE-----\n")
	sig := raw[start:end]
	switch how {
	case "header": // a signature of these bytes, but for the author
		raw = strings.Replace(raw, "author Somebody", "author Ada Lovelace", 1)
	case "duplicate":
		author := raw[strings.Index(raw, "author "):strings.Index(raw, "committer ")]
		raw = strings.Replace(raw, "committer ", author+"committer ", 1)
	case "tree": // git takes what follows for no parent
		line, _, _ := strings.Cut(raw, "\n")
		raw = line + "\n" + raw
	case "two":
		raw = raw[:end] + sig + raw[end:]
	case "joined": // two armoured signatures in one header
		raw = raw[:end] + " " + strings.TrimPrefix(sig, "gpgsig ") + raw[end:]
	default:
		s.t.Fatalf("no forgery %q", how)
	}
	return s.gitIn([]byte(raw), "hash-object", "-t", "commit", "-w", "--stdin", "--literally")
}

// tree writes the files and returns their tree. A content that starts with "link:" is a symbolic link.
func (s *story) tree(files map[string]string) string {
	s.t.Helper()
	s.git("read-tree", "--empty")
	var index bytes.Buffer
	for _, p := range slices.Sorted(maps.Keys(files)) {
		mode, content := "100644", files[p]
		if target, ok := strings.CutPrefix(content, "link:"); ok {
			mode, content = "120000", target
		}
		blob, ok := s.blobs[content]
		if !ok {
			blob = s.gitIn([]byte(content), "hash-object", "-w", "--stdin")
			s.blobs[content] = blob
		}
		fmt.Fprintf(&index, "%s %s\t%s\n", mode, blob, p)
	}
	s.gitIn(index.Bytes(), "update-index", "--add", "--index-info")
	return s.git("write-tree")
}

// change applies one word of a script:
//
//	web=2          the image of the app web's Deployment web
//	web/db=2       of its Deployment db in a file of its own; with "3,4" two Deployments db-0, db-1
//	web/db=TEXT    any other text: the file's content, with _ for a blank and ; for a new line
//	-web/db        removes the file
//	app+web app-web, key+eve key-bob    in pleach.yaml, in trust/allowed_signers
//	file:PATH=TEXT the content of any file; without =TEXT the file goes
//	start          the files of a new repository with the apps shop and web
//	nothing        no file at all
func (s *story) change(files map[string]string, word string) {
	s.t.Helper()
	switch {
	case word == "nothing":
		clear(files)
	case word == "start":
		files["pleach.yaml"] = clusterYAML("shop", "web")
		files["trust/allowed_signers"] = s.signer("ada") + s.signer("bob")
		s.change(files, "shop=1")
		s.change(files, "web=1")
	case strings.HasPrefix(word, "app+"):
		files["pleach.yaml"] += appYAML(word[4:])
	case strings.HasPrefix(word, "app-"):
		files["pleach.yaml"] = strings.Replace(files["pleach.yaml"], appYAML(word[4:]), "", 1)
	case strings.HasPrefix(word, "key+"):
		files["trust/allowed_signers"] += s.signer(word[4:])
	case strings.HasPrefix(word, "key-"):
		files["trust/allowed_signers"] = strings.Replace(files["trust/allowed_signers"], s.signer(word[4:]), "", 1)
	case strings.HasPrefix(word, "file:"):
		p, text, ok := strings.Cut(word[5:], "=")
		if !ok {
			delete(files, p)
			return
		}
		files[p] = strings.NewReplacer("_", " ", ";", "\n").Replace(text)
	case strings.HasPrefix(word, "-"):
		delete(files, "apps/"+word[1:]+".yaml")
	default:
		name, text, _ := strings.Cut(word, "=")
		p := name
		if !strings.Contains(name, "/") {
			p = name + "/" + name
		}
		files["apps/"+p+".yaml"] = deployments(path.Base(p), text)
	}
}

func (s *story) signer(name string) string {
	s.t.Helper()
	dir, _ := keys() // newStory has checked the error
	pub, err := os.ReadFile(filepath.Join(dir, name+".pub"))
	if err != nil {
		s.t.Fatal(err)
	}
	return name + "@example.com " + string(pub)
}

func clusterYAML(apps ...string) string {
	y := "apiVersion: pleach.dev/v1alpha1\nkind: Cluster\nmetadata:\n  name: test\nspec:\n  version: 1\n  podCIDR: 10.64.0.0/16\n  apps:\n"
	for _, a := range apps {
		y += appYAML(a)
	}
	return y
}

func appYAML(name string) string { return fmt.Sprintf("  - name: %s\n    path: apps/%s\n", name, name) }

func deployments(name, text string) string {
	tags := strings.Split(text, ",")
	for _, tag := range tags {
		if strings.Trim(tag, "0123456789") != "" || tag == "" {
			return strings.NewReplacer("_", " ", ";", "\n").Replace(text) + "\n"
		}
	}
	if len(tags) == 1 {
		return deployment(name, tags[0])
	}
	var y string
	for i, tag := range tags {
		y += "---\n" + deployment(fmt.Sprintf("%s-%d", name, i), tag)
	}
	return y
}

func deployment(name, tag string) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata:
  name: %[1]s
spec:
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      containers:
        - {name: main, image: "example.com/%[1]s:%[2]s"}
`, name, tag)
}

// outcome is what the syncer believes, in lines: "head LABEL", "cluster LABEL", one of "APP LABEL
// NAME=TAG…" for each app, "refused LABEL UNIT: REASON", "held APP: PROBLEM", "alarm: …", "error: …".
func (s *story) outcome() string {
	s.t.Helper()
	var b strings.Builder
	if s.err != nil {
		fmt.Fprintf(&b, "error: %v\n", s.err)
	}
	if alarm := s.syncer.Remote().Alarm; alarm != "" {
		fmt.Fprintf(&b, "alarm: %s\n", alarm)
	}
	if a := s.syncer.Accepted(); a != nil {
		b.WriteString(s.show(a))
	}
	return b.String()
}

func (s *story) show(a *Accepted) string {
	var b strings.Builder
	fmt.Fprintf(&b, "head %s\ncluster %s\n", s.labels[a.Head.ID], s.labels[a.ClusterCommit.ID])
	for _, app := range a.Apps {
		fmt.Fprintf(&b, "%s %s", app.Name, s.labels[app.Commit.ID])
		for _, o := range app.Objects {
			if d, ok := o.Object.(*appsv1.Deployment); ok {
				_, tag, _ := strings.Cut(d.Spec.Template.Spec.Containers[0].Image, ":")
				fmt.Fprintf(&b, " %s=%s", d.Name, tag)
			} else {
				fmt.Fprintf(&b, " %s", o.Object.GetName())
			}
		}
		b.WriteString("\n")
	}
	for _, r := range a.Refusals {
		unit := r.App
		if unit == "" {
			unit = "all"
		}
		fmt.Fprintf(&b, "refused %s %s: %s\n", s.labels[r.Commit.ID], unit, r.Reason)
	}
	for _, w := range a.Warnings {
		if w.Held {
			fmt.Fprintf(&b, "held %s: %s\n", w.App, w.Error())
		}
	}
	return b.String()
}

// expect compares the outcome with lines in which … stands for any text.
func (s *story) expect(want string) {
	s.t.Helper()
	got := strings.Split(strings.TrimSpace(s.outcome()), "\n")
	wanted := strings.Split(strings.TrimSpace(want), "\n")
	ok := len(got) == len(wanted)
	for i := 0; ok && i < len(got); i++ {
		ok = matches(strings.TrimSpace(wanted[i]), got[i])
	}
	if !ok {
		s.t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.TrimSpace(want))
	}
}

func matches(pattern, text string) bool {
	parts := strings.Split(pattern, "…")
	if !strings.HasPrefix(text, parts[0]) {
		return false
	}
	for _, p := range parts[1:] {
		i := strings.Index(text, p)
		if i < 0 {
			return false
		}
		text = text[i+len(p):]
	}
	return true
}

// restarted checks that a new process with the same folder believes the same, byte for byte.
func (s *story) restarted() {
	s.t.Helper()
	before := jsonOf(s.t, s.syncer.Accepted())
	if err := s.syncer.Close(); err != nil {
		s.t.Fatal(err)
	}
	s.syncer = s.open(s.state)
	if after := jsonOf(s.t, s.syncer.Accepted()); before != after {
		s.t.Errorf("after a restart:\n%s\nbefore:\n%s", after, before)
	}
}

// fresh is what a node believes that starts now.
func (s *story) fresh(ctx context.Context) (*Accepted, error) {
	y := s.open(s.t.TempDir())
	a, err := y.Sync(ctx)
	if cerr := y.Close(); err == nil {
		err = cerr
	}
	return a, err
}

func jsonOf(t testing.TB, v any) string {
	t.Helper()
	data, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
