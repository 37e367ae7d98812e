package trust

import (
	"bytes"
	"strings"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

const (
	beginSSH = "-----BEGIN SSH SIGNATURE-----\n"
	endSSH   = "-----END SSH SIGNATURE-----"
	// maxSignatureBytes bounds an armoured signature; RSA with 16,384 bits needs 6 KiB.
	maxSignatureBytes = 64 << 10
)

// Verify checks an armoured signature over payload, in git's namespace, and says whose it is. The error
// is always a [*Refusal].
func (a *AllowedSigners) Verify(payload []byte, armoured string) (Identity, error) {
	return a.VerifyIn(Namespace, payload, armoured)
}

// VerifyIn is Verify for another namespace.
func (a *AllowedSigners) VerifyIn(namespace string, payload []byte, armoured string) (Identity, error) {
	sig, refusal := parseSignature(armoured)
	if refusal != nil {
		return Identity{}, refusal
	}
	fp := ssh.FingerprintSHA256(sig.PublicKey)
	if node := a.node(sig.PublicKey); node != "" {
		return Identity{}, refuse(NodeKey, fp, "signed by %s, the key of node %s: nodes sign status commits and nothing else", fp, node)
	}
	i, ok := a.byKey[string(sig.PublicKey.Marshal())]
	if !ok {
		return Identity{}, refuse(UnknownKey, fp, "signed by a key that trust/allowed_signers does not know: %s", fp)
	}
	s := a.signers[i]
	if !s.Allows(namespace) {
		return Identity{}, refuse(WrongNamespace, fp, "signed by %s, a key that trust/allowed_signers does not allow the namespace %q", fp, namespace)
	}
	if err := verifySignature(namespace, payload, sig, s.Key); err != nil {
		return Identity{}, err
	}
	return Identity{Principals: append([]string(nil), s.Principals...), Fingerprint: fp}, nil
}

// VerifyKey checks an armoured signature over payload by one key, as of a node. The error is always
// a [*Refusal].
func VerifyKey(payload []byte, armoured string, key ssh.PublicKey) error {
	sig, refusal := parseSignature(armoured)
	if refusal != nil {
		return refusal
	}
	if fp := ssh.FingerprintSHA256(sig.PublicKey); !bytes.Equal(sig.PublicKey.Marshal(), key.Marshal()) {
		return refuse(UnknownKey, fp, "signed by %s, not by %s", fp, ssh.FingerprintSHA256(key))
	}
	if err := verifySignature(Namespace, payload, sig, key); err != nil {
		return err
	}
	return nil
}

// parseSignature accepts exactly one armoured SSH signature and nothing around it.
func parseSignature(armoured string) (*sshsig.Signature, *Refusal) {
	text := strings.TrimSuffix(armoured, "\n")
	switch {
	case text == "":
		return nil, refuse(Unsigned, "", "is not signed")
	case strings.Count(text, "-----BEGIN ") > 1:
		return nil, refuse(TwoSignatures, "", "carries two signatures")
	case strings.HasPrefix(text, "-----BEGIN PGP "):
		return nil, refuse(NotSupported, "", "is signed with OpenPGP, which is not supported yet; sign with SSH: git config gpg.format ssh")
	case !strings.HasPrefix(text, beginSSH):
		return nil, refuse(NotSupported, "", "carries a signature of an unknown kind; sign with SSH: git config gpg.format ssh")
	case len(text) > maxSignatureBytes, !strings.HasSuffix(text, "\n"+endSSH), strings.Count(text, endSSH) > 1,
		strings.Contains(text, ":"): // a PEM header
		return nil, refuse(BadSignature, "", "carries a malformed SSH signature")
	}
	sig, err := sshsig.Unarmor([]byte(text + "\n"))
	if err != nil {
		return nil, refuse(BadSignature, "", "carries a malformed SSH signature: %v", err)
	}
	return sig, nil
}

func verifySignature(namespace string, payload []byte, sig *sshsig.Signature, key ssh.PublicKey) error {
	fp := ssh.FingerprintSHA256(key)
	if sig.Namespace != namespace {
		return refuse(WrongNamespace, fp, "signed by %s in the namespace %.40q instead of %q", fp, sig.Namespace, namespace)
	}
	if bits := rsaBits(key); bits != 0 && bits < minRSABits {
		return refuse(WeakKey, fp, "signed by %s, an RSA key of %d bits; want %d or more", fp, bits, minRSABits)
	}
	// A security key adds a byte of flags and a counter of four; nothing else adds anything.
	rest := sig.Signature.Rest
	switch key.Type() {
	case ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		const userPresent = 1
		if len(rest) != 5 {
			return refuse(BadSignature, fp, "carries a malformed signature of the security key %s", fp)
		}
		if rest[0]&userPresent == 0 {
			return refuse(BadSignature, fp, "signed by the security key %s without a touch", fp)
		}
	default:
		if len(rest) != 0 {
			return refuse(BadSignature, fp, "carries a signature by %s with bytes behind its end", fp)
		}
	}
	if err := sshsig.Verify(bytes.NewReader(payload), sig, key, sig.HashAlgorithm, namespace); err != nil {
		what := "commit"
		if namespace != Namespace {
			what = "request"
		}
		return refuse(BadSignature, fp, "carries a signature that is not of %s over this %s", fp, what)
	}
	return nil
}
