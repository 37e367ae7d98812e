package gitstore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pleachdev/pleach/gitsync/gitstore"
)

// verified is what a peer has verified so far.
type verified struct {
	mu      sync.Mutex
	head    string
	changed chan struct{}
}

func (v *verified) get() (string, <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.changed == nil {
		v.changed = make(chan struct{})
	}
	return v.head, v.changed
}

func (v *verified) set(head string) {
	_, _ = v.get()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.head = head
	close(v.changed)
	v.changed = make(chan struct{})
}

// peer serves a store as another node would.
func peer(t *testing.T, s *gitstore.Store, v *verified) gitstore.Remote {
	t.Helper()
	srv := httptest.NewServer(http.StripPrefix("/git", gitstore.NewServer(s, mainRef, v.get, slog.New(slog.DiscardHandler))))
	t.Cleanup(srv.Close)
	return gitstore.Remote{URL: srv.URL + "/git", Client: srv.Client()}
}

// history makes n commits with files that come, change and go, and a merge, and returns their ids.
func history(l *lab, n int) []string {
	var ids []string
	for i := range n {
		files := map[string]string{
			"pleach.yaml": fmt.Sprintf("v%d\n", i), fmt.Sprintf("apps/a%d/x.yaml", i%3): strings.Repeat(fmt.Sprintln(i), 50),
			fmt.Sprintf("deep/%d/%d/y", i%2, i): "same\n",
		}
		if i > 2 {
			files[fmt.Sprintf("deep/%d/%d/y", (i-2)%2, i-2)] = ""
		}
		ids = append(ids, l.Commit(fmt.Sprint("commit ", i), files))
		if i == n/2 {
			l.Git(l.Work, "checkout", "-q", "-b", "side", "HEAD~2")
			l.Commit("on the side", map[string]string{"side.txt": "s\n"})
			l.Git(l.Work, "checkout", "-q", "main")
			l.Git(l.Work, "merge", "-q", "--no-edit", "side")
			ids = append(ids, strings.TrimSpace(l.Git(l.Work, "rev-parse", "HEAD")))
		}
	}
	l.Push()
	return ids
}

// Git itself clones and fetches from a node, and sees no more than the node has verified.
func TestGitClonesFromPeer(t *testing.T) {
	l := newLab(t)
	ids := history(l, 8)
	s := openStore(t)
	if _, err := s.Fetch(t.Context(), l.HTTP, mainRef); err != nil {
		t.Fatal(err)
	}
	var v verified
	p := peer(t, s, &v)
	if out := l.Git("", "ls-remote", p.URL); strings.TrimSpace(out) != "" {
		t.Errorf("before anything is verified it shows %q", out)
	}
	first, head := ids[3], ids[len(ids)-1]
	v.set(first)
	dir := filepath.Join(t.TempDir(), "clone")
	l.Git("", "clone", "-q", p.URL, dir)
	if got := strings.TrimSpace(l.Git(dir, "rev-parse", "HEAD")); got != first {
		t.Errorf("cloned %s, want %s", got, first)
	}
	v.set(head)
	l.Git(dir, "fetch", "-q")
	if got := strings.TrimSpace(l.Git(dir, "rev-parse", "origin/main")); got != head {
		t.Errorf("fetched %s, want %s", got, head)
	}
	l.Git(dir, "fsck", "--strict", "--full")
	if want, got := l.Git(l.Work, "rev-list", "--objects", "--no-object-names", head), l.Git(dir, "rev-list", "--objects", "--no-object-names", "origin/main"); got != want {
		t.Errorf("objects differ:\n%s\nwant\n%s", got, want)
	}
}

// A node takes from a peer what it lacks and nothing else, waits for what is on its way, and gets
// nothing that the peer has not verified.
func TestAskPeer(t *testing.T) {
	l := newLab(t)
	ids := history(l, 8)
	from, to := openStore(t), openStore(t)
	if _, err := from.Fetch(t.Context(), l.HTTP, mainRef); err != nil {
		t.Fatal(err)
	}
	l.Git(l.Bare, "update-ref", mainRef, ids[2])
	if _, err := to.Fetch(t.Context(), l.HTTP, mainRef); err != nil {
		t.Fatal(err)
	}
	var v verified
	v.set(ids[4])
	p := peer(t, from, &v)
	take := func(head, since string) {
		t.Helper()
		o, err := to.Ask(t.Context(), p, head, since)
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		if !o.Contains {
			t.Errorf("%.8s does not contain %.8s", head, since)
		}
		if err := o.Take(l.HTTP, mainRef, func() error { _, err := to.Tree(head); return err }); err != nil {
			t.Fatal(err)
		}
		if err := to.CheckTree(head, gitstore.DefaultLimits()); err != nil {
			t.Error(err)
		}
	}
	take(ids[4], ids[2])
	head := ids[len(ids)-1]
	begun := time.Now()
	if _, err := to.Ask(t.Context(), p, head, ids[4]); !errors.Is(err, gitstore.ErrUnreachable) {
		t.Errorf("a commit that the peer has not verified: %v, want ErrUnreachable", err)
	}
	if time.Since(begun) < time.Second {
		t.Error("the peer did not wait for the commit to come")
	}
	go v.set(head)
	take(head, ids[4])
	before := l.Requests.Load()
	l.Git(l.Bare, "update-ref", mainRef, head)
	if err := to.FetchCommit(t.Context(), l.HTTP, mainRef, head); err != nil {
		t.Error(err)
	}
	if n := l.Requests.Load() - before; n != 0 {
		t.Errorf("what the peer gave was fetched again, in %d requests", n)
	}
}

