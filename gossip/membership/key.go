package membership

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
)

const keySize = 32 // AES-256-GCM

// DeriveKey returns the key that a flock gossips with when none was given: whoever can read the config
// repository can work it out.
func DeriveKey(introduction, cluster string) []byte {
	key, err := hkdf.Key(sha256.New, []byte(introduction), nil, "pleach.dev gossip key 1 of "+cluster, keySize)
	if err != nil {
		panic(err) // only for lengths that SHA-256 cannot give
	}
	return key
}

// ReadKeys reads a file of gossip keys: one a line, 32 bytes in base64. The first is used to send, the
// others are accepted as well, so that a key is replaced in three rounds over all nodes: the new one
// second, the new one first, the old one gone. Empty lines and those that begin with # do not count.
func ReadKeys(path string) ([][]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--gossip-key-file: %w", err)
	}
	var keys [][]byte
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(line)
		if err == nil && len(key) != keySize {
			err = fmt.Errorf("want %d bytes, got %d", keySize, len(key))
		}
		if err != nil {
			return nil, fmt.Errorf("--gossip-key-file %s:%d: %w; \"head -c 32 /dev/urandom | base64\" makes one", path, i+1, err)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("--gossip-key-file " + path + ": holds no key; \"head -c 32 /dev/urandom | base64\" makes one")
	}
	return keys, nil
}
