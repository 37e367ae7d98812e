package gitsync

import (
	"strings"
	"testing"
)

// tale is a script of story and what comes of it.
type tale struct {
	name, script, want string
	// own is set where what was trusted before matters, so that a node that starts now sees other
	// things, and where a second walk takes long.
	own  bool
	long bool // left out of the short tests
}

// play checks each tale as told, after a restart, and, but for the short tests, on a node that starts
// at its end.
func play(t *testing.T, tales []tale) {
	t.Helper()
	for _, tc := range tales {
		t.Run(tc.name, func(t *testing.T) {
			if tc.long && testing.Short() {
				t.Skip("takes seconds")
			}
			t.Parallel()
			s := newStory(t)
			s.run(tc.script)
			s.expect(tc.want)
			s.restarted()
			if tc.own || testing.Short() {
				return
			}
			a, err := s.fresh(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got, want := jsonOf(t, a), jsonOf(t, s.syncer.Accepted()); got != want {
				t.Errorf("a node that starts now has:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func TestAttacks(t *testing.T) {
	t.Parallel()
	play(t, []tale{
		{name: "pushes are accepted", script: `
			start ada start
			push start
			two bob web=2
			push two
		`, want: `
			head two
			cluster two
			shop two shop=1
			web two web=2
		`},
		{name: "unsigned", script: `
			start ada start
			bad - web=2
			push bad
		`, want: `
			head start
			cluster start
			shop start shop=1
			web start web=1
			refused bad web: is not signed
		`},
		{name: "signed by a stranger", script: `
			start ada start
			bad eve web=2
			push bad
		`, want: `
			head start
			cluster start
			shop start shop=1
			web start web=1
			refused bad web: signed by a key that trust/allowed_signers does not know: SHA256:…
		`},
		{name: "forged header", script: `
			start ada start
			bad ada!header web=2
			push bad
		`, want: `
			head start
			cluster start
			shop start shop=1
			web start web=1
			refused bad web: carries a signature that is not of SHA256:… over this commit
		`},
		{name: "duplicate header", script: `
			start ada start
			bad ada!duplicate web=2
			push bad
		`, want: `
			head start
			cluster start
			shop start shop=1
			web start web=1
			refused bad all: object … lacks the header "committer" where it belongs
		`},
		{name: "duplicate tree header", own: true, script: `
			start ada start
			push start
			bad ada!tree web=2
			push bad
		`, want: `
			alarm: branch "main" cannot be followed to …: object … lacks the header "author" where it belongs; what was accepted stays in force: set the branch back to the accepted commit …
			head start
			cluster start
			shop start shop=1
			web start web=1
		`},
		{name: "two signature headers", script: `
			start ada start
			bad ada!two web=2
			push bad
		`, want: `
			head start
			cluster start
			shop start shop=1
			web start web=1
			refused bad all: object … has the header "gpgsig" a second time
		`},
		{name: "two signatures in one header", script: `
			start ada start
			bad ada!joined web=2
			push bad
		`, want: `
			head start
			cluster start
			shop start shop=1
			web start web=1
			refused bad web: carries two signatures
		`},
		{name: "what a malformed commit brought does not come in under an honest one", script: `
			start ada start
			bad ada!duplicate web=2
			next ada shop=3
			push next
		`, want: `
			head next
			cluster next
			shop start shop=1
			web start web=1
			refused next shop: Deployment.apps default/shop is as the refused commit … left it…
			refused next web: Deployment.apps default/web is as the refused commit … left it…
		`},
		{name: "a malformed commit is mended by going back", script: `
			start ada start
			bad ada!duplicate web=2
			undo ada web=1
			next ada shop=3
			push next
		`, want: `
			head next
			cluster next
			shop next shop=3
			web next web=1
		`},
		{name: "force-push to an older commit", own: true, script: `
			start ada start
			two ada web=2
			push two
			push start
		`, want: `
			alarm: branch "main" was set back to …, which is older than the accepted commit …; what was accepted stays in force…
			head two
			cluster two
			shop two shop=1
			web two web=2
		`},
		{name: "another branch of a known signer", own: true, script: `
			start ada start
			two ada web=2
			other ada on start shop=7
			push two
			push other
		`, want: `
			alarm: branch "main" is at …, which does not contain the accepted commit …
			head two
			cluster two
			shop two shop=1
			web two web=2
		`},
		{name: "deleted branch", own: true, script: `
			start ada start
			push start
			push nothing
		`, want: `
			alarm: branch "main" is gone from the remote; what was accepted stays in force: push it again, with the accepted commit …
			head start
			cluster start
			shop start shop=1
			web start web=1
		`},
		{name: "a branch that comes back is no alarm", script: `
			start ada start
			push start
			push nothing
			push start
		`, want: `
			head start
			cluster start
			shop start shop=1
			web start web=1
		`},
		{name: "empty tree by a known signer", script: `
			start ada start
			bad ada nothing
			push bad
		`, want: `
			alarm: commit … of branch "main" has an empty tree; what was accepted stays in force: revert it, or set the branch back to the accepted commit …
			head start
			cluster start
			shop start shop=1
			web start web=1
			refused bad pleach.dev: its tree is empty…
			refused bad shop: its tree is empty…
			refused bad web: its tree is empty…
		`},
		{name: "an emptied repository is filled again", script: `
			start ada start
			bad ada nothing
			undo bob start web=2
			push undo
		`, want: `
			head undo
			cluster undo
			shop undo shop=1
			web undo web=2
		`},
		{name: "unsigned commits may be taken off the branch again", script: `
			start ada start
			bad - web=2
			push bad
			good ada on start shop=2
			push good
		`, want: `
			head good
			cluster good
			shop good shop=2
			web good web=1
		`},
		{name: "a teammate's git pull and git push", script: `
			start ada start
			mine ada web=2
			push mine
			theirs bob on start shop=2
			pulled bob on theirs+mine web=2
			push pulled
		`, want: `
			head pulled
			cluster pulled
			shop pulled shop=2
			web pulled web=2
		`},
		{name: "a stranger's key used by the next commit", script: `
			start ada start
			one eve key+eve
			two eve web=2
			push two
		`, want: `
			head start
			cluster start
			shop start shop=1
			web start web=1
			refused one pleach.dev: signed by a key that trust/allowed_signers does not know…
			refused two web: signed by a key that trust/allowed_signers does not know…
		`},
		{name: "a stranger's key under an honest commit", script: `
			start ada start
			one eve key+eve
			two ada web=2
			three eve web=3
			push three
		`, want: `
			head two
			cluster start
			shop two shop=1
			web two web=2
			refused one pleach.dev: signed by a key that trust/allowed_signers does not know…
			refused three web: signed by a key that trust/allowed_signers does not know…
		`},
		{name: "a key authorises itself in one commit", script: `
			start ada start
			one eve key+eve web=2
			push one
		`, want: `
			head start
			cluster start
			shop start shop=1
			web start web=1
			refused one pleach.dev: signed by a key…
			refused one web: signed by a key…
		`},
		{name: "a key that was added by a known signer", script: `
			start ada start
			one ada key+eve
			two eve web=2
			push two
		`, want: `
			head two
			cluster two
			shop two shop=1
			web two web=2
		`},
		{name: "later commits of a removed key", script: `
			start ada start
			one ada key-bob
			two bob web=2
			push two
		`, want: `
			head one
			cluster one
			shop one shop=1
			web one web=1
			refused two web: signed by a key that trust/allowed_signers does not know…
		`},
		{name: "a removed key comes back by the other side of a merge", own: true, script: `
			start ada start
			out ada key-bob
			push out
			side bob on start web=2
			back bob on side+out key-bob web=2
			push back
		`, want: `
			head out
			cluster out
			shop out shop=1
			web out web=1
			refused back web: signed by a key that trust/allowed_signers does not know…
		`},
		{name: "a stranger merges an old commit with the head", own: true, script: `
			start ada start
			two ada web=2
			push two
			bad eve on start+two
			push bad
		`, want: `
			head two
			cluster two
			shop two shop=1
			web two web=2
			refused bad web: signed by a key…
		`},
		{name: "a pull does not bring in what was refused here", own: true, script: `
			start ada start
			bad eve web=2
			mine ada shop=3
			push mine
			theirs bob on start web/db=1
			pulled bob on theirs+mine shop=3 web=2
			push pulled
		`, want: `
			head pulled
			cluster pulled
			shop pulled shop=3
			web start web=1
			refused bad web: signed by a key…
			refused pulled web: Deployment.apps default/web is as the refused commit … left it…
		`},
		{name: "an evil merge of a stranger", script: `
			start ada start
			main ada shop=2
			side bob on start web=2
			bad eve on main+side web=9
			push bad
		`, want: `
			head main
			cluster main
			shop main shop=2
			web main web=1
			refused bad web: signed by a key…
		`},
		{name: "who signs a merge answers for all that it brings", script: `
			start ada start
			side eve web=2
			main ada on start shop=2
			merge bob on main+side web=2
			push merge
		`, want: `
			head merge
			cluster merge
			shop merge shop=2
			web merge web=2
		`},
		{name: "a stranger's edit under an honest commit", script: `
			start ada start
			bad eve web=2
			good ada shop=2
			push good
		`, want: `
			head good
			cluster good
			shop good shop=2
			web start web=1
			refused bad web: signed by a key…
		`},
		{name: "a stranger's edit under an honest commit of the same app", script: `
			start ada start
			bad eve web=2
			good ada web/db=5
			push good
		`, want: `
			head good
			cluster good
			shop good shop=1
			web start web=1
			refused bad web: signed by a key…
			refused good web: Deployment.apps default/web is as the refused commit … left it
		`},
		{name: "a stranger's edit of the other object in the file", script: `
			start ada start web/db=3,4
			bad eve web/db=3,9
			good ada web/db=5,9
			push good
		`, want: `
			head good
			cluster good
			shop good shop=1
			web start db-0=3 db-1=4 web=1
			refused bad web: signed by a key…
			refused good web: Deployment.apps default/db-1 is as the refused commit … left it…
		`},
		{name: "an honest commit that overwrites a stranger's edit", script: `
			start ada start
			bad eve web=2
			good ada web=3
			push good
		`, want: `
			head good
			cluster good
			shop good shop=1
			web good web=3
		`},
		{name: "a stranger's edit is reverted", script: `
			start ada start
			bad eve web=2
			good ada shop=2 web/db=5
			undo bob web=1
			push undo
		`, want: `
			head undo
			cluster undo
			shop undo shop=2
			web undo db=5 web=1
		`},
		{name: "a stranger's edit is adopted", script: `
			start ada start
			bad eve web=2
			good ada shop=2
			take bob adopt:bad
			push take
		`, want: `
			head take
			cluster take
			shop take shop=2
			web take web=2
		`},
		{name: "a stranger adopts his own edit", script: `
			start ada start
			bad eve web=2
			take eve adopt:bad
			good ada shop=2
			push good
		`, want: `
			head good
			cluster good
			shop good shop=2
			web start web=1
			refused bad web: signed by a key…
		`},
		{name: "a stranger's broken file hides another edit", script: `
			start ada start
			bad eve web=2 web/db=kind:
			mend ada -web/db
			push mend
		`, want: `
			head mend
			cluster mend
			shop mend shop=1
			web start web=1
			refused bad web: signed by a key…
			refused mend web: Deployment.apps default/web is as the refused commit … left it…
		`},
		{name: "a stranger edits while an app is broken", script: `
			start ada start
			oops ada web/db=kind:
			bad eve web=2
			mend ada web/db=1
			push mend
		`, want: `
			head mend
			cluster mend
			shop mend shop=1
			web start web=1
			refused oops web: apps/web/db.yaml:1: …
			refused bad web: signed by a key…
			refused mend web: Deployment.apps default/db is as the refused commit … left it…
		`},
		{name: "a stranger plants a patch that changes nothing yet", script: `
			start ada start file:apps/web/kustomization.yaml=resources:_[web.yaml];patches:;-_path:_patch.yaml;__target:_{kind:_Deployment,_name:_db} file:apps/web/patch.yaml=-_op:_add;__path:_/metadata/labels;__value:_{a:_b}
			bad eve file:apps/web/patch.yaml=-_op:_replace;__path:_/spec/template/spec/containers/0/image;__value:_"evil:6"
			good ada web/db=1 file:apps/web/kustomization.yaml=resources:_[web.yaml,_db.yaml];patches:;-_path:_patch.yaml;__target:_{kind:_Deployment,_name:_db}
			push good
		`, want: `
			head good
			cluster good
			shop good shop=1
			web start web=1
			refused bad web: signed by a key…
			refused good web: apps/web/patch.yaml is as the refused commit … left it…
		`},
		{name: "a stranger plants a folder that becomes an app", script: `
			start ada start
			bad eve db=6
			good ada app+db
			push good
		`, want: `
			head good
			cluster good
			shop good shop=1
			web good web=1
			refused good db: apps/db/db.yaml is as the refused commit … left it…
		`},
	})
}

// A stranger who pushes without end must not fill the disk and the status with refusals.
func TestRefusalsAreBounded(t *testing.T) {
	t.Parallel()
	s := newStory(t)
	s.run("start ada start")
	head := "start"
	for i := range maxRefusals + 8 {
		head = "bad" + strings.Repeat("i", i)
		s.run(head + " eve web=" + strings.Repeat("2", 1+i%3))
	}
	s.run("push " + head)
	refusals := s.syncer.Accepted().Refusals
	if len(refusals) != maxRefusals || s.labels[refusals[len(refusals)-1].Commit.ID] != head {
		t.Errorf("%d refusals, want the newest %d:\n%s", len(refusals), maxRefusals, s.outcome())
	}
	s.restarted()
}
