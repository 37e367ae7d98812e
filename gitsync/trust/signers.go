package trust

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"
)

// minRSABits is the smallest RSA key that counts.
const minRSABits = 3072

// NodePrincipal begins the principal of a node's key: "node/n1".
const NodePrincipal = "node/"

// maxSignersBytes bounds an allowed_signers file.
const maxSignersBytes = 1 << 20

// AllowedSigners is a parsed allowed_signers file. It is never changed.
type AllowedSigners struct {
	signers []Signer
	byKey   map[string]int    // marshalled key → index
	nodes   map[string]string // marshalled key → the node that it is the key of
}

// Signer is one line of an allowed_signers file.
type Signer struct {
	Principals []string
	Key        ssh.PublicKey
	// Namespaces are those of the option of that name; nil when the key may sign in all.
	Namespaces []string
	Line       int // from 1
}

// Allows reports whether the key may sign in a namespace.
func (s Signer) Allows(namespace string) bool {
	return s.Namespaces == nil || slices.Contains(s.Namespaces, namespace)
}

// LineError is a line that is not understood, or understood and not wanted.
type LineError struct {
	Path   string
	Line   int
	Reason string
}

func (e *LineError) Error() string { return fmt.Sprintf("%s:%d: %s", e.Path, e.Line, e.Reason) }

// ParseAllowedSigners reads the format of ssh-keygen's ALLOWED SIGNERS. path is for messages. All
// bad lines are reported at once, each as a [*LineError] in the joined error; then nothing of the
// file is used, since a line that is skipped may have been a restriction.
func ParseAllowedSigners(path string, data []byte) (*AllowedSigners, error) {
	if len(data) > maxSignersBytes {
		return nil, &LineError{path, 1, fmt.Sprintf("file is %d bytes large, more than the limit of %d", len(data), maxSignersBytes)}
	}
	a := &AllowedSigners{byKey: map[string]int{}}
	var errs []error
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		line = strings.TrimRight(line, "\r\n")
		text := strings.Trim(line, " \t")
		if text == "" || text[0] == '#' {
			continue
		}
		signer, err := parseSigner(text)
		if err == nil {
			if first, ok := a.byKey[string(signer.Key.Marshal())]; ok {
				err = fmt.Errorf("key %s stands on line %d already; a key belongs to one person",
					ssh.FingerprintSHA256(signer.Key), a.signers[first].Line)
			}
		}
		if err != nil {
			errs = append(errs, &LineError{path, number, err.Error()})
			continue
		}
		signer.Line = number
		a.byKey[string(signer.Key.Marshal())] = len(a.signers)
		a.signers = append(a.signers, signer)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return a, nil
}

// WithNodes is a with the keys of nodes by the node's name: they may stand in the file, so that git
// shows the status commits as good, and count for nothing else.
func (a *AllowedSigners) WithNodes(nodes map[string][]ssh.PublicKey) *AllowedSigners {
	b := &AllowedSigners{signers: a.signers, byKey: a.byKey, nodes: map[string]string{}}
	for name, keys := range nodes {
		for _, key := range keys {
			b.nodes[string(key.Marshal())] = name
		}
	}
	return b
}

// Equal reports whether a and b let the same people and nodes sign, in lines in the same order.
func (a *AllowedSigners) Equal(b *AllowedSigners) bool {
	if a == nil || b == nil {
		return a == b
	}
	return maps.Equal(a.nodes, b.nodes) && slices.EqualFunc(a.signers, b.signers, func(x, y Signer) bool {
		return bytes.Equal(x.Key.Marshal(), y.Key.Marshal()) && slices.Equal(x.Principals, y.Principals) &&
			(x.Namespaces == nil) == (y.Namespaces == nil) && slices.Equal(x.Namespaces, y.Namespaces)
	})
}

// AnyPerson reports whether somebody who is no node may sign for git.
func (a *AllowedSigners) AnyPerson() bool {
	return slices.ContainsFunc(a.signers, func(s Signer) bool { return s.Allows(Namespace) && a.node(s.Key) == "" })
}

// node names the node that a key is of; "" for anybody else's. A line with a node's principal stays
// a node's when the node's file has gone: leaving the line behind must not make a person of it.
func (a *AllowedSigners) node(key ssh.PublicKey) string {
	k := string(key.Marshal()) //nolint:staticcheck // it is looked up twice
	if name, ok := a.nodes[k]; ok {
		return name
	}
	if i, ok := a.byKey[k]; ok {
		if name, ok := strings.CutPrefix(a.signers[i].Principals[0], NodePrincipal); ok {
			return name
		}
	}
	return ""
}

// Signers returns the lines in the file's order. The caller owns the slice.
func (a *AllowedSigners) Signers() []Signer { return slices.Clone(a.signers) }

