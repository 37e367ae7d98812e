package gitstore

import (
	"errors"
	"fmt"
)

// ErrUnreachable says that the remote did not answer, or answered that it cannot: wait and retry.
// Refused credentials and an unknown repository count too, because only the remote's side says so.
var ErrUnreachable = errors.New("remote is out of reach")

// ErrMissingRef says that the remote answered and does not have the ref.
var ErrMissingRef = errors.New("remote has no such ref")

// ErrLostRace says that a ref was not where the update expected it. Nothing was changed: read the
// ref and build again.
var ErrLostRace = errors.New("ref was moved by someone else")

// ErrIncomplete says that the store lacks a file or a directory of a commit that it has. It is no
// finding about the commit: the next Fetch brings everything again.
var ErrIncomplete = errors.New("is missing in the store")

// ObjectError says that an object is not fit to be believed.
type ObjectError struct {
	ID     string // full hex object id
	Path   string // from the tree's root; "" for a commit
	Reason string
	// Missing says that it is a commit that the store does not have.
	Missing bool
}

func (e *ObjectError) Error() string {
	if e.Path != "" {
		return fmt.Sprintf("%s: %s (object %.12s)", e.Path, e.Reason, e.ID)
	}
	return fmt.Sprintf("object %.12s %s", e.ID, e.Reason)
}

// RejectedError says that the remote refuses an update for a reason that a retry does not mend: a
// protected branch, a hook, a quota.
type RejectedError struct {
	Ref    string
	Reason string // in the remote's words
}

func (e *RejectedError) Error() string {
	return fmt.Sprintf("%s: remote refuses the push: %s", e.Ref, e.Reason)
}
