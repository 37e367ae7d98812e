package repository

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pleachdev/pleach/gitsync/manifest"
	"github.com/pleachdev/pleach/gitsync/trust"
)

// addSigners gives each of a node's keys a line in trust/allowed_signers, so that git shows the
// node's status commits as good. The verifier counts no node's key for anything else. A line that is
// there already, of a node that comes back, serves again.
func addSigners(dir, name, nodeKeys string) error {
	path := filepath.Join(dir, filepath.FromSlash(manifest.SignersFile))
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if len(data) > 0 && data[len(data)-1] != '\n' {
		data = append(data, '\n')
	}
	principal := trust.NodePrincipal + name
	for _, key := range splitKeys(nodeKeys) {
		has, err := signersOf(data, principal)
		if err != nil {
			return err
		}
		if !slices.Contains(has, key) {
			data = fmt.Appendf(data, "%s namespaces=\"git\" %s\n", principal, key)
		}
	}
	if _, err := trust.ParseAllowedSigners(manifest.SignersFile, data); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

// forgetSigners takes the lines of a node's keys away; of all its keys when keys is "".
func forgetSigners(dir, name, keys string) error {
	path := filepath.Join(dir, filepath.FromSlash(manifest.SignersFile))
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	principal := trust.NodePrincipal + name
	has, err := signersOf(data, principal)
	if err != nil {
		return err
	}
	if keys != "" {
		has = splitKeys(keys)
	}
	var out []byte
	for line := range bytes.Lines(data) {
		first, rest, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		gone := first == principal && slices.ContainsFunc(has, func(key string) bool { return strings.Contains(rest, key) })
		if !gone {
			out = append(out, line...)
		}
	}
	return os.WriteFile(path, out, 0o644)
}

// signersOf returns the keys of a principal in the text of an allowed_signers file.
func signersOf(data []byte, principal string) (keys []string, err error) {
	signers, err := trust.ParseAllowedSigners(manifest.SignersFile, data)
	if err != nil {
		return nil, err
	}
	for _, s := range signers.Signers() {
		if s.Principals[0] == principal {
			keys = append(keys, trust.AuthorizedKey(s.Key))
		}
	}
	return keys, nil
}

func splitKeys(annotation string) (keys []string) {
	for key := range strings.SplitSeq(annotation, ",") {
		keys = append(keys, strings.TrimSpace(key))
	}
	return keys
}
