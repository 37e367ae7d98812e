// Package gitsync follows the config repository: it fetches the branch, verifies every commit by the
// rules of the last accepted one, renders and decodes the apps, and pushes the status branch.
package gitsync

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/gitsync/manifest"
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
	Nodes         []*corev1.Node // sorted by name
	Apps          []App          // sorted by name
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
	App     string // "" when the whole commit is refused; ClusterUnit for the cluster's own files
	Reason  string // one sentence: "signed by a key that trust/allowed_signers does not know: SHA256:…"
	// Running is the accepted commit that stays in force.
	Running  reconcile.Commit
	Problems []manifest.Problem
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
	// Alarm is a standing finding about the branch itself: rewound, forked, vanished. "" when none.
	Alarm string
}
