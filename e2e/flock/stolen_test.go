package flock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/agent/access"
	"github.com/pleachdev/pleach/agent/api"
	"github.com/pleachdev/pleach/e2e/lab"
	"github.com/pleachdev/pleach/gitsync/trust"
	"github.com/pleachdev/pleach/gossip"
	"github.com/pleachdev/pleach/reconcile"
)

// shells lets Alice have a shell and a log of every pod of the app.
const shells = `apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: shells, namespace: default}
rules:
- {apiGroups: [""], resources: [pods/exec], verbs: [create]}
- {apiGroups: [""], resources: [pods/log], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: shells, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: shells}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: ` + user + `}
`

// TestStolenKey: whoever has a node's key gets no shell and no log of another node's pods, draws no other
// node's pod IP to himself, and signs no commit that anybody accepts.
func TestStolenKey(t *testing.T) {
	t.Parallel()
	f := newFlock(t, 3)
	f.repo.Write(appDir+"/web.yaml", web)
	f.repo.Write(appDir+"/shells.yaml", shells)
	f.deploy("six replicas", f.machines...)
	before := f.spread(6)
	m, victim := f.machines[2], f.machines[0]
	file := filepath.Join(m.dir(), "keys", "node.key")

	t.Run("no shell and no log", func(t *testing.T) {
		f := f.in(t)
		pod := before[victim.Name][0]
		for _, ask := range [][]string{{"exec", pod, "--", "podcli", "check", "http", "127.0.0.1:9898/healthz"}, {"logs", pod}} {
			signed := func(key string) []string {
				return append([]string{f.program, ask[0], "--identity", key}, ask[1:]...)
			}
			// The person may, so that what is refused is the key.
			if _, err := m.Exec(t.Context(), signed(f.repo.Key.File)...); err != nil {
				t.Errorf("%s with a person's signature: %v", ask[0], err)
			}
			if out, err := m.Exec(t.Context(), signed(file)...); err == nil || !strings.Contains(err.Error(), `rule "signature"`) {
				t.Errorf("%s with the node's signature: %s, %v", ask[0], out, err)
			}
		}
		// The same without Pleach's own command: without a ticket, and with one that the key has signed.
		status, err := victim.api.Status(t.Context())
		f.must(err)
		own, err := victim.own(t.Context())
		f.must(err)
		key, err := trust.LoadKey(file)
		f.must(err)
		x := thief{m.Name, key.Ed25519(), f.underlay.DialContext}
		query := url.Values{"command": {"podcli", "check", "http", "127.0.0.1:9898/healthz"}}
		terms := access.Terms{Cluster: status.Cluster, Node: victim.Name, Session: f.session(x, victim, own[0]), Namespace: "default", Pod: own[0].Name, UID: own[0].UID}
		for _, a := range []struct {
			method string
			action access.Action
			query  url.Values
		}{{http.MethodPost, access.Exec, query}, {http.MethodGet, access.Log, nil}} {
			terms.Action, terms.Options = a.action, a.query.Encode()
			ticket, err := access.Sign(key, terms, status.Now, status.Now)
			f.must(err)
			for what, header := range map[string]http.Header{"nothing": {}, "the node's signature": {access.Header: {ticket.Encode()}}} {
				path := "/v1/pods/default/" + own[0].Name + "/" + string(a.action) + "?" + a.query.Encode()
				code, answer, err := x.say(t.Context(), victim, a.method, path, header, nil)
				if err != nil || code != http.StatusForbidden || !strings.Contains(string(answer), "signature") {
					t.Errorf("%s with %s: %d %s %v", a.action, what, code, answer, err)
				}
			}
		}
	})

	t.Run("no foreign pod IP", func(t *testing.T) {
		f := f.in(t)
		// The node itself is quiet, so that the thief has the last word.
		f.killAgent(m)
		defer func() {
			f.startAgent(m) // which hears what the thief has said, and counts on above it
			f.alive(f.machines...)
			f.stays(before, f.settled(6, f.machines...), f.machines...)
			f.agreed(before)
		}()
		key := f.nodeKey(m)
		x := thief{m.Name, key, f.underlay.DialContext}
		own, err := victim.own(t.Context())
		f.must(err)
		says := f.lastDocument(m)
		says.Seq += 100
		for i := range says.Instances {
			says.Instances[i].PodIP = own[0].Status.PodIP
		}
		for i, a := range says.Addresses {
			if a.Type == corev1.NodeInternalIP {
				says.Addresses[i].Address = victim.Addr.String()
			}
		}
		for _, other := range f.machines[:2] {
			f.must(x.publish(t.Context(), other, says, key))
		}
		for _, other := range f.machines[:2] {
			f.wait(other.Name+" strikes out what cannot be true", func(ctx context.Context) error {
				out, err := other.Exec(ctx, f.program, "describe", "node", other.Name)
				if err == nil && !strings.Contains(string(out), "DocumentStruck") {
					err = fmt.Errorf("no event says so:\n%s", out)
				}
				if err != nil {
					return err
				}
				return f.ownsIP(ctx, other, own[0].Status.PodIP, own[0].UID)
			})
		}
		routes, err := f.machines[1].Exec(t.Context(), "ip", "route", "get", own[0].Status.PodIP)
		f.must(err)
		if !strings.Contains(string(routes), "via "+victim.Addr.String()+" ") {
			t.Errorf("the way to a pod of %s is %s", victim.Name, routes)
		}
		// Nor does a document count that is another node's by its text and the thief's by its signature.
		other := f.lastDocument(f.machines[1])
		other.Seq, other.Instances = other.Seq+100, nil
		f.must(x.publish(t.Context(), victim, other, key))
		f.wait("it is refused", func(context.Context) error {
			return saysInLog(victim, "a document is refused", "not signed by a key of the node")
		})
	})

	t.Run("no commit", func(t *testing.T) {
		f := f.in(t)
		f.repo.Replace(appDir+"/web.yaml", image, nextImage)
		id := f.repo.CommitBy(&lab.Key{File: file, Principal: user}, "by a stolen key")
		f.repo.Push()
		for _, other := range f.machines {
			f.wait(other.Name+" refuses it", func(ctx context.Context) error {
				st, err := other.api.Status(ctx)
				if err != nil {
					return err
				}
				for _, r := range st.Refusals {
					if r.Commit.ID == id && strings.Contains(fmt.Sprint(r.Reason), "node "+m.Name) {
						return nil
					}
				}
				return fmt.Errorf("refused: %v", st.Refusals)
			})
		}
		f.stays(before, f.settled(6, f.machines...), f.machines...)
		f.repo.Revert(id)
		f.repo.Push()
		f.waitHead(f.repo.Head(), f.machines...)
	})
}

