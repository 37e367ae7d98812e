package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pleachdev/pleach/agent/access"
	"github.com/pleachdev/pleach/gossip/peer"
	"github.com/pleachdev/pleach/state"
)

// podHandler answers a request about a pod of this node.
type podHandler func(w http.ResponseWriter, r *http.Request, pod *corev1.Pod) error

const (
	challengePattern = "GET /v1/pods/{namespace}/{name}/access"
	logPattern       = "GET /v1/pods/{namespace}/{name}/log"
	execPattern      = "POST /v1/pods/{namespace}/{name}/exec"
)

// PeerHandler returns what other nodes may ask of this one, for the paths below /v1/pods/ of the
// connections of package peer. It opens nothing to a node: a log or a shell wants the signature of a
// person whom the accepted Roles allow it.
func (s *Server) PeerHandler() http.Handler {
	mux := http.NewServeMux()
	s.handle(mux, challengePattern, func(w http.ResponseWriter, r *http.Request) error {
		pod := s.view().Pod(r.PathValue("namespace"), r.PathValue("name"))
		if pod == nil {
			return s.notHere(r)
		}
		return writeJSON(w, s.challenge(pod, true))
	})
	s.handle(mux, logPattern, s.judged(access.Log, s.logs))
	s.handle(mux, execPattern, s.judged(access.Exec, s.exec))
	return mux
}

func (s *Server) notHere(r *http.Request) error {
	return apierrors.NewNotFound(Kinds[0].GroupResource(), r.PathValue("name")+" on node "+s.Node)
}

func (s *Server) challenge(pod *corev1.Pod, needed bool) access.Challenge {
	c := access.Challenge{Needed: needed, Node: s.Node, UID: pod.UID}
	if a := s.Store.Snapshot().Accepted(); a != nil {
		c.Cluster = a.Cluster.Name
	}
	if s.Judge != nil {
		c.Session, c.Now = s.Judge.Session(), s.Judge.Now()
	}
	return c
}

// judged lets a request of another node pass when a person signed it and may ask for it. When that person
// is removed, or may no more, what goes on ends.
func (s *Server) judged(action access.Action, h podHandler) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		pod := s.view().Pod(r.PathValue("namespace"), r.PathValue("name"))
		if pod == nil {
			return s.notHere(r)
		}
		terms := access.NewTerms(s.challenge(pod, true), action, pod.Namespace, pod.Name, r.URL.Query())
		permit, err := s.Judge.Admit(s.Store.Snapshot().Accepted(), terms, r.Header.Get(access.Header))
		s.audit(r, pod, action, permit, err)
		if err != nil {
			return forbidden(pod, action, err)
		}
		ctx, cancel := context.WithCancelCause(r.Context())
		defer cancel(nil)
		go func() {
			for {
				snapshot := s.Store.Snapshot()
				if err := s.Judge.Holds(snapshot.Accepted(), terms, permit); err != nil {
					s.audit(r, pod, action, permit, err)
					cancel(err)
					return
				}
				if snapshot.Wait(ctx, state.Accepted) != nil {
					return
				}
			}
		}()
		err = h(w, r.WithContext(ctx), pod)
		// A command told its end itself. A log would seem to have come to its end.
		if cause := context.Cause(ctx); cause != nil && r.Context().Err() == nil && (err != nil || action == access.Log) {
			return forbidden(pod, action, cause)
		}
		return err
	}
}

func forbidden(pod *corev1.Pod, action access.Action, err error) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden,
		Message: fmt.Sprintf("%s of pod %s/%s on node %s: %v", action, pod.Namespace, pod.Name, pod.Spec.NodeName, err),
	}}
}

// audit records who asked for what, and what the answer was.
func (s *Server) audit(r *http.Request, pod *corev1.Pod, action access.Action, p access.Permit, err error) {
	from := peer.From(r)
	what := state.Happening{
		Object: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Host:   s.Node, At: time.Now(),
	}
	if err != nil {
		rule := ""
		if refusal, ok := errors.AsType[*access.Refusal](err); ok {
			rule, err = refusal.Rule, errors.New(refusal.Reason)
		}
		what.Type, what.Reason = corev1.EventTypeWarning, "AccessRefused"
		what.Message = fmt.Sprintf("%s, through node %s, refused by the rule %q: %v", action, from, rule, err)
		s.log().Warn("access refused", "action", action, "pod", pod.Namespace+"/"+pod.Name, "uid", pod.UID, "from", from, "rule", rule, "reason", err)
	} else {
		what.Type, what.Reason = corev1.EventTypeNormal, "AccessGranted"
		what.Message = fmt.Sprintf("%s for %s, through node %s, by %s", action, p.Who, from, p.Grant)
		s.log().Info("access granted", "action", action, "pod", pod.Namespace+"/"+pod.Name, "uid", pod.UID, "from", from,
			"who", p.Who.String(), "by", p.Grant.String(), "options", r.URL.RawQuery)
	}
	s.Store.Record(what)
}

// local answers a request of root on this machine: for a pod of this node at once, and for another node's
// by passing it on.
func (s *Server) local(h podHandler) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		v := s.view()
		namespace, name := r.PathValue("namespace"), r.PathValue("name")
		if pod := v.Pod(namespace, name); pod != nil {
			return h(w, r, pod)
		}
		for _, inst := range v.instances() {
			if inst.Namespace == namespace && inst.Name == name && inst.Node != s.Node {
				return s.forward(w, r, inst.Node)
			}
		}
		return apierrors.NewNotFound(Kinds[0].GroupResource(), name)
	}
}

// forward passes a request on to the node where its pod runs.
func (s *Server) forward(w http.ResponseWriter, r *http.Request, node string) error {
	if s.Peer == nil {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("pod %s/%s runs on node %s, and this agent does not speak with others yet", r.PathValue("namespace"), r.PathValue("name"), node))
	}
	var failed error
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) { p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = "https", node, node },
		// what goes on lasts, in both directions
		FlushInterval: -1,
		Transport:     s.Peer(node).Transport,
		ErrorHandler:  func(_ http.ResponseWriter, _ *http.Request, err error) { failed = err },
	}
	proxy.ServeHTTP(w, r)
	if failed == nil {
		return nil
	}
	standing := ""
	if m := s.Store.Snapshot().Member(node); m != nil && m.Standing != state.Alive {
		standing = fmt.Sprintf("; it is held for %s since %s", m.Standing, m.Since.UTC().Format(time.RFC3339))
	}
	return apierrors.NewServiceUnavailable(fmt.Sprintf("node %s cannot be reached from node %s%s: %v\n  what runs there goes on; ask on the node itself, as root, when it answers there", node, s.Node, standing, failed))
}
