package trust

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

const tokenPEM = "PRIVATE KEY" // PKCS #8

// LoadOrCreateTokenKey reads the P-256 key with which a node signs ServiceAccount tokens, or
// creates it, with mode 0600.
func LoadOrCreateTokenKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := loadTokenKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	if err := createSecret(path, pem.EncodeToMemory(&pem.Block{Type: tokenPEM, Bytes: der})); err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	return loadTokenKey(path)
}

func loadTokenKey(path string) (*ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != tokenPEM {
		return nil, fmt.Errorf("token key %s: want a PEM block %q", path, tokenPEM)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("token key %s: want a PKCS #8 key", path)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("token key %s: want a P-256 key", path)
	}
	return key, nil
}

// EncodeTokenKey is the public half as the annotation of a Node holds it: base64 of its PKIX form.
func EncodeTokenKey(key *ecdsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("token key: %w", err)
	}
	return base64.StdEncoding.EncodeToString(der), nil
}

// ParseTokenKey reads what EncodeTokenKey wrote.
func ParseTokenKey(s string) (*ecdsa.PublicKey, error) {
	der, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, errors.New("token key: want base64")
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, errors.New("token key: want a PKIX public key")
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("token key: want a P-256 key")
	}
	return key, nil
}
