// Package api is the node's local API: HTTP and JSON over a unix socket for the commands of this
// machine, and a small public listener for metrics, health and hints. It reads snapshots of package
// state and decides nothing.
//
// The values of Secrets never leave the agent through it: objects carry their keys and sizes alone.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/pleachdev/pleach/agent/access"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/state"
)

// SocketName is the socket's file in the agent's directory.
const SocketName = "agent.sock"

// Server answers the local API. All fields but Peer and Log are needed before it serves.
type Server struct {
	Node    string // this one
	Version string
	Store   *state.Store
	// Logs writes a container's log as opts.Container and the rest of opts say, until its end, or
	// until ctx ends with opts.Follow.
	Logs func(ctx context.Context, pod *corev1.Pod, opts *corev1.PodLogOptions, w io.Writer) error
	// Exec prepares a command in a running container and returns the URL of its streams: CRI's
	// streaming server, on loopback.
	Exec func(ctx context.Context, pod *corev1.Pod, opts *corev1.PodExecOptions) (url string, err error)
	// Peer returns a client to another node, as peer.Network.Client does; nil when there is none to ask.
	Peer func(node string) *http.Client
	// Judge decides on what people ask of this node's pods through other nodes.
	Judge *access.Judge
	Log   *slog.Logger // of requests that went wrong, and of who was granted what; nil for none
}

// Listen makes the socket at path, for its owner alone. What stood there before is replaced: the
// caller makes sure that no other agent serves it.
func Listen(path string) (net.Listener, error) {
	// Made under another name first, so that there is no moment at which others could open it.
	temp := filepath.Join(filepath.Dir(path), fmt.Sprintf(".%s.%d", filepath.Base(path), os.Getpid()))
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("local api: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("local api: %w", err)
	}
	l.SetUnlinkOnClose(false) // a later agent may own the name by then
	if err := errors.Join(os.Chmod(temp, 0o600), os.Rename(temp, path)); err != nil {
		return nil, errors.Join(fmt.Errorf("local api: %w", err), l.Close(), os.Remove(temp))
	}
	return l, nil
}

// Run serves the local API on local, and public (see [Public]) on its own listener if that is not
// nil. It returns when ctx ended and the requests in hand were cut off, or when a listener broke.
func (s *Server) Run(ctx context.Context, local, public net.Listener, p http.Handler) error {
	group, ctx := errgroup.WithContext(ctx)
	serve := func(l net.Listener, h http.Handler, server *http.Server) {
		server.Handler = h
		server.BaseContext = func(net.Listener) context.Context { return ctx } // ends streams with the agent
		server.ReadHeaderTimeout = 10 * time.Second
		group.Go(func() error {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve %s: %w", l.Addr(), err)
			}
			return nil
		})
		group.Go(func() error {
			<-ctx.Done()
			short, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			if server.Shutdown(short) != nil { // a reader that does not read
				return server.Close()
			}
			return nil
		})
	}
	// HTTP/2 is for commands, whose streams go both ways.
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	serve(local, s.Handler(), &http.Server{Protocols: protocols})
	if public != nil {
		serve(public, p, &http.Server{ReadTimeout: 30 * time.Second, WriteTimeout: 60 * time.Second, MaxHeaderBytes: 16 << 10})
	}
	return group.Wait()
}

// Handler returns the local API.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	s.handle(mux, "GET /v1/status", s.status)
	s.handle(mux, "GET /v1/objects/{kind}", s.list)
	s.handle(mux, "GET /v1/objects/{kind}/watch", s.watch)
	s.handle(mux, "GET /v1/describe/{kind}", s.describe)
	s.handle(mux, "GET /v1/explain/{kind}", s.explain)
	s.handle(mux, challengePattern, s.local(func(w http.ResponseWriter, _ *http.Request, pod *corev1.Pod) error {
		return writeJSON(w, s.challenge(pod, false))
	}))
	s.handle(mux, logPattern, s.local(s.logs))
	s.handle(mux, execPattern, s.local(s.exec))
	return mux
}

// handle answers requests with h, and its errors as Kubernetes does.
func (s *Server) handle(mux *http.ServeMux, pattern string, h func(http.ResponseWriter, *http.Request) error) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		tracked := &response{ResponseWriter: w}
		if err := h(tracked, r); err != nil && r.Context().Err() == nil {
			s.fail(tracked, r, err)
		}
	})
}

func (s *Server) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

// response knows whether anything was sent: after that, an error can only cut the stream off.
type response struct {
	http.ResponseWriter
	sent bool
}

func (r *response) WriteHeader(code int) { r.sent = true; r.ResponseWriter.WriteHeader(code) }

func (r *response) Write(b []byte) (int, error) { r.sent = true; return r.ResponseWriter.Write(b) }

