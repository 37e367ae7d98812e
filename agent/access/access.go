// Package access is how a person asks a node for a shell or a log of a pod that runs there: with a
// signature, judged by that node alone.
//
// The person's agent carries the request to the pod's node, and is not believed: a node's key opens no
// shell. What is signed names the cluster, the node, this run of its agent, the pod and its uid, and all
// that is asked for, together with a nonce and a time at which it ends; the node works the same bytes out
// from the request in its hands. Who signed must be in trust/allowed_signers, and allowed it by the accepted
// Roles and bindings.
package access

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/gitsync/trust"
)

// Header carries a [Ticket] with a request.
const Header = "Pleach-Access"

// Bounds of a ticket's life.
const (
	Lifetime = time.Minute
	// Skew is how far clocks may differ. A ticket is remembered for so long after its end.
	Skew = 30 * time.Second
)

// domain begins what is signed; its number is that of the encoding.
const domain = "pleach access request 1\n"

// Challenge is what a node tells of itself and of a pod, for a person to sign.
type Challenge struct {
	// Needed says whether a signature is: not from root on the pod's own node.
	Needed  bool      `json:"needed"`
	Cluster string    `json:"cluster"`
	Node    string    `json:"node"` // where the pod runs
	Session string    `json:"session"`
	UID     types.UID `json:"uid"` // of the pod
	Now     time.Time `json:"now"` // by the node's clock
}

// Terms are what a person signs, beside nonce and end.
type Terms struct {
	Cluster   string    `json:"cluster"`
	Node      string    `json:"node"`
	Session   string    `json:"session"` // of the agent on Node: a restart ends all tickets
	Action    Action    `json:"action"`
	Namespace string    `json:"namespace"`
	Pod       string    `json:"pod"`
	UID       types.UID `json:"uid"`
	// Options are the request's query, sorted as url.Values.Encode does: container, command, stdin,
	// tty, or what of a log is wanted.
	Options string `json:"options"`
}

// Action is what is asked of a pod.
type Action string

// The actions.
const (
	Exec Action = "exec"
	Log  Action = "log"
)

// NewTerms are the terms of a request for a pod that c tells of.
func NewTerms(c Challenge, action Action, namespace, pod string, options url.Values) Terms {
	return Terms{
		Cluster: c.Cluster, Node: c.Node, Session: c.Session, Action: action,
		Namespace: namespace, Pod: pod, UID: c.UID, Options: options.Encode(),
	}
}

// Ticket is a signature over terms, for once and for a short time.
type Ticket struct {
	Nonce     string `json:"nonce"`     // 128 random bits or more, in any text
	Expires   int64  `json:"expires"`   // seconds since 1970, by the node's clock
	Signature string `json:"signature"` // armoured SSHSIG in the namespace trust.AccessNamespace
}

// payload is what is signed: the domain, then one JSON object of fixed fields in a fixed order, without
// spaces.
func (t Terms) payload(nonce string, expires int64) []byte {
	body, err := json.Marshal(struct {
		Terms
		Nonce   string `json:"nonce"`
		Expires int64  `json:"expires"`
	}{t, nonce, expires})
	if err != nil {
		panic(err) // strings and a number
	}
	return append([]byte(domain), body...)
}

// Sign signs terms with a person's key. nodeNow is the clock of the pod's node, now the person's own: a
// clock that is far off could have the person sign for later.
func Sign(key *trust.SigningKey, t Terms, nodeNow, now time.Time) (Ticket, error) {
	if off := nodeNow.Sub(now).Abs(); off > Lifetime {
		return Ticket{}, fmt.Errorf("the clock of node %s is %s off this machine's; nothing was signed\n  to fix: set the clocks", t.Node, off.Round(time.Second))
	}
	ticket := Ticket{Nonce: rand.Text(), Expires: nodeNow.Add(Lifetime).Unix()}
	var err error
	ticket.Signature, err = key.SignIn(trust.AccessNamespace, t.payload(ticket.Nonce, ticket.Expires))
	return ticket, err
}

// Encode is the ticket as [Header] has it.
func (t Ticket) Encode() string {
	body, err := json.Marshal(t)
	if err != nil {
		panic(err) // strings and a number
	}
	return base64.StdEncoding.EncodeToString(body)
}

// decode reads what Encode wrote.
func decode(header string) (t Ticket, err error) {
	body, err := base64.StdEncoding.DecodeString(header)
	if err != nil {
		return t, errors.New(Header + " is not base64")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&t); err != nil {
		return t, fmt.Errorf("%s: %w", Header, err)
	}
	return t, nil
}
