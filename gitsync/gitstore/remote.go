package gitstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/file"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
)

const (
	maxRefsBytes = 64 << 20  // of a ref advertisement
	maxPackBytes = 512 << 20 // of a pack as it is sent
	maxRedirects = 3
	maxErrorText = 500
)

// Remote is a repository to fetch from or push to.
type Remote struct {
	// URL is http://, https:// or file://. Credentials in it are used and never printed. A file
	// remote needs git itself on the machine.
	URL string
	// Username and Password are sent as basic authentication. For a token, forges take any
	// Username ("git" when empty) with the token as Password.
	Username, Password string
	// Client carries the requests to a peer, which has a way of its own to be known by; nil is for a
	// server by its URL.
	Client *http.Client
}

// String is the URL without credentials, query and fragment.
func (r Remote) String() string {
	u, err := url.Parse(r.URL)
	if err != nil {
		return "(malformed URL)" // printing it could print a password
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

// location is a parsed Remote.
type location struct {
	url      *url.URL // without credentials
	username string
	password string
	client   *http.Client // nil for ours
}

func (r Remote) parse() (location, error) {
	u, err := url.Parse(r.URL)
	if err != nil {
		return location{}, errors.New("remote: malformed URL; want http(s)://host/path or file:///path")
	}
	l := location{url: u, username: r.Username, password: r.Password, client: r.Client}
	if u.User != nil {
		if l.username == "" {
			l.username = u.User.Username()
		}
		if p, ok := u.User.Password(); ok && l.password == "" {
			l.password = p
		}
		u.User = nil
	}
	switch u.Scheme {
	case "http", "https":
		if u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			return location{}, fmt.Errorf("remote %s: want http(s)://host/path", r)
		}
	case "file":
		if u.Host != "" || u.Path == "" {
			return location{}, fmt.Errorf("remote %s: want file:///path", r)
		}
	default:
		return location{}, fmt.Errorf("remote %s: scheme %q is not supported; use http, https or file", r, u.Scheme)
	}
	if l.username == "" && l.password != "" {
		l.username = "git"
	}
	return l, nil
}

func (l location) http() bool { return l.url.Scheme != "file" }

// transport returns go-git's client for the remote and the endpoint to give it.
func (l location) transport(limit int64) (transport.Transport, *transport.Endpoint, transport.AuthMethod, error) {
	ep, err := transport.NewEndpoint(l.url.String())
	if err != nil {
		return nil, nil, nil, err
	}
	if !l.http() {
		return file.DefaultClient, ep, nil, nil
	}
	var auth transport.AuthMethod
	if l.username != "" {
		auth = &githttp.BasicAuth{Username: l.username, Password: l.password}
	}
	client := githttp.NewClientWithOptions(l.httpClient(limit),
		&githttp.ClientOptions{RedirectPolicy: githttp.FollowInitialRedirects})
	return client, ep, auth, nil
}

// connections are shared by all stores and remotes, so that a poll costs no new handshake.
var connections = &http.Transport{
	Proxy:                 http.ProxyFromEnvironment,
	DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
	TLSHandshakeTimeout:   10 * time.Second,
	ResponseHeaderTimeout: 60 * time.Second,
	IdleConnTimeout:       90 * time.Second,
	MaxIdleConnsPerHost:   4,
	ForceAttemptHTTP2:     true,
}

// httpClient returns a client whose answers are cut at limit bytes, and that goes nowhere but to
// the host it was sent to: a redirect elsewhere could carry credentials along.
func (l location) httpClient(limit int64) *http.Client {
	next := http.RoundTripper(connections)
	if l.client != nil {
		next = cmp.Or(l.client.Transport, http.DefaultTransport)
	}
	return &http.Client{
		Transport: limited{next, limit},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			from := via[0].URL
			if req.URL.Host != from.Host || (from.Scheme == "https" && req.URL.Scheme != "https") {
				return fmt.Errorf("refusing the redirect to %s://%s; put the new address into the configuration",
					req.URL.Scheme, req.URL.Host)
			}
			if len(via) > maxRedirects {
				return errors.New("too many redirects")
			}
			return nil
		},
	}
}

type limited struct {
	next  http.RoundTripper
	limit int64
}

func (l limited) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := l.next.RoundTrip(req)
	if err == nil {
		res.Body = &limitedBody{ReadCloser: res.Body, left: l.limit}
	}
	return res, err
}

type limitedBody struct {
	io.ReadCloser
	left int64
}

func (b *limitedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLarge
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	return n, err
}

var errTooLarge = errors.New("answer is larger than the limit")

// unreachable wraps what went wrong on the way to or at the remote.
func unreachable(r Remote, step string, err error) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s %s: %w", step, r, err)
	}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err // without the URL, which its text repeats
	}
	switch {
	case errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrAuthorizationFailed):
		err = errors.New("credentials are missing or refused")
	case errors.Is(err, transport.ErrRepositoryNotFound):
		err = errors.New("no repository there, or not for these credentials")
	}
	if text := err.Error(); len(text) > maxErrorText { // it may quote all of an answer
		err = errors.New(strings.ToValidUTF8(text[:maxErrorText], "") + "…")
	}
	return fmt.Errorf("%s %s: %w: %w", step, r, ErrUnreachable, err)
}
