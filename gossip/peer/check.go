package peer

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/pleachdev/pleach/reconcile/gate"
)

// CheckPath is where an agent answers direct checks.
const CheckPath = "/v1/check"

const checkTime = 2 * time.Second // for all of it

// Check calls a node's agent directly: over a new connection, at all its addresses at once, for at most
// 2 s. What one address says for the node counts more than the silence of another.
func (n *Network) Check(ctx context.Context, node string) gate.Answer {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	addresses := n.Addresses(node)
	if len(addresses) == 0 || len(n.Keys(node)) == 0 {
		return gate.NoAnswer
	}
	addresses = addresses[:min(len(addresses), maxChecked)]
	answers := make([]gate.Answer, len(addresses))
	var wait sync.WaitGroup
	for i, address := range addresses {
		wait.Go(func() {
			if answers[i] = n.checkAt(ctx, node, address); answers[i] == gate.Answered {
				cancel() // the others have nothing to add
			}
		})
	}
	wait.Wait()
	best := gate.NoAnswer
	for _, a := range answers {
		if a == gate.Answered || best == gate.NoAnswer {
			best = a
		}
	}
	return best
}

const maxChecked = 4 // addresses of one node

func (n *Network) checkAt(ctx context.Context, node, address string) gate.Answer {
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return gate.Refused
	case err != nil:
		return gate.NoAnswer
	}
	secure, err := n.secure(ctx, raw, node)
	switch {
	case errors.Is(err, errOther):
		return gate.NoAnswer // the address is another machine's by now
	case err != nil:
		return gate.Refused
	}
	once := &http.Transport{
		DialTLSContext:    func(context.Context, string, string) (net.Conn, error) { return secure, nil },
		ForceAttemptHTTP2: true, HTTP2: http2(), MaxResponseHeaderBytes: maxHeader,
	}
	defer func() { _ = secure.NetConn().Close() }() // nothing else uses it
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+node+CheckPath, nil)
	if err != nil {
		return gate.NoAnswer
	}
	answer, err := once.RoundTrip(r)
	if err != nil {
		return gate.Refused
	}
	_ = answer.Body.Close() // it says nothing
	if answer.StatusCode/100 != 2 {
		return gate.Refused
	}
	return gate.Answered
}
