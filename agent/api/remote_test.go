package api

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	clientexec "k8s.io/utils/exec"

	"github.com/pleachdev/pleach/agent/access"
	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/trust"
	"github.com/pleachdev/pleach/gossip/peer"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/state"
)

// The laboratory of these tests: two nodes with real connections between them. Ada sits at n1; the pod
// default/b runs on n2.
type twoNodes struct {
	store  *state.Store // of n2
	client *Client      // of Ada, at n1
	n1     *peer.Network
	ada    *trust.SigningKey
	state  *gitsync.Accepted
	seen   chan string // tickets that went through n1
}

func newKey(t *testing.T, name string) *trust.SigningKey {
	t.Helper()
	key, err := trust.LoadOrCreateKey(filepath.Join(t.TempDir(), name), name)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// signers is a with other lines in allowed_signers.
func signers(t *testing.T, a gitsync.Accepted, lines string) *gitsync.Accepted {
	t.Helper()
	var err error
	if a.Signers, err = trust.ParseAllowedSigners("trust/allowed_signers", []byte(lines)); err != nil {
		t.Fatal(err)
	}
	return &a
}

func newTwoNodes(t *testing.T) *twoNodes {
	t.Helper()
	keys := map[string]*trust.SigningKey{"n1": newKey(t, "n1"), "n2": newKey(t, "n2")}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	network := func(node string) *peer.Network {
		n := peer.New(peer.Config{
			Node: node, Key: keys[node].Ed25519(),
			Keys: func(node string) []ed25519.PublicKey {
				if k := keys[node]; k != nil {
					return []ed25519.PublicKey{k.Ed25519().Public().(ed25519.PublicKey)}
				}
				return nil
			},
			Addresses: func(string) []string { return []string{listener.Addr().String()} },
		})
		t.Cleanup(n.Close)
		return n
	}
	lab := &twoNodes{store: state.New(), ada: newKey(t, "ada"), n1: network("n1"), seen: make(chan string, 10)}
	user := []rbacv1.Subject{{Kind: "User", Name: "ada"}}
	lab.state = signers(t, *accepted(
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Rules: []rbacv1.PolicyRule{
			{Verbs: []string{"create"}, APIGroups: []string{""}, Resources: []string{"pods/exec"}},
			{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods/log"}},
		}},
		&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "b"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "r"}, Subjects: user},
	), "ada "+lab.ada.AuthorizedKey())
	lab.store.SetAccepted(lab.state)
	b := ownPod("b", nil)
	b.Spec.NodeName = "n2"
	lab.store.SetPods([]*corev1.Pod{b})
	cri := newFakeCRI(t)
	there := &Server{
		Node: "n2", Store: lab.store, Judge: access.NewJudge(time.Now), Exec: cri.exec,
		Logs: func(ctx context.Context, pod *corev1.Pod, o *corev1.PodLogOptions, w io.Writer) error {
			if _, err := fmt.Fprintln(w, "log of", pod.Name, o.Container); err != nil || !o.Follow {
				return err
			}
			<-ctx.Done()
			return nil
		},
	}
	n2, handler := network("n2"), there.PeerHandler()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- n2.Serve(ctx, listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if ticket := r.Header.Get(access.Header); ticket != "" {
				lab.seen <- ticket
			}
			handler.ServeHTTP(w, r)
		}))
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("n2: %v", err)
		}
	})
	here := state.New()
	here.SetAccepted(lab.state)
	here.SetDocument(&reconcile.Document{Node: "n2", Instances: []reconcile.Instance{{Namespace: "default", Name: "b", Node: "n2", Phase: corev1.PodRunning}}})
	lab.client = start(t, &Server{Node: "n1", Store: here, Peer: lab.n1.Client, Judge: access.NewJudge(time.Now)})
	lab.client.Key = func() (*trust.SigningKey, error) { return lab.ada, nil }
	return lab
}

// fakeCRI is the streaming server that containerd has, with one command of its own behind it.
type fakeCRI struct{ server streaming.Server }