func parseSigner(text string) (Signer, error) {
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return r != '\t' && unicode.IsControl(r) }) {
		return Signer{}, errors.New("line holds characters that are not text")
	}
	principals, rest, _ := cutField(text)
	var s Signer
	var err error
	if s.Principals, err = parsePrincipals(principals); err != nil {
		return Signer{}, err
	}
	first, _, ok := cutField(rest)
	if !ok {
		return Signer{}, errors.New("lacks the key; want: principals [options] key-type key [comment]")
	}
	if !knownKeyType(first) {
		options, after, err := cutOptions(rest)
		if err != nil {
			return Signer{}, err
		}
		if s.Namespaces, err = parseOptions(options); err != nil {
			return Signer{}, err
		}
		rest = after
	}
	if s.Key, err = parseKey(rest); err != nil {
		return Signer{}, err
	}
	return s, nil
}

// parsePrincipals takes names, where OpenSSH takes patterns: a pattern names nobody, and who signed
// must be sayable.
func parsePrincipals(field string) ([]string, error) {
	names := strings.Split(field, ",")
	for i, name := range names {
		switch {
		case name == "":
			return nil, errors.New("has an empty principal")
		case strings.ContainsAny(name, `*?!"`):
			return nil, fmt.Errorf("principal %q is a pattern; write names", name)
		case strings.HasPrefix(name, NodePrincipal) && (len(names) > 1 || name == NodePrincipal):
			return nil, fmt.Errorf("principal %q is a node's and stands alone: %sNAME", name, NodePrincipal)
		case slices.Contains(names[:i], name):
			return nil, fmt.Errorf("names the principal %q twice", name)
		}
	}
	return names, nil
}

func parseKey(text string) (ssh.PublicKey, error) {
	kind, rest, _ := cutField(text)
	encoded, _, _ := cutField(rest)
	if !knownKeyType(kind) {
		return nil, fmt.Errorf("key type %.40q is not supported; use ed25519, ecdsa, their -sk kinds, or RSA", kind)
	}
	key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(kind + " " + encoded))
	if err != nil || len(options) > 0 || key.Type() != kind {
		return nil, errors.New("key is malformed")
	}
	if bits := rsaBits(key); bits != 0 && bits < minRSABits {
		return nil, fmt.Errorf("RSA key has %d bits; want %d or more", bits, minRSABits)
	}
	return key, nil
}

func knownKeyType(kind string) bool {
	switch kind {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
		ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256, ssh.KeyAlgoRSA:
		return true
	}
	return false
}

// rsaBits is 0 for keys of other kinds.
func rsaBits(key ssh.PublicKey) int {
	c, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return 0
	}
	k, ok := c.CryptoPublicKey().(*rsa.PublicKey)
	if !ok {
		return 0
	}
	return k.N.BitLen()
}

// parseOptions returns the namespaces that the key may sign in; nil for all.
func parseOptions(options []string) (namespaces []string, err error) {
	seen := map[string]bool{}
	for _, option := range options {
		name, value, _ := strings.Cut(option, "=")
		name = strings.ToLower(name) // OpenSSH ignores the case
		if seen[name] {
			return nil, fmt.Errorf("has the option %q twice", name)
		}
		seen[name] = true
		switch name {
		case "namespaces":
			if namespaces, err = parseNamespaces(value); err != nil {
				return nil, err
			}
		case "valid-after", "valid-before":
			return nil, fmt.Errorf("option %s is not supported: a commit's date proves nothing; "+
				"a key is valid from the commit that adds it to the one that removes it", name)
		case "cert-authority":
			return nil, errors.New("option cert-authority is not supported; list each key")
		default:
			return nil, fmt.Errorf("option or key type %.40q is not known", name)
		}
	}
	return namespaces, nil
}

func parseNamespaces(value string) (namespaces []string, err error) {
	inner, ok := strings.CutPrefix(value, `"`)
	inner, ok2 := strings.CutSuffix(inner, `"`)
	if !ok || !ok2 || inner == "" || strings.ContainsAny(inner, `"\`) {
		return nil, errors.New(`option namespaces wants a quoted list: namespaces="git"`)
	}
	namespaces = strings.Split(inner, ",")
	for _, ns := range namespaces {
		if ns == "" || strings.ContainsAny(ns, "*?! \t") {
			return nil, fmt.Errorf("namespace %q is not a plain name", ns)
		}
	}
	return namespaces, nil
}

func cutField(s string) (field, rest string, ok bool) {
	s = strings.TrimLeft(s, " \t")
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, "", s != ""
	}
	return s[:i], strings.TrimLeft(s[i:], " \t"), true
}

// cutOptions splits the options field at commas outside of quotes; it ends at a blank outside of
// quotes.
func cutOptions(s string) (options []string, rest string, err error) {
	start, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			return nil, "", errors.New("has a backslash in its options")
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == ',':
			options, start = append(options, s[start:i]), i+1
		case c == ' ', c == '\t':
			return append(options, s[start:i]), strings.TrimLeft(s[i:], " \t"), nil
		}
	}
	if quoted {
		return nil, "", errors.New("has a quote in its options that is not closed")
	}
	// Nothing follows, so that the field was meant as a key.
	return nil, "", fmt.Errorf("key type %.40q is not supported, or the key is missing", s)
}
