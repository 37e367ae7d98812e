package access

import (
	"errors"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/trust"
	"github.com/pleachdev/pleach/reconcile"
)

func newKey(t *testing.T, name string) *trust.SigningKey {
	t.Helper()
	key, err := trust.LoadOrCreateKey(filepath.Join(t.TempDir(), name), name)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// accepts is a state in which the lines of allowed_signers count, n2's key is node's, and user may do
// verb on resource in the namespace shop.
func accepts(t *testing.T, lines string, node *trust.SigningKey, user, verb, resource string) *gitsync.Accepted {
	t.Helper()
	signers, err := trust.ParseAllowedSigners("trust/allowed_signers", []byte(lines))
	if err != nil {
		t.Fatal(err)
	}
	object := func(o reconcile.K8sObject, line int) reconcile.Object {
		return reconcile.Object{Object: o, Source: reconcile.Source{Path: "access.yaml", Line: line}}
	}
	return &gitsync.Accepted{
		Signers: signers.WithNodes(map[string][]ssh.PublicKey{"n2": {node.PublicKey()}}),
		Nodes:   []*corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}},
		Apps: []gitsync.App{{Name: "access", Objects: []reconcile.Object{
			object(&rbacv1.Role{
				ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "r"},
				Rules:      []rbacv1.PolicyRule{{Verbs: []string{verb}, APIGroups: []string{""}, Resources: []string{resource}}},
			}, 1),
			object(&rbacv1.RoleBinding{
				ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "b"},
				RoleRef:    rbacv1.RoleRef{Kind: "Role", Name: "r"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: user}},
			}, 7),
		}}},
	}
}

// Threat 31: what is not asked for by a person who may, for this pod, now and for the first time, gets
// nothing.
func TestRefusedRequests(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	judge := NewJudge(func() time.Time { return now })
	ada, eve, node := newKey(t, "ada"), newKey(t, "eve"), newKey(t, "n2")
	line := "ada@example.com " + ada.AuthorizedKey() + "\n"
	accepted := accepts(t, line, node, "ada@example.com", "create", "pods/exec")
	challenge := Challenge{Cluster: "c", Node: "n1", Session: judge.Session(), UID: "u1", Now: now}
	query := url.Values{"command": {"sh"}, "container": {"app"}}
	terms := NewTerms(challenge, Exec, "shop", "web", query)
	sign := func(key *trust.SigningKey, terms Terms, at time.Time) string {
		ticket, err := Sign(key, terms, at, at)
		if err != nil {
			t.Fatal(err)
		}
		return ticket.Encode()
	}
	with := func(change func(*Terms)) Terms {
		other := terms
		change(&other)
		return other
	}
	foreign := func(key *trust.SigningKey) string { // signed as a commit is
		ticket := Ticket{Nonce: "n", Expires: now.Add(Lifetime).Unix()}
		ticket.Signature, _ = key.Sign(terms.payload(ticket.Nonce, ticket.Expires))
		return ticket.Encode()
	}
	restarted := NewJudge(func() time.Time { return now }).Session()
	for _, tt := range []struct {
		name, header string
		accepted     *gitsync.Accepted
		rule, says   string // "" where it is granted
	}{
		{"granted", sign(ada, terms, now), accepted, "", ""},
		{"granted at the end of its life", sign(ada, terms, now.Add(-Lifetime)), accepted, "", ""},
		{"no signature", "", accepted, "signature", "not signed by a person"},
		{"nonsense", "e30", accepted, "signature", ""},
		{"wrong key", sign(eve, terms, now), accepted, "signature", "allowed_signers does not know"},
		{"a node's key", sign(node, terms, now), accepted, "signature", "the key of node n2"},
		{"a node's key with a line", sign(node, terms, now), accepts(t, line+"node/n2 "+node.AuthorizedKey(), node, "node/n2", "create", "pods/exec"), "signature", "the key of node n2"},
		{"a commit's signature", foreign(ada), accepted, "signature", "namespace"},
		{"a key for git alone", sign(ada, terms, now), accepts(t, `ada@example.com namespaces="git" `+ada.AuthorizedKey(), node, "ada@example.com", "create", "pods/exec"), "signature", "does not allow the namespace"},
		{"other pod", sign(ada, with(func(x *Terms) { x.Pod, x.UID = "db", "u2" }), now), accepted, "signature", "not of"},
		{"another pod of that name", sign(ada, with(func(x *Terms) { x.UID = "u0" }), now), accepted, "signature", "not of"},
		{"other node", sign(ada, with(func(x *Terms) { x.Node = "n3" }), now), accepted, "signature", "not of"},
		{"other cluster", sign(ada, with(func(x *Terms) { x.Cluster = "d" }), now), accepted, "signature", "not of"},
		{"other command", sign(ada, with(func(x *Terms) { x.Options = url.Values{"command": {"ls"}}.Encode() }), now), accepted, "signature", "not of"},
		{"log for exec", sign(ada, with(func(x *Terms) { x.Action = Log }), now), accepted, "signature", "not of"},
		{"before a restart", sign(ada, with(func(x *Terms) { x.Session = restarted }), now), accepted, "signature", "not of"},
		{"expired", sign(ada, terms, now.Add(-Lifetime-Skew-time.Second)), accepted, "expiry", "ended at 11:59:29 UTC"},
		{"for later", sign(ada, terms, now.Add(Skew+time.Second)), accepted, "expiry", "at most"},
		{"no RBAC", sign(ada, terms, now), accepts(t, line, node, "bob@example.com", "create", "pods/exec"), "rbac", "create pods/exec in namespace shop"},
		{"RBAC for the log alone", sign(ada, terms, now), accepts(t, line, node, "ada@example.com", "get", "pods/log"), "rbac", ""},
		{"removed user", sign(ada, terms, now), accepts(t, "bob "+eve.AuthorizedKey(), node, "ada@example.com", "create", "pods/exec"), "signature", "allowed_signers does not know"},
		{"nothing accepted yet", sign(ada, terms, now), nil, "signature", "not accepted any commit"},
	} {
		permit, err := judge.Admit(tt.accepted, terms, tt.header)
		refusal, refused := errors.AsType[*Refusal](err)
		switch {
		case tt.rule == "" && (err != nil || permit.Grant.Source.Line != 7 || permit.Who.Principals[0] != "ada@example.com"):
			t.Errorf("%s: %v, %+v", tt.name, err, permit)
		case tt.rule != "" && (!refused || refusal.Rule != tt.rule || !strings.Contains(refusal.Reason, tt.says) || refusal.Fix == ""):
			t.Errorf("%s: %v, want %s: %s", tt.name, err, tt.rule, tt.says)
		}
	}
}