func newFakeCRI(t *testing.T) *fakeCRI {
	t.Helper()
	c := &fakeCRI{}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.server.ServeHTTP(w, r) }))
	t.Cleanup(front.Close)
	base, err := url.Parse(front.URL)
	if err != nil {
		t.Fatal(err)
	}
	config := streaming.DefaultConfig
	config.BaseURL = base
	if c.server, err = streaming.NewServer(config, c); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *fakeCRI) exec(_ context.Context, pod *corev1.Pod, o *corev1.PodExecOptions) (string, error) {
	answer, err := c.server.GetExec(&runtimeapi.ExecRequest{
		ContainerId: pod.Name + "/" + o.Container, Cmd: o.Command, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY,
	})
	if err != nil {
		return "", err
	}
	return answer.Url, nil
}

// Exec echoes its input as it comes; on a terminal it tells each size first. It ends with code 42.
func (c *fakeCRI) Exec(_ context.Context, container string, cmd []string, in io.Reader, out, errs io.WriteCloser, tty bool, sizes <-chan remotecommand.TerminalSize) error {
	if tty {
		for range 2 {
			size := <-sizes
			if _, err := fmt.Fprintf(out, "%dx%d ", size.Width, size.Height); err != nil {
				return err
			}
		}
	}
	if _, err := fmt.Fprintf(out, "%s %q:", container, cmd); err != nil {
		return err
	}
	if in != nil {
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
	if errs != nil {
		if _, err := errs.Write([]byte("bye")); err != nil {
			return err
		}
	}
	return clientexec.CodeExitError{Err: errors.New("failed"), Code: 42}
}

func (c *fakeCRI) Attach(context.Context, string, io.Reader, io.WriteCloser, io.WriteCloser, bool, <-chan remotecommand.TerminalSize) error {
	return io.ErrUnexpectedEOF
}

func (c *fakeCRI) PortForward(context.Context, string, int32, io.ReadWriteCloser) error {
	return io.ErrUnexpectedEOF
}

// waitFor reads until text has come.
func waitFor(t *testing.T, r io.Reader, text string) {
	t.Helper()
	buffer := make([]byte, len(text))
	if _, err := io.ReadFull(r, buffer); err != nil || string(buffer) != text {
		t.Fatalf("read %q, %v; want %q", buffer, err, text)
	}
}

func TestExecOnAnotherNodeGoesBothWays(t *testing.T) {
	lab := newTwoNodes(t)
	in, typing := io.Pipe()
	out, say := io.Pipe()
	var errs bytes.Buffer
	done := make(chan error)
	go func() {
		code, err := lab.client.Exec(t.Context(), "default", "b",
			&corev1.PodExecOptions{Command: []string{"cat", "a & b"}, Stdin: true, Stdout: true, Stderr: true},
			Streams{In: in, Out: say, Err: &errs})
		if err == nil && code != 42 {
			err = fmt.Errorf("exit code %d", code)
		}
		done <- err
	}()
	waitFor(t, out, `b/app ["cat" "a & b"]:`)
	for _, line := range []string{"one\n", strings.Repeat("x", 3*maxFrame) + "\n"} { // each answer before the next question
		go func() { _, _ = io.WriteString(typing, line) }()
		waitFor(t, out, line)
	}
	_ = typing.Close()
	if err := <-done; err != nil || errs.String() != "bye" {
		t.Errorf("%v, stderr %q", err, errs.String())
	}
	events := lab.store.Snapshot().Events()
	if len(events) != 1 || events[0].Reason != "AccessGranted" || !strings.Contains(events[0].Message, "exec for ada (SHA256:") ||
		!strings.Contains(events[0].Message, "through node n1, by ClusterRole r of ClusterRoleBinding b (web/x.yaml:7)") {
		t.Errorf("audit: %+v", events)
	}
}

func TestExecOnAnotherNodeWithATerminal(t *testing.T) {
	lab := newTwoNodes(t)
	sizes := make(chan Size)
	out, say := io.Pipe()
	done := make(chan error)
	go func() {
		_, err := lab.client.Exec(t.Context(), "default", "b",
			&corev1.PodExecOptions{Command: []string{"sh"}, Stdout: true, TTY: true}, Streams{Out: say, Sizes: sizes})
		done <- err
	}()
	sizes <- Size{80, 24}
	waitFor(t, out, "80x24 ")
	sizes <- Size{132, 50}
	waitFor(t, out, `132x50 b/app ["sh"]:`)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// What was granted ends when the one who asked is removed, and what is asked after that is refused.
func TestRemovedPersonIsCutOff(t *testing.T) {
	lab := newTwoNodes(t)
	follow := func() (io.Reader, chan error) {
		out, say := io.Pipe()
		done := make(chan error)
		go func() {
			err := lab.client.Logs(t.Context(), "default", "b", &corev1.PodLogOptions{Follow: true}, say)
			_ = say.Close()
			done <- err
		}()
		return out, done
	}
	out, done := follow()
	waitFor(t, out, "log of b app\n")
	lab.store.SetAccepted(signers(t, *lab.state, "bob "+newKey(t, "bob").AuthorizedKey()))
	if err := <-done; err == nil {
		t.Error("a log that was cut off looks like one that ended")
	}
	_, done = follow()
	if err := <-done; !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `refused by the rule "signature"`) {
		t.Errorf("after the removal: %v", err)
	}
}

func TestWhoMayNotIsToldWhatToCommit(t *testing.T) {
	lab := newTwoNodes(t)
	without := *lab.state
	without.Apps = nil
	lab.store.SetAccepted(&without)
	_, err := lab.client.Exec(t.Context(), "default", "b", &corev1.PodExecOptions{Command: []string{"sh"}}, Streams{})
	for _, want := range []string{"exec of pod default/b on node n2", `rule "rbac"`, "lets ada (SHA256:", "create pods/exec in namespace default", "kind: RoleBinding"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
	lab.client.Key = func() (*trust.SigningKey, error) { return nil, errors.New("no SSH key to sign with") }
	if err := lab.client.Logs(t.Context(), "default", "b", &corev1.PodLogOptions{}, io.Discard); err == nil || !strings.Contains(err.Error(), "runs on node n2, which wants your signature: no SSH key") {
		t.Errorf("without a key: %v", err)
	}
}

// Threat 31: a stolen node key gets no shell and no log, whatever it sends; neither does the node that
// carried a person's request get a second one out of it.
func TestNodeKeyOpensNoPod(t *testing.T) {
	lab := newTwoNodes(t)
	if err := lab.client.Logs(t.Context(), "default", "b", &corev1.PodLogOptions{}, io.Discard); err != nil {
		t.Fatal(err)
	}
	carried := <-lab.seen
	ask := func(method, path, ticket string) int {
		r, err := http.NewRequestWithContext(t.Context(), method, "https://n2/v1/pods/default/b/"+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if ticket != "" {
			r.Header.Set(access.Header, ticket)
		}
		resp, err := lab.n1.Client("n2").Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	for name, code := range map[string]int{
		"no ticket":                  ask(http.MethodGet, "log", ""),
		"no ticket, a command":       ask(http.MethodPost, "exec?command=sh", ""),
		"a ticket once more":         ask(http.MethodGet, "log", carried),
		"a log's ticket for exec":    ask(http.MethodPost, "exec?command=sh", carried),
		"a log's ticket, more of it": ask(http.MethodGet, "log?previous=true", carried),
	} {
		if code != http.StatusForbidden {
			t.Errorf("%s: %d, want %d", name, code, http.StatusForbidden)
		}
	}
	refused := 0
	for _, e := range lab.store.Snapshot().Events() {
		if e.Reason == "AccessRefused" && e.Type == corev1.EventTypeWarning {
			refused += int(e.Count)
		}
	}
	if refused != 5 {
		t.Errorf("%d refusals were recorded, want 5", refused)
	}
	for _, path := range []string{"/v1/status", "/v1/objects/secrets"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://n2"+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := lab.n1.Client("n2").Do(r)
		if err != nil || resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %v, %v; peers have no such path", path, resp, err)
		}
		if resp != nil {
			_ = resp.Body.Close()
		}
	}
}

func TestNodeThatDoesNotAnswer(t *testing.T) {
	store := state.New()
	store.SetDocument(&reconcile.Document{Node: "n2", Instances: []reconcile.Instance{{Namespace: "default", Name: "b", Node: "n2"}}})
	store.SetMembers([]state.Member{{Node: "n2", Standing: state.Gone, Since: time.Unix(0, 0)}})
	network := peer.New(peer.Config{
		Node: "n1", Key: newKey(t, "n1").Ed25519(), Keys: func(string) []ed25519.PublicKey { return nil },
		Addresses: func(string) []string { return nil },
	})
	client := start(t, &Server{Node: "n1", Store: store, Peer: network.Client})
	err := client.Logs(t.Context(), "default", "b", &corev1.PodLogOptions{}, io.Discard)
	if !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "node n2 cannot be reached from node n1; it is held for Gone since 1970-01-01T00:00:00Z") {
		t.Errorf("%v", err)
	}
}
