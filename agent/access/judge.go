package access

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/trust"
	"github.com/pleachdev/pleach/policy"
)

// Judge decides on this node's pods for as long as its agent runs.
type Judge struct {
	session string
	now     func() time.Time

	mu   sync.Mutex
	used map[string]time.Time // nonce → when it may be forgotten
}

// maxUsed bounds the tickets that are remembered: far more than people ask for in a minute and a half.
const maxUsed = 10_000

// NewJudge returns a judge of a new session, by a clock.
func NewJudge(now func() time.Time) *Judge {
	return &Judge{session: rand.Text(), now: now, used: map[string]time.Time{}}
}

// Session names the judge: what was signed for another is not taken.
func (j *Judge) Session() string { return j.session }

// Now is the judge's clock.
func (j *Judge) Now() time.Time { return j.now() }

// Refusal says why a request is not answered, by which rule, and what to do.
type Refusal struct {
	Rule   string // "signature", "expiry", "replay", "rbac"
	Reason string
	Fix    string
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("refused by the rule %q: %s\n  to fix: %s", r.Rule, r.Reason, r.Fix)
}

// Permit is what was granted to whom.
type Permit struct {
	Who    trust.Identity
	Grant  policy.Grant
	ticket Ticket
}

// Admit judges a request by what is accepted now; header is [Header]'s value. Each ticket is admitted
// once. The error is always a [*Refusal].
func (j *Judge) Admit(a *gitsync.Accepted, t Terms, header string) (Permit, error) {
	if header == "" {
		return Permit{}, &Refusal{"signature", "the request is not signed by a person; a node's word is not enough", "ask with \"pleach\" and a key of trust/allowed_signers"}
	}
	ticket, err := decode(header)
	if err != nil {
		return Permit{}, &Refusal{"signature", err.Error(), "use the same version of pleach here and there"}
	}
	p, err := judge(a, t, ticket)
	if err != nil {
		return Permit{}, err
	}
	now := j.now()
	expires := time.Unix(ticket.Expires, 0)
	switch {
	case now.After(expires.Add(Skew)):
		return Permit{}, &Refusal{"expiry", fmt.Sprintf("the request ended at %s, and it is %s", clock(expires), clock(now)), "ask again"}
	case expires.After(now.Add(Lifetime + Skew)):
		return Permit{}, &Refusal{"expiry", fmt.Sprintf("the request would hold until %s; at most %s are allowed, and it is %s", clock(expires), Lifetime, clock(now)), "set the clocks, and ask again"}
	}
	return p, j.use(ticket.Nonce, now, expires.Add(Skew))
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05 UTC") }

// Holds says whether what was granted would be by what is accepted now, whatever the request's age: who
// signed is still known, and still allowed. The error is always a [*Refusal].
func (j *Judge) Holds(a *gitsync.Accepted, t Terms, p Permit) error {
	_, err := judge(a, t, p.ticket)
	return err
}

func judge(a *gitsync.Accepted, t Terms, ticket Ticket) (Permit, error) {
	if a == nil || a.Signers == nil {
		return Permit{}, &Refusal{"signature", "this node has not accepted any commit yet", "wait until \"pleach status\" there shows a head"}
	}
	who, err := a.Signers.VerifyIn(trust.AccessNamespace, t.payload(ticket.Nonce, ticket.Expires), ticket.Signature)
	if err != nil {
		return Permit{}, &Refusal{"signature", "the request " + err.Error(), fixSignature(err, t)}
	}
	ask := policy.Access{
		Principals: who.Principals, Verb: "create", Resource: "pods", Subresource: string(t.Action),
		Namespace: t.Namespace, Name: t.Pod,
	}
	if t.Action == Log {
		ask.Verb = "get"
	}
	grant, ok := policy.Allow(slices.Values(a.Objects()), ask)
	if !ok {
		return Permit{}, &Refusal{
			"rbac", fmt.Sprintf("no accepted Role and binding lets %s %s", who, ask),
			"commit to an app, and push:\n" + ask.Proposal(),
		}
	}
	return Permit{who, grant, ticket}, nil
}

// fixSignature says what a person can do about a signature that does not count.
func fixSignature(err error, t Terms) string {
	refusal, ok := errors.AsType[*trust.Refusal](err)
	if !ok {
		return "ask again"
	}
	switch refusal.Reason {
	case trust.UnknownKey:
		return "sign with a key of trust/allowed_signers: --identity FILE, or git's user.signingkey"
	case trust.NodeKey:
		return "sign with a person's key: --identity FILE, or git's user.signingkey"
	case trust.WrongNamespace:
		return fmt.Sprintf("add %q to the namespaces of the key's line in trust/allowed_signers", trust.AccessNamespace)
	case trust.BadSignature:
		return fmt.Sprintf("ask again: it may have been signed for another pod, node or command, or before the agent of node %s restarted", t.Node)
	default:
		return "sign with an SSH key of trust/allowed_signers"
	}
}

// use remembers a nonce, and refuses one that it remembers.
func (j *Judge) use(nonce string, now, until time.Time) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for n, end := range j.used {
		if now.After(end) {
			delete(j.used, n)
		}
	}
	if _, again := j.used[nonce]; again {
		return &Refusal{"replay", "the same request came before", "ask again: each request is signed anew"}
	}
	if len(j.used) >= maxUsed {
		return &Refusal{"replay", fmt.Sprintf("%d requests came within %s, more than can be remembered", maxUsed, Lifetime), "wait a minute, and ask again"}
	}
	j.used[nonce] = until
	return nil
}