// session asks a node as the thief for what a person would sign.
func (f *flock) session(x thief, m *machine, pod *corev1.Pod) string {
	f.t.Helper()
	status, answer, err := x.say(f.t.Context(), m, http.MethodGet, "/v1/pods/default/"+pod.Name+"/access", nil, nil)
	f.must(err)
	_, session, ok := strings.Cut(string(answer), `"session":"`)
	if session, _, _ = strings.Cut(session, `"`); !ok {
		f.t.Fatalf("the node tells %d %s", status, answer)
	}
	return session
}

// publish sends a document, as its node would, but signed by this key.
func (x thief) publish(ctx context.Context, to *machine, d reconcile.Document, key []byte) error {
	sealed, err := gossip.Encode(d, key)
	if err != nil {
		return err
	}
	body, err := gossip.Message{Documents: []gossip.Sealed{sealed}}.Encode()
	if err != nil {
		return err
	}
	status, answer, err := x.say(ctx, to, http.MethodPost, "/v1/gossip", nil, body)
	if err == nil && status/100 != 2 {
		err = fmt.Errorf("%s answers %d %s", to.Name, status, answer)
	}
	return err
}

// lastDocument is what a node has published last.
func (f *flock) lastDocument(m *machine) (last reconcile.Document) {
	f.t.Helper()
	entries, err := f.recorder.documents()
	f.must(err)
	for _, e := range entries {
		if e.Document != nil && e.Document.Writer == m.Name && cmp.Or(cmp.Compare(e.Document.Says.Boot, last.Boot), cmp.Compare(e.Document.Says.Seq, last.Seq)) > 0 {
			last = e.Document.Says
		}
	}
	return last
}

// ownsIP says whether on a node only the pod of this uid has an address.
func (f *flock) ownsIP(ctx context.Context, m *machine, ip string, uid types.UID) error {
	kind, err := api.FindKind("pods")
	if err != nil {
		return err
	}
	objects, err := m.api.List(ctx, kind, api.ListOptions{})
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(objects, func(o reconcile.K8sObject) bool {
		p, ok := o.(*corev1.Pod)
		return ok && p.Status.PodIP == ip && p.UID != uid
	}); i >= 0 {
		return errors.New(objects[i].GetName() + " has its address")
	}
	return nil
}
