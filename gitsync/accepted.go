// Package gitsync follows the config repository: it fetches the branch, verifies every commit by the
// rules of the last accepted one, renders and decodes the apps, and pushes the status branch.
//
// # What is accepted
//
// A [Syncer] holds a trusted commit: at first the introduction that the node was enrolled with, later
// the newest commit that a known signer vouches for. The branch must contain it; a branch that was
// rewound, replaced or deleted is reported, and what runs goes on running. From the trusted commit
// the walk goes towards the head, at each merge along the first parent that contains the trusted
// commit, so that the merge of an ordinary git pull is followed on the side that was there before.
//
// Each commit on the way is judged by the cluster's own files as they were last accepted, never by
// those of its parent, which may have been refused. Its signature must be by a key that the accepted
// trust/allowed_signers knows, over its raw bytes, and its tree must be harmless. Then each unit is
// judged by itself: every app, and the cluster's own files together as [ClusterUnit]. A unit that is
// refused stays at its accepted version and the others move on. A later commit is compared with that
// version again, so that a bad commit is mended by reverting or correcting it.
//
// An app moves to a commit when, there,
//
//   - it renders, decodes and validates, and Kubernetes' rules for updates allow the change;
//   - the [Judge] allows the signer every change of this commit against the parent followed;
//   - the accepted policies deny nothing that differs from the accepted version;
//   - no other app has one of its objects;
//   - nothing of it is as a refused commit of a stranger left it (launder.go has the exact rule):
//     such a change is reverted, made again by somebody known, or adopted by name with the trailer
//     Pleach-Adopt.
//
// Dates are shown and never compared. What is accepted is a function of the history since the
// introduction, with one exception that protects: at a merge whose sides both contain the
// introduction, a node stays on the side that it trusted already, where a node that starts later takes
// the first. The two differ only when a commit is refused on one side and not on the other; whenever
// both accept the same content they hold the same uids, generations and revisions.
package gitsync

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/gitsync/manifest"
	"github.com/pleachdev/pleach/gitsync/trust"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
	"github.com/pleachdev/pleach/reconcile"
)

// Accepted is what the flock is asked to run: the newest state that the verifier let through.
// It is a pure function of the history since the introduction and of spec.version. It is never
// changed; a newer one replaces it.
type Accepted struct {
	// Head is the newest commit that was verified as a descendant of the one before. Single apps
	// may stay behind it.
	Head    reconcile.Commit
	Cluster v1alpha1.Cluster
	// ClusterCommit is the accepted commit of pleach.yaml, trust, nodes and policies together.
	ClusterCommit reconcile.Commit
	// Signers are those of trust/allowed_signers; nil in tests alone.
	Signers *trust.AllowedSigners
	Nodes   []*corev1.Node // sorted by name
	Apps    []App          // sorted by name
	// Refusals lists what is standing against the head: commits, or apps of commits, that were
	// refused since the app's accepted version. Sorted by level, then app. Empty when all is well.
	Refusals []Refusal
	// Warnings of the accepted versions: what is not supported yet, policy warnings.
	Warnings []manifest.Problem
}

// App is the accepted version of one app.
type App struct {
	Name    string
	Commit  reconcile.Commit
	Objects []reconcile.Object // sorted by kind, namespace, name
}

// Refusal says that a commit was not accepted, wholly or for one app.
type Refusal struct {
	Commit  reconcile.Commit
	Subject string // first line of the commit's message
	Author  string // "Name <mail>", as the commit claims
	Signer  string // principals of the key that signed it; "" when that is nobody known
	App     string // "" when the whole commit is refused; ClusterUnit for the cluster's own files
	Reason  string // one sentence: "signed by a key that trust/allowed_signers does not know: SHA256:…"
	// Running is the accepted commit that stays in force.
	Running  reconcile.Commit
	Problems []manifest.Problem
	// Stranger is the refused commit, of nobody known, whose content this one would bring in with its
	// own; "" where that is not the reason.
	Stranger string `json:",omitempty"`
}

// Findings lists all that is wrong, one finding a line. The reason is left out where it only sums up
// the problems.
func (r Refusal) Findings() []string {
	var lines []string
	if len(r.Problems) == 0 || !strings.HasPrefix(r.Reason, r.Problems[0].Error()) {
		lines = append(lines, r.Reason)
	}
	for _, p := range r.Problems {
		lines = append(lines, p.Error())
	}
	return lines
}

// Remedy says what a person can do about the refusal.
func (r Refusal) Remedy() string {
	revert := fmt.Sprintf("\"git revert %.12s\"", r.Commit.ID)
	switch {
	case r.Stranger != "":
		return fmt.Sprintf("undo what nobody known signed (\"git revert %.12[1]s\"), or adopt it: a signed commit whose message ends with a line \"%[2]s: %.12[1]s\"",
			r.Stranger, adoptTrailer)
	case r.Signer != "" || len(r.Problems) > 0:
		return "push a commit that corrects it, or " + revert + "; Pleach looks at the next commit by itself"
	default:
		return "have somebody whom trust/allowed_signers knows revert it (" + revert + ") or make the change in a commit of their own"
	}
}

// ClusterUnit names the cluster's own files (pleach.yaml, trust, nodes, policies) where an app's
// name is expected.
const ClusterUnit = "pleach.dev"

// Remote says how the last contact with the remote went.
type Remote struct {
	URL     string // without credentials
	Branch  string
	LastTry time.Time
	LastOK  time.Time
	Err     string // of the last try; "" when it went well
	// PeersSince is since when this node follows its peers, because the remote does not answer; zero
	// while it does, and while no peer has had anything newer.
	PeersSince time.Time
	// Alarm is a standing finding about the branch itself: rewound, forked, vanished, emptied, older than
	// what peers have verified, or another than theirs. "" when there is none. It stays while the remote
	// is out of reach.
	Alarm string
}
