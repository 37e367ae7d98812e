// Package trust decides whose signature a commit carries.
//
// It reads Git's own allowed_signers format, though less of it than OpenSSH does: whatever could
// mean different things to two readers, or different things on two days, is an error. Signatures
// are checked over the raw bytes of the commit; no date is ever looked at.
package trust

import (
	"fmt"
	"strings"
)

// Namespaces of signatures (PROTOCOL.sshsig): what was signed in one counts in no other.
const (
	Namespace       = "git"                    // git's own, for commits and tags
	AccessNamespace = "pleach-exec@pleach.dev" // requests for a shell or a log
)

// Identity is whose key made a signature.
type Identity struct {
	// Principals are the names that allowed_signers gives to the key, as it writes them. They are
	// one person.
	Principals []string
	// Fingerprint is "SHA256:…", as ssh-keygen -l shows it.
	Fingerprint string
}

// String is "ada@example.com (SHA256:…)".
func (i Identity) String() string {
	return fmt.Sprintf("%s (%s)", strings.Join(i.Principals, ","), i.Fingerprint)
}

// Reason is why a signature was refused, for programs.
type Reason string

// The reasons of a [Refusal].
const (
	Unsigned       Reason = "Unsigned"
	UnknownKey     Reason = "UnknownKey"
	NodeKey        Reason = "NodeKey"
	BadSignature   Reason = "BadSignature"
	TwoSignatures  Reason = "TwoSignatures"
	WrongNamespace Reason = "WrongNamespace"
	NotSupported   Reason = "NotSupported"
	WeakKey        Reason = "WeakKey"
)

// Refusal says why a signature does not count.
type Refusal struct {
	Reason      Reason
	Fingerprint string // of the key that the signature names; "" when it names none
	Message     string // for people, to be put after "commit …: "
}

func (r *Refusal) Error() string { return r.Message }

func refuse(reason Reason, fingerprint, format string, args ...any) *Refusal {
	return &Refusal{Reason: reason, Fingerprint: fingerprint, Message: fmt.Sprintf(format, args...)}
}