// Unwrap lets http.ResponseController find Flush.
func (r *response) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (s *Server) fail(w *response, r *http.Request, err error) {
	s.log().Debug("api request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	if w.sent {
		panic(http.ErrAbortHandler) // the client sees a stream that broke, not one that ended
	}
	body := metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
		Reason: metav1.StatusReasonInternalError, Message: err.Error(),
	}
	if known, ok := errors.AsType[*apierrors.StatusError](err); ok {
		body = known.Status()
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(body.Code))
	_ = json.NewEncoder(w).Encode(body) // a client that went away needs no answer
}

func writeJSON(w http.ResponseWriter, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, err = w.Write(body)
	return err
}

func (s *Server) view() view { return view{Snapshot: s.Store.Snapshot(), node: s.Node} }

func (s *Server) status(w http.ResponseWriter, _ *http.Request) error {
	st := s.view().status()
	st.Version, st.Now = s.Version, time.Now()
	return writeJSON(w, st)
}

// query is what a request for objects narrows them to.
type query struct {
	kind            Kind
	namespace, name string // "" for all
	selector        labels.Selector
}

func parseQuery(r *http.Request) (query, error) {
	k, err := FindKind(r.PathValue("kind"))
	if err != nil {
		return query{}, apierrors.NewBadRequest(err.Error())
	}
	values := r.URL.Query()
	selector, err := labels.Parse(values.Get("labelSelector"))
	if err != nil {
		return query{}, apierrors.NewBadRequest("label selector: " + err.Error())
	}
	q := query{kind: k, name: values.Get("name"), selector: selector}
	if k.Namespaced {
		q.namespace = values.Get("namespace")
	}
	return q, nil
}

func (q query) matches(o reconcile.K8sObject) bool {
	return (q.namespace == "" || o.GetNamespace() == q.namespace) && (q.name == "" || o.GetName() == q.name) &&
		q.selector.Matches(labels.Set(o.GetLabels()))
}

func (v view) matching(q query) []reconcile.K8sObject {
	out := []reconcile.K8sObject{} // an empty JSON list rather than null
	for _, o := range v.objects(q.kind) {
		if q.matches(o) {
			out = append(out, o)
		}
	}
	return out
}

// objectList is Kubernetes' v1 List.
type objectList[T any] struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        metav1.ListMeta `json:"metadata"`
	Items           []T             `json:"items"`
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r)
	if err != nil {
		return err
	}
	items := s.view().matching(q)
	if q.name != "" && len(items) == 0 {
		return apierrors.NewNotFound(q.kind.GroupResource(), q.name)
	}
	return writeJSON(w, objectList[reconcile.K8sObject]{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "List"}, Items: items,
	})
}

func (s *Server) describe(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r)
	if err != nil {
		return err
	}
	out, err := s.view().describe(q.kind, q.namespace, q.name)
	if err != nil {
		return err
	}
	if len(out) == 0 && q.name != "" {
		return apierrors.NewNotFound(q.kind.GroupResource(), q.name)
	}
	return writeJSON(w, out)
}

func (s *Server) explain(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r)
	if err != nil {
		return err
	}
	if !q.kind.Workload {
		return apierrors.NewBadRequest(q.kind.Resource + " have no slots to explain; ask for a pod or a workload")
	}
	v := s.view()
	out := v.explain(q.kind, q.namespace, q.name, r.URL.Query().Get("slot"))
	if len(out) == 0 && len(v.matching(q)) == 0 {
		return apierrors.NewNotFound(q.kind.GroupResource(), q.name)
	}
	return writeJSON(w, out)
}

func (s *Server) logs(w http.ResponseWriter, r *http.Request, pod *corev1.Pod) error {
	opts, err := logOptions(r.URL.Query())
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if opts.Container, err = pickContainer(pod, opts.Container); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	return s.Logs(r.Context(), pod, opts, flushing{w, http.NewResponseController(w)})
}

// flushing sends every line on at once: somebody is reading along.
type flushing struct {
	io.Writer
	control *http.ResponseController
}

func (f flushing) Write(b []byte) (int, error) {
	n, err := f.Writer.Write(b)
	if err != nil {
		return n, err
	}
	return n, f.control.Flush()
}

// defaultContainer is kubectl's annotation for the container that is meant when none is named.
const defaultContainer = "kubectl.kubernetes.io/default-container"

// pickContainer returns the container that is meant: the named one, the annotated one, the first.
func pickContainer(pod *corev1.Pod, name string) (string, error) {
	if name == "" {
		if name = pod.Annotations[defaultContainer]; name == "" && len(pod.Spec.Containers) > 0 {
			return pod.Spec.Containers[0].Name, nil
		}
	}
	var known []string
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for _, c := range list {
			if c.Name == name {
				return name, nil
			}
			known = append(known, c.Name)
		}
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("pod %s/%s has no container %q; it has %v", pod.Namespace, pod.Name, name, known))
}
