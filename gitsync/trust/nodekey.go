package trust

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
)

// ParseNodeKeys reads the node-key annotation of a Node: one ed25519 public key, or two, separated
// by a comma, while the key is being replaced.
func ParseNodeKeys(annotation string) ([]ssh.PublicKey, error) {
	fields := strings.Split(annotation, ",")
	if len(fields) > 2 {
		return nil, fmt.Errorf("node key: has %d keys; want one, or two during rotation", len(fields))
	}
	keys := make([]ssh.PublicKey, len(fields))
	for i, field := range fields {
		key, err := parseKey(strings.TrimSpace(field))
		if err != nil {
			return nil, fmt.Errorf("node key: %w", err)
		}
		if key.Type() != ssh.KeyAlgoED25519 {
			return nil, fmt.Errorf("node key: is %s; want %s", key.Type(), ssh.KeyAlgoED25519)
		}
		keys[i] = key
	}
	if len(keys) == 2 && string(keys[0].Marshal()) == string(keys[1].Marshal()) {
		return nil, errors.New("node key: has the same key twice")
	}
	return keys, nil
}

// Ed25519Keys returns the keys of a Node's node-key annotation, none where it cannot be read: such a Node
// is never accepted.
func Ed25519Keys(annotation string) []ed25519.PublicKey {
	parsed, err := ParseNodeKeys(annotation)
	if err != nil {
		return nil
	}
	var out []ed25519.PublicKey
	for _, k := range parsed {
		if c, ok := k.(ssh.CryptoPublicKey); ok {
			if key, ok := c.CryptoPublicKey().(ed25519.PublicKey); ok {
				out = append(out, key)
			}
		}
	}
	return out
}