func TestReplay(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	judge := NewJudge(func() time.Time { return now })
	ada := newKey(t, "ada")
	accepted := accepts(t, "ada "+ada.AuthorizedKey(), newKey(t, "n2"), "ada", "get", "pods/log")
	terms := NewTerms(Challenge{Session: judge.Session()}, Log, "shop", "web", nil)
	start := now
	ticket, err := Sign(ada, terms, now, now)
	if err != nil {
		t.Fatal(err)
	}
	permit, err := judge.Admit(accepted, terms, ticket.Encode())
	if err != nil {
		t.Fatal(err)
	}
	// For as long as its time would let it pass, the nonce is known.
	for _, later := range []time.Duration{0, Lifetime, Lifetime + Skew} {
		now = start.Add(later)
		_, err := judge.Admit(accepted, terms, ticket.Encode())
		if refusal, ok := errors.AsType[*Refusal](err); !ok || refusal.Rule != "replay" {
			t.Errorf("after %s: %v, want a replay", later, err)
		}
	}
	if err := judge.Holds(accepted, terms, permit); err != nil {
		t.Errorf("what goes on is cut off: %v", err)
	}
	if err := judge.Holds(accepts(t, "bob "+newKey(t, "bob").AuthorizedKey(), newKey(t, "n2"), "ada", "get", "pods/log"), terms, permit); err == nil {
		t.Error("what a removed person was granted goes on")
	}
	now = start.Add(Lifetime + Skew + time.Second)
	other, err := Sign(ada, terms, now, now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := judge.Admit(accepted, terms, other.Encode()); err != nil || len(judge.used) != 1 {
		t.Errorf("%v; %d nonces are kept, want the last one", err, len(judge.used))
	}
}

func TestNothingIsSignedForLater(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	if _, err := Sign(newKey(t, "ada"), Terms{Node: "n1"}, now.Add(time.Hour), now); err == nil || !strings.Contains(err.Error(), "1h0m0s off") {
		t.Errorf("%v", err)
	}
}

// What is signed has one form, for ever: agents of other versions work out the same bytes.
func TestGoldenPayload(t *testing.T) {
	terms := NewTerms(Challenge{Cluster: "c", Node: "n1", Session: "s", UID: "u"}, Exec, "shop", "web", url.Values{"tty": {"true"}, "command": {"sh", "-c", "a & <b>"}})
	const want = "pleach access request 1\n" + `{"cluster":"c","node":"n1","session":"s","action":"exec","namespace":"shop","pod":"web","uid":"u",` +
		`"options":"command=sh\u0026command=-c\u0026command=a+%26+%3Cb%3E\u0026tty=true","nonce":"n","expires":7}`
	if got := string(terms.payload("n", 7)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
