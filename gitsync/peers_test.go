package gitsync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pleachdev/pleach/gitsync/gitstore"
)

// follower is a node of a flock whose Git server shows it a branch of its own.
type follower struct {
	*Syncer
	s    *story
	name string
	peer Peer
}

// follower starts a node that is shown what show says of it.
func (s *story) follower(name string) *follower {
	s.t.Helper()
	y, err := Open(s.t.Context(), Config{
		Dir: s.t.TempDir(), Remote: gitstore.Remote{URL: "file://" + s.dir}, Branch: name,
		Introduction: s.ids["start"], StaleAfter: time.Nanosecond,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	srv := httptest.NewServer(y.Server(slog.New(slog.DiscardHandler)))
	s.t.Cleanup(func() {
		srv.Close()
		_ = y.Close() // the test is over
	})
	return &follower{y, s, name, Peer{name, gitstore.Remote{URL: srv.URL, Client: srv.Client()}}}
}

// shown moves the branch that the server shows m, and lets it look.
func (m *follower) shown(label string) {
	m.s.t.Helper()
	m.s.git("update-ref", "refs/heads/"+m.name, m.s.ids[label])
	if _, err := m.Sync(m.s.t.Context()); err != nil {
		m.s.t.Fatal(err)
	}
}

func (m *follower) head() string { return m.s.labels[m.Accepted().Head.ID] }

// hears brings m the documents of others.
func (m *follower) hears(others ...*follower) []PeerHead {
	var heads []PeerHead
	for _, o := range others {
		heads = append(heads, PeerHead{o.name, o.Accepted().Head})
	}
	return m.Compare(heads)
}

func (m *follower) follow(o *follower, label string) error {
	_, err := m.FollowPeer(m.s.t.Context(), o.peer, m.s.ids[label])
	return err
}

// A node that the remote does not answer follows its peers, by its own judgement, and says since when.
func TestFollowPeer(t *testing.T) {
	t.Parallel()
	s := newStory(t)
	s.run("start ada start\ntwo ada web=2\nbad eve web=6\nthree ada web=3 shop=3")
	a, b := s.follower("a"), s.follower("b")
	a.shown("start")
	if _, err := b.FollowPeer(t.Context(), a.peer, s.ids["start"]); err == nil {
		t.Error("a node that has accepted nothing believes a peer")
	}
	b.shown("start")
	s.git("update-ref", "-d", "refs/heads/b")
	b.cfg.Remote.URL = "http://127.0.0.1:1/none.git"
	if _, err := b.Sync(t.Context()); !errors.Is(err, ErrUnreachable) {
		t.Fatal(err)
	}
	a.shown("three")
	if !b.Remote().PeersSince.IsZero() {
		t.Error("says that it follows peers before it does")
	}
	if got := b.hears(a); len(got) != 1 || got[0].Node != "a" {
		t.Errorf("unknown heads %v, want a's", got)
	}
	if err := b.follow(a, "three"); err != nil {
		t.Fatal(err)
	}
	if x, y := jsonOf(t, a.Accepted()), jsonOf(t, b.Accepted()); x != y {
		t.Errorf("a accepts\n%s\nb\n%s", x, y)
	}
	r := b.Remote()
	if r.PeersSince.IsZero() || r.PeersSince.After(r.LastTry) || r.Alarm != "" {
		t.Errorf("remote says %+v", r)
	}
	if got := b.hears(a); len(got) != 0 {
		t.Errorf("unknown heads %v after it has followed", got)
	}
	// What it has is durable, and it hands it on.
	c := s.follower("c")
	c.shown("start")
	if err := c.follow(b, "three"); err != nil || c.head() != "three" {
		t.Errorf("c is at %s, %v", c.head(), err)
	}
	s.git("update-ref", "refs/heads/b", s.ids["three"])
	b.cfg.Remote.URL = "file://" + s.dir
	b.shown("three")
	if r := b.Remote(); !r.PeersSince.IsZero() || r.Err != "" {
		t.Errorf("with the remote back: %+v", r)
	}
}

// A peer can make a node believe nothing that the remote could not.
func TestPeerIsJudged(t *testing.T) {
	t.Parallel()
	s := newStory(t)
	s.run("start ada start\ntwo ada web=2\nstrange eve web=6\nunsigned - on two web=7\nforged ada on two web=8\nolder ada on start web=9\nelsewhere eve on start web=5\nsafe ada on two web=3")
	a := s.follower("a")
	a.shown("two")
	liar := func(label string) Peer { // hands out whatever it is asked for
		store, err := gitstore.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		s.git("update-ref", "refs/heads/liar-"+label, s.ids[label])
		if _, err := store.Fetch(t.Context(), gitstore.Remote{URL: "file://" + s.dir}, "refs/heads/liar-"+label); err != nil {
			t.Fatal(err)
		}
		srv := httptest.NewServer(gitstore.NewServer(store, "refs/heads/main",
			func() (string, <-chan struct{}) { return s.ids[label], nil }, slog.New(slog.DiscardHandler)))
		t.Cleanup(func() { srv.Close(); _ = store.Close() })
		return Peer{"liar", gitstore.Remote{URL: srv.URL, Client: srv.Client()}}
	}
	before := jsonOf(t, a.Accepted())
	for _, tc := range []struct{ label, want string }{
		{"strange", "node liar offers commit …: signed by a key that trust/allowed_signers does not know…"},
		{"unsigned", "node liar offers commit …: is not signed…"},
		{"elsewhere", "node liar offers commit …: does not contain what is accepted, and signed by a key that trust/allowed_signers does not know…"},
		{"older", "commit … of node liar is of another history than what is accepted at …"},
		{"start", ""}, // is had already
	} {
		_, err := a.FollowPeer(t.Context(), liar(tc.label), s.ids[tc.label])
		if (err == nil) != (tc.want == "") || err != nil && !matches(tc.want, err.Error()) {
			t.Errorf("%s: %v, want %q", tc.label, err, tc.want)
		}
		if after := jsonOf(t, a.Accepted()); after != before {
			t.Errorf("%s changed what is accepted:\n%s", tc.label, after)
		}
		if tc.want != "" && a.knows(s.ids[tc.label]) {
			t.Errorf("%s is in the store", tc.label)
		}
	}
	// The same commit from an honest peer, and the node goes on.
	if _, err := a.FollowPeer(t.Context(), liar("safe"), s.ids["safe"]); err != nil || a.head() != "safe" {
		t.Errorf("at %s, %v", a.head(), err)
	}
	if _, err := a.FollowPeer(t.Context(), liar("two"), strings.Repeat("ab", 20)); !errors.Is(err, ErrUnreachable) {
		t.Errorf("a head that does not exist: %v, want ErrUnreachable", err)
	}
}

// A server that shows nodes different branches is found out by each of them, with who saw what; a commit
// that contains both ends it.
func TestTwoFacedServer(t *testing.T) {
	t.Parallel()
	s := newStory(t)
	s.run("start ada start\nleft ada web=2\nright bob on start shop=2\nboth ada on left+right shop=2")
	a, b, c := s.follower("a"), s.follower("b"), s.follower("c")
	for _, m := range []*follower{a, b, c} {
		m.shown("start")
	}
	a.shown("left")
	c.shown("left")
	b.shown("right")
	learn := func(m *follower, others ...*follower) {
		t.Helper()
		for _, h := range m.hears(others...) {
			for _, o := range others {
				if o.name == h.Node {
					_, _ = m.FollowPeer(t.Context(), o.peer, h.Head.ID) // what is wrong is in the alarm
				}
			}
		}
		m.hears(others...)
	}
	learn(a, b, c)
	learn(b, a, c)
	for _, tc := range []struct {
		m    *follower
		want string
	}{
		{a, `branch "a" has two histories: this node, c verified ` + s.ids["left"][:12] + ", but b verified " + s.ids["right"][:12] + ", and neither…"},
		{b, `branch "b" has two histories: this node verified ` + s.ids["right"][:12] + ", but a, c verified " + s.ids["left"][:12] + ", and neither…"},
	} {
		if got := tc.m.Remote().Alarm; !matches(tc.want, got) {
			t.Errorf("%s: alarm %q, want %q", tc.m.name, got, tc.want)
		}
	}
	if a.head() != "left" || b.head() != "right" {
		t.Errorf("heads %s and %s moved", a.head(), b.head())
	}
	a.shown("both")
	learn(b, a)
	learn(a, b)
	if b.head() != "both" || a.Remote().Alarm+b.Remote().Alarm != "" {
		t.Errorf("after the merge: b at %s, alarms %q and %q", b.head(), a.Remote().Alarm, b.Remote().Alarm)
	}
}

// A server that shows one node an old head is found out by that node, once it has had time to catch up.
func TestStaleServer(t *testing.T) {
	t.Parallel()
	s := newStory(t)
	s.run("start ada start\ntwo ada web=2\nthree ada web=3")
	a, b := s.follower("a"), s.follower("b")
	b.cfg.StaleAfter = time.Hour
	a.shown("start")
	b.shown("start")
	a.shown("two")
	if err := b.follow(a, "two"); err != nil || b.head() != "two" {
		t.Fatalf("b at %s, %v", b.head(), err)
	}
	b.hears(a)
	b.shown("start")
	if got := b.Remote().Alarm; got != "" {
		t.Errorf("alarm before the server had time: %q", got)
	}
	b.cfg.StaleAfter = time.Nanosecond
	b.shown("start")
	want := fmt.Sprintf(`the remote shows this node branch "b" at %.12s, which is older than %.12s, verified by a and here since …: its server is stale…`, s.ids["start"], s.ids["two"])
	if got := b.Remote().Alarm; !matches(want, got) {
		t.Errorf("alarm %q, want %q", got, want)
	}
	if b.head() != "two" {
		t.Errorf("b went back to %s", b.head())
	}
	b.shown("three")
	if got := b.Remote().Alarm; got != "" || b.head() != "three" {
		t.Errorf("with the server well: at %s, alarm %q", b.head(), got)
	}
	// Without the word of a peer it is the branch that was set back.
	b.shown("two")
	if got := b.Remote().Alarm; !matches(`branch "b" was set back…`, got) {
		t.Errorf("alarm %q", got)
	}
}

// A wiped node that is shown an old head moves on to what its peers have verified.
func TestWipedNodeIsToldByPeers(t *testing.T) {
	t.Parallel()
	s := newStory(t)
	s.run("start ada start\ntwo ada web=2\nthree ada web=3")
	a, wiped := s.follower("a"), s.follower("wiped")
	a.shown("three")
	wiped.shown("two")
	if got := wiped.hears(a); len(got) != 1 || got[0].Head != a.Accepted().Head {
		t.Errorf("unknown heads %v", got)
	}
	if err := wiped.follow(a, "three"); err != nil || wiped.head() != "three" {
		t.Errorf("at %s, %v", wiped.head(), err)
	}
}

// A slow peer keeps nobody from following the remote.
func TestSlowPeerHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	s := newStory(t)
	s.run("start ada start\ntwo ada web=2")
	a := s.follower("a")
	a.shown("start")
	ctx, cancel := context.WithCancel(t.Context())
	asked, done := make(chan struct{}), make(chan error, 1)
	srv := httptest.NewServer(gitstore.NewServer(a.store, "refs/heads/main", func() (string, <-chan struct{}) {
		close(asked)
		<-ctx.Done()
		return "", nil
	}, slog.New(slog.DiscardHandler)))
	go func() {
		_, err := a.FollowPeer(ctx, Peer{"slow", gitstore.Remote{URL: srv.URL, Client: srv.Client()}}, strings.Repeat("cd", 20))
		done <- err
	}()
	<-asked
	a.shown("two")
	if a.head() != "two" {
		t.Errorf("at %s while a peer is slow", a.head())
	}
	cancel()
	if err := <-done; err == nil {
		t.Error("the slow peer delivered")
	}
	srv.Close()
}
