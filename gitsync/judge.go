package gitsync

import (
	"github.com/pleachdev/pleach/gitsync/trust"
)

// Verb says what a commit does to an object.
type Verb string

// The verbs of a change, in Kubernetes' words.
const (
	Create Verb = "create"
	Update Verb = "update"
	Delete Verb = "delete"
)

// Change is one difference between a commit and the parent that is followed.
type Change struct {
	Verb Verb
	// App is the app that the object is part of; [ClusterUnit] for the cluster's own files.
	App string
	// Object is "apps/v1 Deployment default/web" for an object, a path from the repository's root for
	// one of the cluster's own files, and "" for the app itself: a commit updates an app when it
	// changes a file that the app's rendering reads, even if no object is different yet.
	Object string
}

// Judge says which changes a signer may make. It sees neither clock nor network: every node that
// walks the same history must hear the same.
type Judge interface {
	// Judge returns why the signer may not make the change, as a sentence without its subject ("may
	// not delete …"), or "" when he may. It judges by the rules of the last accepted state.
	Judge(by trust.Identity, c Change) (reason string)
}

// KnownSigners lets everybody whom trust/allowed_signers names change everything.
type KnownSigners struct{}

// Judge allows every change.
func (KnownSigners) Judge(trust.Identity, Change) string { return "" }