// What a peer sends and a judge refuses leaves nothing behind.
func TestRefusedOfferLeavesNothing(t *testing.T) {
	l := newLab(t)
	ids := history(l, 4)
	from, to := openStore(t), openStore(t)
	head := ids[len(ids)-1]
	if _, err := from.Fetch(t.Context(), l.HTTP, mainRef); err != nil {
		t.Fatal(err)
	}
	l.Git(l.Bare, "update-ref", mainRef, ids[0])
	if _, err := to.Fetch(t.Context(), l.HTTP, mainRef); err != nil {
		t.Fatal(err)
	}
	before := tree(t, to.Dir())
	var v verified
	v.set(head)
	o, err := to.Ask(t.Context(), peer(t, from, &v), head, ids[0])
	if err != nil {
		t.Fatal(err)
	}
	no := errors.New("no")
	err = o.Take(l.HTTP, mainRef, func() error {
		if _, err := to.Tree(head); err != nil {
			t.Errorf("the judge cannot read it: %v", err)
		}
		return no
	})
	o.Close()
	if !errors.Is(err, no) {
		t.Errorf("take: %v, want the judge's error", err)
	}
	if after := tree(t, to.Dir()); after != before {
		t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
	}
	if _, err := to.Commit(head); err == nil {
		t.Error("the commit can still be read")
	}
	if _, err := to.Level(head); err == nil {
		t.Error("its level is still known")
	}
	l.Git(l.Bare, "update-ref", mainRef, head)
	if got, err := to.Fetch(t.Context(), l.HTTP, mainRef); err != nil || got != head {
		t.Errorf("fetched from the remote afterwards: %s, %v", got, err)
	}
}

func tree(t *testing.T, dir string) string {
	t.Helper()
	var names []string
	if err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		names = append(names, path)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, "\n")
}

// A peer that lies: none of it reaches the store, and none of it takes long.
func TestHostilePeers(t *testing.T) {
	l := newLab(t)
	ids := history(l, 4)
	base, head := ids[0], ids[len(ids)-1]
	other := l.Commit("of another story", map[string]string{"junk": strings.Repeat("junk", 100)})
	l.Push()
	to := openStore(t)
	l.Git(l.Bare, "update-ref", mainRef, base)
	if _, err := to.Fetch(t.Context(), l.HTTP, mainRef); err != nil {
		t.Fatal(err)
	}
	pack := func(revs ...string) string { // as git makes it
		return l.GitIn(l.Work, strings.Join(revs, "\n")+"\n", "pack-objects", "--revs", "--stdout", "-q")
	}
	only := func(ids ...string) string {
		return l.GitIn(l.Work, strings.Join(ids, "\n")+"\n", "pack-objects", "--stdout", "-q")
	}
	good := pack(head, "^"+base)
	rootTree := strings.TrimSpace(l.Git(l.Work, "rev-parse", head+"^{tree}"))
	before := tree(t, to.Dir())
	for _, tc := range []struct {
		name   string
		answer func(w io.Writer)
		offer  bool // an OfferError; else the peer counts as out of reach
		want   string
	}{
		{name: "nothing", answer: func(io.Writer) {}},
		{name: "a web page", answer: func(w io.Writer) { _, _ = io.WriteString(w, "<html>hello</html>") }},
		{name: "garbage", answer: band(strings.Repeat("garbage ", 1000)), offer: true, want: "pack"},
		{name: "a pack of nothing", answer: band(pack(head, "^"+head)), offer: true, want: "not in the store"},
		{name: "a pack cut short", answer: band(good[:len(good)/2]), offer: true, want: "pack"},
		{name: "a pack with a changed byte", answer: band(good[:60] + "X" + good[61:]), offer: true, want: "pack"},
		{name: "another commit", answer: band(pack(other, "^"+head)), offer: true, want: "not in the store"},
		{name: "the commit alone", answer: band(only(head)), offer: true, want: "not in the store"},
		{name: "a file missing", answer: band(only(append(strings.Fields(l.Git(l.Work, "rev-list", head, "^"+base)), rootTree)...)), offer: true, want: "missing"},
		{name: "more than was asked for", answer: band(pack(other, "^"+base)), offer: true, want: "nothing to do with"},
		{name: "a pack that never ends", answer: func(w io.Writer) {
			_, _ = io.WriteString(w, "0008NAK\n")
			for chunk := strings.Repeat("\x00", 60000); ; {
				if _, err := fmt.Fprintf(w, "%04x\x01%s", len(chunk)+5, chunk); err != nil {
					return
				}
			}
		}, offer: true, want: "MiB"},
		{name: "a peer that says nothing", answer: func(io.Writer) { <-t.Context().Done() }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			stop := make(chan struct{})
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
				if tc.name == "a peer that says nothing" {
					w.(http.Flusher).Flush()
					select {
					case <-stop:
					case <-r.Context().Done():
					}
					return
				}
				tc.answer(w)
			}))
			defer srv.Close()
			defer close(stop)
			ctx := t.Context()
			if tc.name == "a peer that says nothing" {
				var cancel func()
				ctx, cancel = context.WithTimeout(ctx, 300*time.Millisecond)
				defer cancel()
			}
			_, err := to.Ask(ctx, gitstore.Remote{URL: srv.URL, Client: srv.Client()}, head, base)
			_, offer := errors.AsType[*gitstore.OfferError](err)
			if err == nil || offer != tc.offer || !strings.Contains(fmt.Sprint(err), tc.want) {
				t.Errorf("got %v (%T), want an OfferError: %v, with %q", err, err, tc.offer, tc.want)
			}
			if !tc.offer && !errors.Is(err, gitstore.ErrUnreachable) {
				t.Errorf("got %v, want ErrUnreachable", err)
			}
			if after := tree(t, to.Dir()); after != before {
				t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { band(good)(w) }))
	defer srv.Close()
	o, err := to.Ask(t.Context(), gitstore.Remote{URL: srv.URL, Client: srv.Client()}, head, base)
	if err != nil {
		t.Fatalf("an honest pack: %v", err)
	}
	o.Close()
}

