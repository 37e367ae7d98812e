package trust

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/pleachdev/pleach/state/durable"
)

// agentTimeout bounds the connecting to a socket of this machine.
const agentTimeout = 5 * time.Second

// SigningKey signs commits: a key from a file, or one that an ssh-agent holds.
type SigningKey struct {
	signer  ssh.Signer
	private ed25519.PrivateKey // nil unless an ed25519 key from a file
	conn    net.Conn           // to the ssh-agent; nil for a file
	path    string             // of the file, absolute; "" for the ssh-agent
}

// ErrLocked says that a key file is locked by a passphrase.
var ErrLocked = errors.New("is locked by a passphrase; add it to an ssh-agent with ssh-add")

// Sign returns an armoured SSH signature over payload in git's namespace.
func (k *SigningKey) Sign(payload []byte) (string, error) { return k.SignIn(Namespace, payload) }

// SignIn is Sign for another namespace.
func (k *SigningKey) SignIn(namespace string, payload []byte) (string, error) {
	sig, err := sshsig.Sign(bytes.NewReader(payload), k.signer, sshsig.HashSHA512, namespace)
	if err != nil {
		return "", fmt.Errorf("sign with %s: %w", k.Fingerprint(), err)
	}
	return string(sshsig.Armor(sig)), nil
}

// PublicKey returns the public half.
func (k *SigningKey) PublicKey() ssh.PublicKey { return k.signer.PublicKey() }

// AuthorizedKey is the public half as one line without a comment: "ssh-ed25519 AAAA…".
func (k *SigningKey) AuthorizedKey() string { return AuthorizedKey(k.PublicKey()) }

// AuthorizedKey is a public key as one line without a comment: "ssh-ed25519 AAAA…".
func AuthorizedKey(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

// GitSigningKey is the key as git's user.signingkey wants it: the file's absolute path, or the
// public key for git to ask the ssh-agent for.
func (k *SigningKey) GitSigningKey() string {
	if k.path != "" {
		return k.path
	}
	return "key::" + k.AuthorizedKey()
}

// Fingerprint is "SHA256:…".
func (k *SigningKey) Fingerprint() string { return ssh.FingerprintSHA256(k.PublicKey()) }

// Ed25519 returns the private key of a node, which is its TLS identity too. It is nil for keys of
// other kinds and for keys in an ssh-agent.
func (k *SigningKey) Ed25519() ed25519.PrivateKey { return k.private }

// Close ends the connection to the ssh-agent, if there is one.
func (k *SigningKey) Close() error {
	if k.conn == nil {
		return nil
	}
	return k.conn.Close()
}

// LoadKey reads an OpenSSH private key file. A key that is locked by a passphrase belongs into an
// ssh-agent; see [AgentKey].
func LoadKey(path string) (*SigningKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	raw, err := ssh.ParseRawPrivateKey(data)
	if err != nil {
		if _, ok := errors.AsType[*ssh.PassphraseMissingError](err); ok {
			return nil, fmt.Errorf("signing key %s: %w", path, ErrLocked)
		}
		return nil, fmt.Errorf("signing key %s: want a private key in OpenSSH's format", path)
	}
	signer, err := ssh.NewSignerFromKey(raw)
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", path, err)
	}
	k := &SigningKey{signer: signer}
	if k.path, err = filepath.Abs(path); err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	if p, ok := raw.(*ed25519.PrivateKey); ok {
		k.private = *p
	}
	if err := usable(signer.PublicKey()); err != nil {
		return nil, fmt.Errorf("signing key %s: %w", path, err)
	}
	return k, nil
}

// AgentKey takes a key from the ssh-agent that listens on socket: the one with the public key want,
// or, when want is nil, the first that can sign commits. The caller closes it.
func AgentKey(socket string, want ssh.PublicKey) (*SigningKey, error) {
	if socket == "" {
		return nil, errors.New("ssh-agent: none is running; start one and set SSH_AUTH_SOCK, or name a key file")
	}
	conn, err := (&net.Dialer{Timeout: agentTimeout}).DialContext(context.Background(), "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("ssh-agent: %w", err)
	}
	signers, err := agent.NewClient(conn).Signers()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("ssh-agent %s: %w", socket, err), conn.Close())
	}
	for _, s := range signers {
		if want == nil && usable(s.PublicKey()) == nil || want != nil && bytes.Equal(s.PublicKey().Marshal(), want.Marshal()) {
			return &SigningKey{signer: s, conn: conn}, nil
		}
	}
	missing := "holds no key that can sign commits; add one with ssh-add"
	if want != nil {
		missing = fmt.Sprintf("does not hold the key %s; add it with ssh-add", ssh.FingerprintSHA256(want))
	}
	return nil, errors.Join(fmt.Errorf("ssh-agent %s: %s", socket, missing), conn.Close())
}

func usable(key ssh.PublicKey) error {
	if !knownKeyType(key.Type()) {
		return fmt.Errorf("keys of type %s are not supported", key.Type())
	}
	if bits := rsaBits(key); bits != 0 && bits < minRSABits {
		return fmt.Errorf("RSA key has %d bits; want %d or more", bits, minRSABits)
	}
	return nil
}

// LoadOrCreateKey reads the ed25519 key of a node, or creates it, with mode 0600 and its public
// half beside it in path.pub.
func LoadOrCreateKey(path, comment string) (*SigningKey, error) {
	k, err := LoadKey(path)
	if err == nil {
		if k.private == nil {
			return nil, fmt.Errorf("node key %s: is %s; a node's key is ed25519", path, k.PublicKey().Type())
		}
		return k, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("node key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return nil, fmt.Errorf("node key: %w", err)
	}
	sshPublic, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("node key: %w", err)
	}
	if err := createSecret(path, pem.EncodeToMemory(block)); err != nil {
		return nil, fmt.Errorf("node key: %w", err)
	}
	line := strings.TrimSpace(AuthorizedKey(sshPublic)+" "+comment) + "\n"
	if err := os.WriteFile(path+".pub", []byte(line), 0o644); err != nil {
		return nil, fmt.Errorf("node key: %w", err)
	}
	// Read back, so that two processes that raced agree on the key that is on the disk.
	return LoadKey(path)
}

// createSecret writes a file that only its owner can read, in one step, and never over another.
func createSecret(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".key-") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // the link below stays
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return durable.SyncDir(dir)
}
