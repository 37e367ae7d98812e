package statusbranch_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/gitsync/internal/gittest"
	"github.com/pleachdev/pleach/gitsync/statusbranch"
	"github.com/pleachdev/pleach/gitsync/trust"
	"github.com/pleachdev/pleach/gossip"
	"github.com/pleachdev/pleach/reconcile"
)

// member is a node that may be the courier.
type member struct {
	*statusbranch.Writer
	t    *testing.T
	name string
	key  *trust.SigningKey
	rank atomic.Int64
	stop func()
}

// enrolled are the nodes that the config repository has.
type enrolled []*member

func (e enrolled) keys(node string) []ed25519.PublicKey {
	for _, m := range e {
		if m.name == node {
			return []ed25519.PublicKey{m.key.Ed25519().Public().(ed25519.PublicKey)}
		}
	}
	return nil
}

// flock makes n nodes with their keys.
func flock(t *testing.T, n int) (members []*member, nodes enrolled) {
	t.Helper()
	for i := range n {
		name := fmt.Sprintf("n%d", i)
		key, err := trust.LoadOrCreateKey(filepath.Join(t.TempDir(), "node.key"), name)
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, &member{t: t, name: name, key: key})
		nodes = append(nodes, members[i])
	}
	return members, nodes
}

// start lets m write, as the courier or standing by.
func (m *member) start(remote gitstore.Remote, nodes enrolled, rank int, change func(*statusbranch.Config)) {
	m.t.Helper()
	m.rank.Store(int64(rank))
	cfg := statusbranch.Config{
		Remote: remote, Signer: m.key, PushesPerMinute: 6000, Keys: nodes.keys,
		Author:  gitstore.Ident{Name: m.name, Mail: m.name + "@pleach.invalid"},
		Rank:    func() int { return int(m.rank.Load()) },
		StandBy: 300 * time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	m.Writer = statusbranch.New(cfg)
	ctx, cancel := context.WithCancel(m.t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	stopped := false
	m.stop = func() {
		if cancel(); !stopped {
			stopped = true
			if err := <-done; err != nil {
				m.t.Errorf("%s: %v", m.name, err)
			}
		}
	}
	m.t.Cleanup(m.stop)
}

// says is m's document of that number.
func (m *member) says(seq int64) []byte {
	m.t.Helper()
	d, err := gossip.Encode(reconcile.Document{Node: m.name, Boot: 1, Seq: seq}, m.key.Ed25519())
	if err != nil {
		m.t.Fatal(err)
	}
	return d.Bytes()
}

// view is the content that somebody wants who has heard of these documents, n0's first.
func view(members []*member, seqs ...int64) map[string][]byte {
	files := map[string][]byte{"README.md": fmt.Appendln(nil, seqs)}
	for i, seq := range seqs {
		if seq > 0 {
			files[statusbranch.DocumentPath(members[i].name)] = members[i].says(seq)
			files["status/"+members[i].name+".json"] = fmt.Appendln(nil, members[i].name, seq)
		}
	}
	return files
}

// holds reads the branch as a node does: the numbers of all documents.
func holds(t *testing.T, remote gitstore.Remote, nodes enrolled) (seqs map[string]int64, known statusbranch.Known) {
	t.Helper()
	known, err := statusbranch.Read(t.Context(), remote, "", nodes.keys)
	if err != nil {
		t.Fatal(err)
	}
	seqs = map[string]int64{}
	for _, d := range known.Documents {
		seqs[d.Node] = int64(d.Version.Number.Seq)
	}
	return seqs, known
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// goodSignatures has git judge every commit of the branch.
func goodSignatures(t *testing.T, l *gittest.Lab, members []*member) (commits int) {
	t.Helper()
	var lines strings.Builder
	for _, m := range members {
		fmt.Fprintf(&lines, "node/%s %s\n", m.name, m.key.AuthorizedKey())
	}
	allowed := filepath.Join(t.TempDir(), "allowed_signers")
	if err := os.WriteFile(allowed, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for verdict := range strings.Lines(l.Git(l.Bare, "-c", "gpg.ssh.allowedSignersFile="+allowed, "log", "--format=%G? %GS %an", statusbranch.DefaultBranch)) {
		f := strings.Fields(verdict)
		if len(f) != 3 || f[0] != "G" || f[1] != "node/"+f[2] {
			t.Errorf("git says of a commit: %q", verdict)
		}
		commits++
	}
	l.Git(l.Bare, "fsck", "--strict", "--no-dangling")
	return commits
}

// Several couriers at once, each of whom has heard something else: whoever wins the races, the newest
// document of every node is there in the end.
func TestCouriersRace(t *testing.T) {
	l := gittest.New(t)
	members, nodes := flock(t, 4)
	for _, m := range members[:3] {
		m.start(l.HTTP, nodes, 0, nil)
	}
	const rounds = 5
	for r := range int64(rounds) {
		members[0].Set(of(view(members, 10*r+3, 10*r+1, 10*r+1, 7)))
		members[1].Set(of(view(members, 10*r+1, 10*r+3, 10*r+2, 0)))
		members[2].Set(of(view(members, 10*r+2, 10*r+1, 10*r+3, 0)))
		for _, m := range members[:3] {
			settled(t, m.Writer)
		}
	}
	// A last word of each, as a courier that has lost a race gives when it has read again.
	want := map[string]int64{"n0": 10*(rounds-1) + 3, "n1": 10*(rounds-1) + 3, "n2": 10*(rounds-1) + 3, "n3": 7}
	got, known := holds(t, l.HTTP, nodes)
	if fmt.Sprint(got) != fmt.Sprint(want) || len(known.Refused) != 0 || known.Courier == "" {
		t.Errorf("the branch holds %v, want %v; %+v", got, want, known.Refused)
	}
	for name, shown := range content(l) {
		if node, ok := strings.CutSuffix(strings.TrimPrefix(name, "status/"), ".json"); ok && shown != fmt.Sprintln(node, want[node]) {
			t.Errorf("%s shows %q beside document %d", name, shown, want[node])
		}
	}
	t.Logf("%d commits", goodSignatures(t, l, members))
}

// A stand-by leaves the branch to the courier while that writes, and writes when it falls silent.
func TestStandBy(t *testing.T) {
	l := gittest.New(t)
	members, nodes := flock(t, 3)
	for i, m := range members {
		m.start(l.HTTP, nodes, i, nil)
	}
	authors := func() string {
		return strings.Join(strings.Fields(l.Git(l.Bare, "log", "--reverse", "--format=%an", statusbranch.DefaultBranch)), " ")
	}
	for seq := range int64(8) {
		for _, m := range members {
			m.Set(of(view(members, seq+1, seq+1, seq+1)))
		}
		eventually(t, "the courier writes", func() bool { got, _ := holds(t, l.HTTP, nodes); return got["n2"] == seq+1 })
		time.Sleep(100 * time.Millisecond) // changes go on for longer than a stand-by waits
	}
	eventually(t, "the others have looked", func() bool {
		return members[1].Status().LastOK.After(time.Time{}) && members[2].Status().LastOK.After(time.Time{})
	})
	if got := authors(); strings.Trim(got, "n0 ") != "" {
		t.Errorf("written by %s, want n0 alone", got)
	}
	if s := members[1].Status(); !s.StandBy || !s.Waiting.IsZero() || s.Pushes != 0 {
		t.Errorf("a stand-by says %+v", s)
	}
	members[0].stop() // and nobody notices: the ranks stay
	members[1].Set(of(view(members, 8, 20, 20)))
	members[2].Set(of(view(members, 8, 20, 20)))
	eventually(t, "somebody else writes", func() bool { got, _ := holds(t, l.HTTP, nodes); return got["n1"] == 20 && got["n0"] == 8 })
	if got := authors(); !strings.HasSuffix(got, " n1") {
		t.Errorf("written by %s, want n1 at last", got)
	}
	members[1].rank.Store(0) // the others noticed
	members[1].Set(of(view(members, 8, 21, 20)))
	eventually(t, "the new courier writes", func() bool { got, _ := holds(t, l.HTTP, nodes); return got["n1"] == 21 })
	goodSignatures(t, l, members)
}

// Documents of nodes that were removed go; those of nodes that nobody hears stay.
func TestRemovedNodesGo(t *testing.T) {
	l := gittest.New(t)
	members, nodes := flock(t, 3)
	members[0].start(l.HTTP, nodes, 0, nil)
	members[0].Set(of(view(members, 1, 1, 1)))
	settled(t, members[0].Writer)
	members[0].stop()
	members[0].start(l.HTTP, nodes[:2], 0, nil) // n2 is removed, and n1 is not heard of
	members[0].Set(of(view(members, 2)))
	settled(t, members[0].Writer)
	if got, _ := holds(t, l.HTTP, nodes); fmt.Sprint(got) != "map[n0:2 n1:1]" {
		t.Errorf("the branch holds %v", got)
	}
	for name := range content(l) {
		if strings.Contains(name, "n2") {
			t.Errorf("%s is still there", name)
		}
	}
}

// A courier writes no document that does not verify, and a reader recognises one that was tampered with.
func TestTamperedDocuments(t *testing.T) {
	l := gittest.New(t)
	members, nodes := flock(t, 3)
	stranger, _ := flock(t, 1)
	forged := members[1].says(5)
	forged[len(forged)/2] ^= 1
	own := gitstore.Ident{Name: "n0", Mail: "n0@pleach.invalid"}

	members[0].start(l.HTTP, nodes, 0, nil)
	files := view(members, 1, 0, 1)
	files[statusbranch.DocumentPath("n1")] = forged
	files[statusbranch.DocumentPath("n9")] = stranger[0].says(1)
	members[0].Set(of(files))
	settled(t, members[0].Writer)
	got, known := holds(t, l.HTTP, nodes)
	if fmt.Sprint(got) != "map[n0:1 n2:1]" || len(known.Refused) != 0 || known.Courier != "n0" {
		t.Errorf("the branch holds %v, %v", got, known.Refused)
	}
	members[0].stop()

	// Somebody with the right to push changes the branch behind the nodes' backs.
	for _, tc := range []struct {
		name, path string
		data       []byte
		want       string
	}{
		{"a changed byte", statusbranch.DocumentPath("n1"), forged, "status/n1.cbor: "},
		{"another node's document", statusbranch.DocumentPath("n1"), members[2].says(9), "status/n1.cbor: is the document of node n2"},
		{"a stranger's", statusbranch.DocumentPath("n0"), stranger[0].says(1), "status/n0.cbor: "},
		{"garbage", statusbranch.DocumentPath("n2"), []byte("garbage"), "status/n2.cbor: "},
		{"too large", statusbranch.DocumentPath("n2"), make([]byte, gossip.MaxSize+1), "status/n2.cbor: 1048577 bytes"},
	} {
		store := gitstore.InMemory()
		blob, err := store.WriteBlob(tc.data)
		if err != nil {
			t.Fatal(err)
		}
		dir, err := store.WriteTree([]gitstore.TreeEntry{{Mode: gitstore.ModeFile, Name: filepath.Base(tc.path), ID: blob}})
		if err != nil {
			t.Fatal(err)
		}
		root, err := store.WriteTree([]gitstore.TreeEntry{{Mode: gitstore.ModeDir, Name: "status", ID: dir}})
		if err != nil {
			t.Fatal(err)
		}
		own.When = time.Now()
		id, err := store.WriteCommit(gitstore.NewCommit{Tree: root, Author: own, Committer: own, Message: "status"}, stranger[0].key)
		if err != nil {
			t.Fatal(err)
		}
		ref := "refs/heads/" + statusbranch.DefaultBranch
		at := strings.TrimSpace(l.Git(l.Bare, "rev-parse", ref))
		if err := store.Push(t.Context(), l.HTTP, []gitstore.Update{{Name: ref, Old: at, New: id}}, []string{blob, dir, root, id}); err != nil {
			t.Fatal(err)
		}
		_, known := holds(t, l.HTTP, nodes)
		text := fmt.Sprint(known.Refused)
		if len(known.Refused) != 2 || known.Courier != "" || len(known.Documents) != 0 || !strings.Contains(text, tc.want) || !strings.Contains(text, "is not signed by a node") {
			t.Errorf("%s: refused %v, documents %d, courier %q", tc.name, known.Refused, len(known.Documents), known.Courier)
		}
	}
	// The next courier sets it right.
	members[1].start(l.HTTP, nodes, 0, nil)
	members[1].Set(of(view(members, 1, 1, 1)))
	settled(t, members[1].Writer)
	if got, known := holds(t, l.HTTP, nodes); len(got) != 3 || len(known.Refused) != 0 || known.Courier != "n1" {
		t.Errorf("set right: %v, %+v", got, known)
	}
}

// The branch's history is bounded, and every commit of it is good; a remote that forbids that keeps all.
func TestHistoryIsBounded(t *testing.T) {
	for name, keep := range map[string]bool{"bounded": false, "the remote keeps everything": true} {
		t.Run(name, func(t *testing.T) {
			l := gittest.New(t)
			if keep {
				l.Git(l.Bare, "config", "receive.denyNonFastForwards", "true")
			}
			members, nodes := flock(t, 2)
			short := func(c *statusbranch.Config) { c.MaxCommits = 4 }
			members[0].start(l.HTTP, nodes, 0, short)
			most := 0
			for seq := range int64(10) {
				if seq == 6 { // another courier goes on counting
					members[0].stop()
					members[1].start(l.HTTP, nodes, 0, short)
				}
				m := members[seq/6]
				m.Set(of(view(members, seq+1, seq+1)))
				settled(t, m.Writer)
				most = max(most, goodSignatures(t, l, members))
			}
			if want := map[bool]int{false: 4, true: 10}[keep]; most != want {
				t.Errorf("%d commits at most, want %d", most, want)
			}
			if got, _ := holds(t, l.HTTP, nodes); got["n0"] != 10 || got["n1"] != 10 {
				t.Errorf("the branch holds %v", got)
			}
		})
	}
	t.Run("by age", func(t *testing.T) {
		l := gittest.New(t)
		members, nodes := flock(t, 1)
		members[0].start(l.HTTP, nodes, 0, func(c *statusbranch.Config) { c.MaxAge = time.Nanosecond })
		for seq := range int64(3) {
			members[0].Set(of(view(members, seq+1)))
			settled(t, members[0].Writer)
		}
		if n := goodSignatures(t, l, members); n != 1 {
			t.Errorf("%d commits, want 1", n)
		}
	})
}

func TestReadNothing(t *testing.T) {
	l := gittest.New(t)
	l.Commit("first", map[string]string{"a": "1"})
	l.Push()
	if known, err := statusbranch.Read(t.Context(), l.HTTP, "", enrolled(nil).keys); err != nil || known.Commit != "" {
		t.Errorf("no branch: %+v, %v", known, err)
	}
}