// band answers with a pack.
func band(pack string) func(io.Writer) {
	return func(w io.Writer) {
		_, _ = io.WriteString(w, "0008NAK\n")
		for len(pack) > 0 {
			part := pack[:min(len(pack), 60000)]
			_, _ = fmt.Fprintf(w, "%04x\x01%s", len(part)+5, part)
			pack = pack[len(part):]
		}
		_, _ = io.WriteString(w, "0000")
	}
}

// What is not a request for a pack is refused, and a node is asked by a few at a time.
func TestServerBounds(t *testing.T) {
	l := newLab(t)
	ids := []string{l.Commit("first", map[string]string{"a": "1"}), l.Commit("second", map[string]string{"a": "2"})}
	l.Push()
	s := openStore(t)
	if _, err := s.Fetch(t.Context(), l.HTTP, mainRef); err != nil {
		t.Fatal(err)
	}
	var v verified
	v.set(ids[0])
	p := peer(t, s, &v)
	post := func(body string) int {
		t.Helper()
		res, err := http.Post(p.URL+"/git-upload-pack", "", strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return 0
		}
		defer res.Body.Close()
		return res.StatusCode
	}
	want := func(id, capabilities string) string {
		line := "want " + id + " " + capabilities + "\n"
		return fmt.Sprintf("%04x%s", len(line)+4, line)
	}
	const ends = "00000009done\n"
	for _, tc := range []struct {
		name, body string
		status     int
	}{
		{"empty", "", 400},
		{"nothing wanted", ends, 400},
		{"garbage", "hello", 400},
		{"shallow", want(ids[0], "side-band-64k") + "000cdeepen 1" + ends, 400},
		{"no side-band", want(ids[0], "ofs-delta") + ends, 400},
		{"two commits", want(ids[0], "side-band-64k") + want(ids[1], "side-band-64k") + ends, 400},
		{"much", want(ids[0], "side-band-64k") + "0000" + strings.Repeat("0032have "+ids[0]+"\n", 5000) + ends, 400},
		{"verified", want(ids[0], "side-band-64k") + ends, 200},
		{"not verified", want(ids[1], "side-band-64k") + ends, 404},
		{"unknown", want(strings.Repeat("a", 40), "side-band-64k") + ends, 404},
	} {
		if got := post(tc.body); got != tc.status {
			t.Errorf("%s: status %d, want %d", tc.name, got, tc.status)
		}
	}
	for _, path := range []string{"/git-receive-pack", "/info/refs?service=git-receive-pack", "/HEAD", "/objects/info/packs"} {
		res, err := http.Get(p.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusNotFound {
			t.Errorf("%s: status %d, want 404", path, res.StatusCode)
		}
	}
	var group sync.WaitGroup
	var mu sync.Mutex
	statuses := map[int]int{}
	for range 100 {
		group.Go(func() {
			status := post(want(ids[1], "side-band-64k") + ends) // waits
			mu.Lock()
			defer mu.Unlock()
			statuses[status]++
		})
	}
	group.Wait()
	if statuses[503] < 30 || statuses[404] > 64 {
		t.Errorf("a hundred at once: %v, want 64 that wait at most", statuses)
	}
}
