package peer

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// certificateOf returns a certificate that a node signs for itself. It carries the name that is to be
// looked up and the key that must be found there; its times mean nothing.
func certificateOf(node string, key ed25519.PrivateKey) tls.Certificate {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: node},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		panic(err) // a key of the wrong length: a fault of the caller
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// tls is what both sides agree on. want is the only node that may be at the other end; "" is for any
// that is enrolled.
func (n *Network) tls(want string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, SessionTicketsDisabled: true,
		Certificates: []tls.Certificate{n.certificate},
		ClientAuth:   tls.RequireAnyClientCert,
		// Names and authorities of certificates are not what is trusted here; see VerifyConnection.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			node, _, err := n.identify(s)
			if err == nil && want != "" && node != want {
				err = fmt.Errorf("node %s answers where node %s was called: %w", node, want, errOther)
			}
			return err
		},
	}
}

// identify returns who is at the other end: TLS has proved that it holds the key, and the accepted
// state says whose key that is.
func (n *Network) identify(s tls.ConnectionState) (node string, key ed25519.PublicKey, err error) {
	if len(s.PeerCertificates) != 1 {
		return "", nil, errors.New("a peer shows one certificate")
	}
	c := s.PeerCertificates[0]
	key, ok := c.PublicKey.(ed25519.PublicKey)
	if !ok {
		return "", nil, errors.New("a peer shows an ed25519 key")
	}
	if node = c.Subject.CommonName; !n.enrolled(node, key) {
		return "", nil, errors.Join(fmt.Errorf("node %.253q: %w with this key", node, ErrNotEnrolled), errOther)
	}
	return node, key, nil
}

// errOther means that who answers is not the node that was called.
var errOther = errors.New("another key than the node's")

func (n *Network) enrolled(node string, key ed25519.PublicKey) bool {
	for _, k := range n.Keys(node) {
		if bytes.Equal(k, key) {
			return true
		}
	}
	return false
}
