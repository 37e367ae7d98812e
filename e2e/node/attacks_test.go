package node_test

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/pleachdev/pleach/e2e/lab"
)

// TestAttacks pushes what must not be believed. Every attack is refused and reported, no container
// notices, and the branch is mended as the report says.
func TestAttacks(t *testing.T) {
	t.Parallel()
	f, bob := newPair(t)
	eve, err := lab.NewKey(t.Context(), f.lab.Dir, "eve@example.org")
	must(t, err)
	const webFile = appDir + "/web.yaml"
	// evil changes what runs, so that containers would be replaced if it were believed.
	evil := func(f *flock) { f.repo.Replace(webFile, "podinfo:6.14.1", "podinfo:6.14.2") }
	// mend reverts as "to fix" says.
	mend := func(f *flock, commits ...string) {
		f.t.Helper()
		for _, id := range commits {
			f.waitTold(fmt.Sprintf("git revert %.12s", id))
			f.repo.Revert(id)
		}
		f.repo.Push()
	}
	attack := func(name string, do func(f *flock)) {
		if t.Failed() {
			return // the branch is not mended, so that the others would fail, too
		}
		f.run(name, func(f *flock) {
			f.unharmed(func() { do(f); f.waitClean() })
		})
	}
	// forged makes a signed commit of evil and forges it.
	forged := func(f *flock, forge func(raw []byte) []byte) string {
		f.t.Helper()
		evil(f)
		honest := f.repo.Commit("forged")
		return f.repo.Forge(forge(f.repo.Raw(honest)))
	}

	attack("unsigned", func(f *flock) {
		evil(f)
		id := f.repo.CommitUnsigned("unsigned")
		f.repo.Push()
		f.waitRefused(id, app, "is not signed")
		mend(f, id)
	})
	attack("signed by a stranger", func(f *flock) {
		evil(f)
		id := f.repo.CommitBy(eve, "by a stranger")
		f.repo.Push()
		f.waitRefused(id, app, "signed by a key that trust/allowed_signers does not know: SHA256:")
		mend(f, id)
	})
	attack("signed by a node", func(f *flock) {
		evil(f)
		id := f.repo.CommitBy(&lab.Key{File: filepath.Join(f.dir(), "keys", "node.key")}, "by a node")
		f.repo.Push()
		f.waitRefused(id, app, "node "+nodeName)
		mend(f, id)
	})
	attack("a forged header", func(f *flock) {
		id := forged(f, func(raw []byte) []byte {
			return bytes.Replace(raw, []byte("\nauthor alice"), []byte("\nauthor mallory"), 1)
		})
		f.repo.Push()
		f.waitRefused(id, app, "carries a signature that is not of SHA256:")
		mend(f, id)
	})
	attack("a header twice", func(f *flock) {
		id := forged(f, func(raw []byte) []byte {
			return lab.WithHeader(raw, "author", "Mallory <mallory@example.org> 1700000000 +0000")
		})
		f.repo.Push()
		f.waitRefused(id, "", `lacks the header "committer" where it belongs`)
		mend(f, id)
	})
	attack("the tree twice", func(f *flock) {
		accepted := f.repo.Head()
		// Git itself sees no parent behind the second tree, and takes it for another history.
		f.repo.ForcePush(forged(f, func(raw []byte) []byte {
			return lab.WithHeader(raw, "tree", f.repo.Git("rev-parse", accepted+"^{tree}"))
		}))
		f.waitAlarm(`lacks the header "author" where it belongs`, "set the branch back to the accepted commit "+accepted[:12])
		f.repo.ForcePush(accepted)
		f.repo.Reset(accepted)
	})
	attack("two signatures", func(f *flock) {
		id := forged(f, func(raw []byte) []byte {
			twice, err := lab.Sign(f.t.Context(), raw, bob)
			must(f.t, err)
			return twice
		})
		f.repo.Push()
		f.waitRefused(id, "", `has the header "gpgsig" a second time`)
		mend(f, id)
	})
	attack("a force-push to an older commit", func(f *flock) {
		older := f.repo.Head()
		f.repo.Write(otherDir+"/note.yaml", configMap("note"))
		accepted := f.push("a note")
		f.waitClean()
		f.repo.ForcePush(older)
		f.waitAlarm(fmt.Sprintf("was set back to %.12s, which is older than the accepted commit %.12s", older, accepted),
			"to go back, revert by a new commit on top of it")
		f.repo.Revert(accepted)
		f.repo.Push()
	})
	attack("another branch", func(f *flock) {
		accepted := f.repo.Head()
		f.repo.Reset(f.introduction)
		f.repo.Write("README.md", "another history\n")
		f.repo.ForcePush(f.repo.Commit("another history"))
		f.waitAlarm("does not contain the accepted commit "+accepted[:12], "push a branch that contains it")
		f.repo.Reset(accepted)
		f.repo.ForcePush(accepted)
	})
	attack("a deleted branch", func(f *flock) {
		accepted := f.repo.Head()
		f.repo.DeleteBranch("main")
		f.waitAlarm("is gone from the remote", "push it again, with the accepted commit "+accepted[:12])
		f.repo.Push()
	})
	attack("an empty tree", func(f *flock) {
		id := f.repo.CommitTree("empty", f.repo.Tree())
		f.repo.Reset(id)
		f.repo.Push()
		f.waitAlarm("has an empty tree", "revert it")
		f.waitRefused(id, app, "its tree is empty, and nothing is deleted because all is missing: remove apps from pleach.yaml instead")
		mend(f, id)
	})
	attack("a teammate's git pull and git push", func(f *flock) {
		theirs := f.lab.Clone(f.t, bob, f.git.URL("flock"))
		f.repo.Write(appDir+"/mine.yaml", configMap("mine"))
		f.push("mine")
		theirs.Write(otherDir+"/theirs.yaml", configMap("theirs"))
		theirs.Commit("theirs")
		merge := theirs.Pull()
		theirs.Push()
		f.repo.Reset(f.repo.Fetch("main"))
		f.waitHead(merge)
		f.wait("both are accepted", func(context.Context) error {
			text, err := f.try("get", "configmaps")
			if err == nil {
				err = lacks("get configmaps", text, "mine", "theirs")
			}
			return err
		})
	})
	attack("a stranger's key in commit 1 used by commit 2", func(f *flock) {
		f.repo.Write("trust/allowed_signers", f.repo.Read("trust/allowed_signers")+eve.AllowedSigner())
		first := f.repo.CommitBy(eve, "let me in")
		evil(f)
		second := f.repo.CommitBy(eve, "thanks")
		f.repo.Push()
		f.waitRefused(first, "pleach.dev", "signed by a key that trust/allowed_signers does not know")
		f.waitRefused(second, app, "signed by a key that trust/allowed_signers does not know")
		mend(f, second, first)
	})
	attack("a stranger's edit under an honest commit", func(f *flock) {
		evil(f)
		bad := f.repo.CommitBy(eve, "a stranger's edit")
		f.repo.Write(appDir+"/honest.yaml", configMap("honest"))
		f.repo.Write(otherDir+"/honest.yaml", configMap("honest-other"))
		good := f.push("an honest commit")
		f.waitRefused(bad, app, "signed by a key that trust/allowed_signers does not know")
		f.waitRefused(good, app, fmt.Sprintf("Deployment.apps default/web is as the refused commit %.12s left it", bad))
		if text := f.kubectl("get", "configmaps"); lacks("", text, "honest-other") != nil {
			f.t.Errorf("the other app did not move on:\n%s", text)
		}
		mend(f, bad)
		f.waitClean()
		if text := f.kubectl("get", "configmaps"); lacks("", text, "honest ") != nil {
			f.t.Errorf("the honest part is not there once the rest is reverted:\n%s", text)
		}
	})
	attack("a stranger's edit that is adopted", func(f *flock) {
		f.repo.Write(appDir+"/gift.yaml", configMap("gift"))
		bad := f.repo.CommitBy(eve, "a gift")
		f.repo.Push()
		f.waitRefused(bad, app, "signed by a key that trust/allowed_signers does not know")
		f.repo.Write(appDir+"/honest.yaml", configMap("honest-too"))
		good := f.push("an honest commit")
		f.waitRefused(good, app, fmt.Sprintf("as the refused commit %.12s left it", bad))
		f.waitTold(fmt.Sprintf("Pleach-Adopt: %.12s", bad))
		f.push(fmt.Sprintf("the gift is welcome\n\nPleach-Adopt: %.12s", bad))
		f.waitClean()
		if text := f.kubectl("get", "configmaps"); lacks("", text, "gift", "honest-too") != nil {
			f.t.Errorf("what was adopted is not there:\n%s", text)
		}
	})
}

func configMap(name string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: %s\ndata:\n  key: value\n", name)
}
