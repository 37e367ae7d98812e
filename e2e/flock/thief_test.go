package flock

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"time"

	"github.com/pleachdev/pleach/e2e/lab"
	"github.com/pleachdev/pleach/gossip/peer"
)

// thief is somebody on the network who holds a node's key, and speaks to the agents as that node. He uses
// nothing of Pleach's own client.
type thief struct {
	node   string
	key    ed25519.PrivateKey
	dialer func(ctx context.Context, network, address string) (net.Conn, error)
}

// say puts a request to a node's agent, over a connection of its own, and returns the answer's status and body.
func (x thief) say(ctx context.Context, m *machine, method, path string, header http.Header, body []byte) (status int, answer []byte, err error) {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: x.node}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(nil, template, template, x.key.Public(), x.key)
	if err != nil {
		return 0, nil, err
	}
	transport := &http.Transport{
		DialContext: x.dialer, ForceAttemptHTTP2: true, DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{
			Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: x.key}}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13,
		},
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "https://"+net.JoinHostPort(m.Addr.String(), lab.PeerPort)+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if header != nil {
		r.Header = header
	}
	response, err := transport.RoundTrip(r)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(response.Body, 64<<10))
	return response.StatusCode, answer, err
}

// call asks a node's agent whether it is there, as the node of this name and with this key; an error says
// that it does not talk to such a one.
func (f *flock) call(m *machine, node string, key ed25519.PrivateKey) error {
	status, _, err := thief{node, key, f.underlay.DialContext}.say(context.Background(), m, http.MethodGet, peer.CheckPath, nil, nil)
	if err == nil && status/100 != 2 {
		err = fmt.Errorf("status %d", status)
	}
	return err
}
