package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"syscall"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/pleachdev/pleach/gitsync/trust"
	"github.com/pleachdev/pleach/reconcile"
)

// Client asks the agent of this machine. Errors of the agent are Kubernetes' own and answer to
// apierrors.IsNotFound and its like.
type Client struct {
	// Key returns the key that signs requests for pods of other nodes; the client closes it. It is asked
	// only when one is needed, and nil for never.
	Key func() (*trust.SigningKey, error)

	socket  string
	http    http.Client
	streams http.Client // HTTP/2 alone
}

// ErrNoAgent is the error when no agent can be asked.
var ErrNoAgent = errors.New("no agent runs")

// NewClient returns a client for a socket. It does not connect yet.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &Client{
		socket: socket, http: http.Client{Transport: &http.Transport{DialContext: dial}},
		streams: http.Client{Transport: &http.Transport{DialContext: dial, Protocols: protocols}},
	}
}

// ListOptions narrow a list. The zero value means everything.
type ListOptions struct {
	Namespace, Name string
	Selector        string // a label selector in kubectl's syntax
}

func (o ListOptions) query() url.Values {
	values := url.Values{}
	for name, value := range map[string]string{"namespace": o.Namespace, "name": o.Name, "labelSelector": o.Selector} {
		if value != "" {
			values.Set(name, value)
		}
	}
	return values
}

// Status returns the state of the whole node.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	var st Status
	return &st, c.get(ctx, "/v1/status", nil, &st)
}

// List returns the objects of a kind. A name that is not there is a NotFound error.
func (c *Client) List(ctx context.Context, k Kind, o ListOptions) ([]reconcile.K8sObject, error) {
	var list objectList[json.RawMessage]
	if err := c.get(ctx, "/v1/objects/"+k.Resource, o.query(), &list); err != nil {
		return nil, err
	}
	out := make([]reconcile.K8sObject, len(list.Items))
	for i, item := range list.Items {
		out[i] = k.New()
		if err := json.Unmarshal(item, out[i]); err != nil {
			return nil, fmt.Errorf("%s from the agent: %w", k.Resource, err)
		}
	}
	return out, nil
}

// Watch calls f for every object that is there, once with watch.Bookmark and nil, and from then on
// for every change, until ctx ends or f returns an error, which it passes on.
func (c *Client) Watch(ctx context.Context, k Kind, o ListOptions, f func(watch.EventType, reconcile.K8sObject) error) error {
	resp, err := c.do(ctx, http.MethodGet, "/v1/objects/"+k.Resource+"/watch", o.query())
	if err != nil {
		return err
	}
	defer resp.Body.Close() // it was read, or is given up
	for decoder := json.NewDecoder(resp.Body); ; {
		var e watchEvent[json.RawMessage]
		if err := decoder.Decode(&e); ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil {
			return fmt.Errorf("the agent ended the watch: %w", err)
		}
		var object reconcile.K8sObject
		if e.Type != watch.Bookmark {
			object = k.New()
			if err := json.Unmarshal(e.Object, object); err != nil {
				return fmt.Errorf("%s from the agent: %w", k.Resource, err)
			}
		}
		if err := f(e.Type, object); err != nil {
			return err
		}
	}
}

// Describe returns what is known of the object of that name, or of all whose names begin with it.
func (c *Client) Describe(ctx context.Context, k Kind, o ListOptions) ([]Description, error) {
	var out []Description
	return out, c.get(ctx, "/v1/describe/"+k.Resource, o.query(), &out)
}

// Explain returns what was decided about a pod's or a workload's slots; slot narrows it to one, an
// ordinal or a node's name.
func (c *Client) Explain(ctx context.Context, k Kind, namespace, name, slot string) ([]Explanation, error) {
	query := ListOptions{Namespace: namespace, Name: name}.query()
	if slot != "" {
		query.Set("slot", slot)
	}
	var out []Explanation
	return out, c.get(ctx, "/v1/explain/"+k.Resource, query, &out)
}

func podPath(namespace, pod string) string {
	return "/v1/pods/" + url.PathEscape(namespace) + "/" + url.PathEscape(pod)
}

func (c *Client) get(ctx context.Context, path string, query url.Values, into any) error {
	resp, err := c.do(ctx, http.MethodGet, path, query)
	if err != nil {
		return err
	}
	return decode(resp, into)
}

func decode(resp *http.Response, into any) error {
	defer resp.Body.Close() // it was read to its end
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("answer of the agent: %w", err)
	}
	return nil
}

// do returns the answer of a request that went well; its body is the caller's to close.
func (c *Client) do(ctx context.Context, method, path string, query url.Values) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://agent"+path+"?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	return c.send(&c.http, r)
}

func (c *Client) send(via *http.Client, r *http.Request) (*http.Response, error) {
	resp, err := via.Do(r)
	if err != nil {
		return nil, c.explain(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	var status metav1.Status
	if err := decode(resp, &status); err != nil || status.Message == "" {
		return nil, fmt.Errorf("the agent answers %q to %s %s; is it of another version?", resp.Status, r.Method, r.URL.Path)
	}
	return nil, &apierrors.StatusError{ErrStatus: status}
}

// explain turns a failed connection into what to do about it.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w here: nobody listens on %s\n"+
			"  to fix: start it with \"pleach agent\", or name its directory with --dir", ErrNoAgent, c.socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w that this user may ask: %s: permission denied\n  to fix: run this command as root", ErrNoAgent, c.socket)
	}
	if inner, ok := errors.AsType[*url.Error](err); ok {
		err = inner.Err // its text holds a URL that means nothing to people
	}
	return err
}
