package api

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/time/rate"
)

// maxHint is the largest body of a hint that is read: forges send up to 25 MiB with a push.
const maxHint = 25 << 20

// SignatureHeader holds "sha256=" and the hex HMAC-SHA256 of a hint's body, as GitHub, Gitea and
// Forgejo send it with their webhooks.
const SignatureHeader = "X-Hub-Signature-256"

// Public is what the agent answers on TCP. Nothing secret is behind it and nothing can be changed
// through it: a hint makes the agent look at its remote, which it would do soon anyway.
type Public struct {
	Metrics prometheus.Gatherer
	// Ready returns nil when the node can run pods, and otherwise what it lacks.
	Ready func() error
	// Hint asks for a look at the remote; it returns at once.
	Hint func()
	// HintSecret is what hints must be signed with; empty for unsigned hints.
	HintSecret []byte
}

// Handler returns /metrics, /healthz, /readyz and POST /hint.
func (p Public) Handler() http.Handler {
	// Two a second are more than people push; five at once are a merge with its tags and branches.
	// The remote is protected from more, and the poll comes anyway.
	limit := rate.NewLimiter(2, 5)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(p.Metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := p.Ready(); err != nil {
			answer(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		answer(w, http.StatusOK, "ok")
	})
	mux.HandleFunc("POST /hint", func(w http.ResponseWriter, r *http.Request) {
		body := http.MaxBytesReader(w, r.Body, maxHint)
		if len(p.HintSecret) > 0 && !signed(p.HintSecret, body, r.Header.Get(SignatureHeader)) {
			answer(w, http.StatusForbidden, "the hint is not signed with this node's secret: "+SignatureHeader+" wants sha256=<HMAC of the body>")
			return
		}
		if !limit.Allow() {
			w.Header().Set("Retry-After", "1")
			answer(w, http.StatusTooManyRequests, "too many hints; the next poll will see the push")
			return
		}
		p.Hint()
		answer(w, http.StatusAccepted, "looking at the remote")
	})
	return mux
}

func signed(secret []byte, body io.Reader, header string) bool {
	text, ok := strings.CutPrefix(header, "sha256=")
	if !ok {
		return false
	}
	want, err := hex.DecodeString(text)
	if err != nil {
		return false
	}
	mac := hmac.New(sha256.New, secret)
	if _, err := io.Copy(mac, body); err != nil {
		return false
	}
	return hmac.Equal(mac.Sum(nil), want)
}

func answer(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = fmt.Fprintln(w, text) // nobody to tell when the client went away
}
