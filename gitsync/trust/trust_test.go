package trust_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/pleachdev/pleach/e2e/needs"
	"github.com/pleachdev/pleach/gitsync/trust"
)

// newKey makes a key with ssh-keygen and returns the private key's path and the public line.
func newKey(t testing.TB, args ...string) (path, public string) {
	t.Helper()
	needs.Command(t, "ssh-keygen")
	path = filepath.Join(t.TempDir(), "key")
	run(t, "", "ssh-keygen", append([]string{"-q", "-N", "", "-C", "", "-f", path}, args...)...)
	data, err := os.ReadFile(path + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return path, strings.TrimSpace(string(data))
}

func run(t testing.TB, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

func sign(t testing.TB, key, namespace, payload string) string {
	t.Helper()
	return run(t, payload, "ssh-keygen", "-Y", "sign", "-n", namespace, "-f", key)
}

func parse(t testing.TB, lines ...string) *trust.AllowedSigners {
	t.Helper()
	a, err := trust.ParseAllowedSigners("trust/allowed_signers", []byte(strings.Join(lines, "\n")+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// What ssh-keygen signs we verify, and what we sign ssh-keygen verifies, for every kind of key that
// a file can hold.
func TestAgreesWithOpenSSH(t *testing.T) {
	const payload = "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n\nhello\n"
	for _, kind := range [][]string{
		{"-t", "ed25519"},
		{"-t", "ecdsa", "-b", "256"},
		{"-t", "ecdsa", "-b", "384"},
		{"-t", "ecdsa", "-b", "521"},
		{"-t", "rsa", "-b", "3072"},
	} {
		t.Run(strings.Join(kind, ""), func(t *testing.T) {
			path, public := newKey(t, kind...)
			line := `ada@example.com,ada namespaces="git" ` + public
			signers := parse(t, line)
			who, err := signers.Verify([]byte(payload), sign(t, path, "git", payload))
			if err != nil {
				t.Fatal(err)
			}
			if fmt.Sprint(who.Principals) != "[ada@example.com ada]" || !strings.HasPrefix(who.Fingerprint, "SHA256:") {
				t.Errorf("signer %+v", who)
			}
			if _, err := signers.Verify([]byte(payload+"\n"), sign(t, path, "git", payload)); reason(err) != trust.BadSignature {
				t.Errorf("changed payload: %v", err)
			}
			key, err := trust.LoadKey(path)
			if err != nil {
				t.Fatal(err)
			}
			armoured, err := key.Sign([]byte(payload))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := signers.Verify([]byte(payload), armoured); err != nil {
				t.Errorf("own signature: %v", err)
			}
			dir := t.TempDir()
			sigFile, allowed := filepath.Join(dir, "sig"), filepath.Join(dir, "allowed")
			write(t, sigFile, armoured)
			write(t, allowed, line+"\n")
			run(t, payload, "ssh-keygen", "-Y", "verify", "-f", allowed, "-I", "ada", "-n", "git", "-s", sigFile)
		})
	}
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func reason(err error) trust.Reason {
	if r, ok := errors.AsType[*trust.Refusal](err); ok {
		return r.Reason
	}
	return ""
}

func TestRefusals(t *testing.T) {
	const payload = "payload"
	ada, adaPublic := newKey(t, "-t", "ed25519")
	eve, _ := newKey(t, "-t", "ed25519")
	mail, mailPublic := newKey(t, "-t", "ed25519")
	node, nodePublic := newKey(t, "-t", "ed25519")
	signers := parse(t, "ada@example.com "+adaPublic, `mail@example.com namespaces="file,email" `+mailPublic, "node/n1 "+nodePublic)
	nodeKeys, err := trust.ParseNodeKeys(nodePublic)
	if err != nil {
		t.Fatal(err)
	}
	signers = signers.WithNodes(map[string][]ssh.PublicKey{"n1": nodeKeys})
	good := sign(t, ada, "git", payload)
	for _, tt := range []struct {
		name, armoured string
		want           trust.Reason
	}{
		{"unsigned", "", trust.Unsigned},
		{"node", sign(t, node, "git", payload), trust.NodeKey},
		{"stranger", sign(t, eve, "git", payload), trust.UnknownKey},
		{"other namespace", sign(t, ada, "file", payload), trust.WrongNamespace},
		{"key for other namespaces", sign(t, mail, "git", payload), trust.WrongNamespace},
		{"other payload", sign(t, ada, "git", "something else"), trust.BadSignature},
		{"two blocks", good + good, trust.TwoSignatures},
		{"OpenPGP", "-----BEGIN PGP SIGNATURE-----\n\nabc\n-----END PGP SIGNATURE-----\n", trust.NotSupported},
		{"X.509", "-----BEGIN SIGNED MESSAGE-----\nabc\n-----END SIGNED MESSAGE-----\n", trust.NotSupported},
		{"text in front", "x" + good, trust.NotSupported},
		{"text behind", good + "x\n", trust.BadSignature},
		{"two ends", good + "-----END SSH SIGNATURE-----\n", trust.BadSignature},
		{"PEM header", strings.Replace(good, "\n", "\nKey: value\n\n", 1), trust.BadSignature},
		{"cut", strings.Replace(good, good[60:100], "", 1), trust.BadSignature},
	} {
		_, err := signers.Verify([]byte(payload), tt.armoured)
		if reason(err) != tt.want {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
}

// A node that was removed may have left its line behind.
func TestLineOfARemovedNode(t *testing.T) {
	key, public := newKey(t, "-t", "ed25519")
	signers := parse(t, "node/n1 "+public)
	for name, a := range map[string]*trust.AllowedSigners{"alone": signers, "with other nodes": signers.WithNodes(nil)} {
		if _, err := a.Verify([]byte("x"), sign(t, key, "git", "x")); reason(err) != trust.NodeKey {
			t.Errorf("%s: %v, want %s", name, err, trust.NodeKey)
		}
		if a.AnyPerson() {
			t.Errorf("%s: the node is taken for a person", name)
		}
	}
}

func TestParseAllowedSigners(t *testing.T) {
	_, key := newKey(t, "-t", "ed25519")
	_, weak := newKey(t, "-t", "rsa", "-b", "2048")
	_, ecdsa := newKey(t, "-t", "ecdsa")
	kind, encoded, _ := strings.Cut(key, " ")
	for _, tt := range []struct{ name, line, want string }{
		{"plain", "ada@example.com " + key, ""},
		{"comment and blank", "# who may\n\n  \t\nada@example.com\t" + key + " a comment \"here", ""},
		{"two principals", "ada@example.com,ada " + key, ""},
		{"namespaces", `ada NAMESPACES="git,file" ` + key, ""},
		{"carriage returns", "ada " + key + "\r\n", ""},
		{"pattern", "*@example.com " + key, `principal "*@example.com" is a pattern`},
		{"negated pattern", "!ada,* " + key, "is a pattern"},
		{"quoted principal", `"ada" ` + key, "is a pattern"},
		{"empty principal", "ada,, " + key, "empty principal"},
		{"twice the principal", "ada,ada " + key, "twice"},
		{"node among others", "ada,node/n1 " + key, "stands alone"},
		{"node without a name", "node/ " + key, "stands alone"},
		{"no key", "ada", "want: principals"},
		{"only options", `ada namespaces="git"`, "key is missing"},
		{"authority", "ada cert-authority " + key, "cert-authority is not supported"},
		{"after", `ada valid-after="20200101" ` + key, "valid-after is not supported"},
		{"before", `ada namespaces="git",valid-before="20200101Z" ` + key, "valid-before is not supported"},
		{"unknown option", `ada sudo ` + key, `"sudo" is not known`},
		{"unknown valued option", `ada max="3" ` + key, `"max" is not known`},
		{"option twice", `ada namespaces="git",namespaces="file" ` + key, "twice"},
		{"unquoted", `ada namespaces=git ` + key, "quoted list"},
		{"open quote", `ada namespaces="git ` + key, "not closed"},
		{"wildcard namespace", `ada namespaces="*" ` + key, "not a plain name"},
		{"backslash", `ada namespaces="git\"" ` + key, "backslash"},
		{"dsa", "ada ssh-dss AAAA", `"ssh-dss" is not known`},
		{"weak", "ada " + weak, "2048 bits"},
		{"bad base64", "ada " + kind + " !!!", "malformed"},
		{"other type", "ada ecdsa-sha2-nistp256 " + encoded, "malformed"},
		{"key twice", "ada " + key + "\nbob " + key, "stands on line 1 already"},
		{"NUL", "ada\x00 " + key, "not text"},
	} {
		_, err := trust.ParseAllowedSigners("trust/allowed_signers", []byte(tt.line))
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	_, err := trust.ParseAllowedSigners("trust/allowed_signers", []byte("ada\nbob "+ecdsa+"\nx y z\n"))
	if err == nil || !strings.Contains(err.Error(), "allowed_signers:1: ") || !strings.Contains(err.Error(), "allowed_signers:3: ") {
		t.Errorf("want both bad lines, got %v", err)
	}
}

func FuzzParseAllowedSigners(f *testing.F) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0yVvy0lQKDXuWvSeqGuEiP2AfVcXBcHsCcHPaKaQ9d"
	for _, seed := range []string{
		"ada@example.com " + key, `a,b namespaces="git,x" ` + key + " comment", "# c\n\nada cert-authority " + key,
		`ada valid-after="1" ` + key, "ada\t" + key, `ada namespaces="git`, "ada ssh-rsa AAAA",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := trust.ParseAllowedSigners("f", data)
		if (a == nil) == (err == nil) {
			t.Fatalf("signers %v and error %v", a, err)
		}
		if err != nil {
			return
		}
		keys := map[string]bool{}
		for _, s := range a.Signers() {
			if len(s.Principals) == 0 || s.Line < 1 || keys[string(s.Key.Marshal())] {
				t.Fatalf("signer %+v", s)
			}
			keys[string(s.Key.Marshal())] = true
			if strings.ContainsAny(strings.Join(s.Principals, ""), "*?!\" \t,") {
				t.Fatalf("principals %q", s.Principals)
			}
		}
	})
}

func FuzzVerify(f *testing.F) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0yVvy0lQKDXuWvSeqGuEiP2AfVcXBcHsCcHPaKaQ9d"
	a, err := trust.ParseAllowedSigners("f", []byte("ada "+key))
	if err != nil {
		f.Fatal(err)
	}
	f.Add("-----BEGIN SSH SIGNATURE-----\nU1NIU0lHAAAAAQ==\n-----END SSH SIGNATURE-----\n")
	f.Fuzz(func(t *testing.T, armoured string) {
		if who, err := a.Verify([]byte("payload"), armoured); err == nil || reason(err) == "" {
			t.Fatalf("accepted for %v, %v", who, err)
		}
	})
}

func TestNodeKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys", "node.key")
	k, err := trust.LoadOrCreateKey(path, "node n1")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	again, err := trust.LoadOrCreateKey(path, "other")
	if err != nil || again.Fingerprint() != k.Fingerprint() || len(again.Ed25519()) == 0 {
		t.Fatalf("second call: %v, %v", again, err)
	}
	needs.Command(t, "ssh-keygen")
	if got := run(t, "", "ssh-keygen", "-y", "-P", "", "-f", path); !strings.HasPrefix(got, k.AuthorizedKey()) {
		t.Errorf("ssh-keygen reads %q, want %q", got, k.AuthorizedKey())
	}
	sig, err := k.Sign([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if err := trust.VerifyKey([]byte("x"), sig, k.PublicKey()); err != nil {
		t.Error(err)
	}
	_, other := newKey(t, "-t", "ed25519")
	otherKey, _, _, _, err := ssh.ParseAuthorizedKey([]byte(other))
	if err != nil {
		t.Fatal(err)
	}
	if err := trust.VerifyKey([]byte("x"), sig, otherKey); reason(err) != trust.UnknownKey {
		t.Errorf("verify with another key: %v", err)
	}
	both := k.AuthorizedKey() + ", " + other
	if keys, err := trust.ParseNodeKeys(both); err != nil || len(keys) != 2 {
		t.Errorf("two keys: %v, %v", keys, err)
	}
	for _, bad := range []string{"", other + "," + other, both + "," + other, "ssh-rsa AAAA"} {
		if keys, err := trust.ParseNodeKeys(bad); err == nil {
			t.Errorf("%q: accepted as %v", bad, keys)
		}
	}
}

func TestTokenKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys", "token.key")
	k, err := trust.LoadOrCreateTokenKey(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := trust.LoadOrCreateTokenKey(path)
	if err != nil || !again.Equal(k) {
		t.Fatalf("second call: %v", err)
	}
	text, err := trust.EncodeTokenKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if public, err := trust.ParseTokenKey(text); err != nil || !public.Equal(&k.PublicKey) {
		t.Errorf("round trip: %v", err)
	}
	if _, err := trust.ParseTokenKey(text[:len(text)-4]); err == nil {
		t.Error("a cut key was accepted")
	}
}

func TestAgent(t *testing.T) {
	needs.Command(t, "ssh-agent")
	path, public := newKey(t, "-t", "ed25519")
	socket := filepath.Join(t.TempDir(), "agent")
	cmd := exec.CommandContext(t.Context(), "ssh-agent", "-D", "-a", socket)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for range 100 {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		run(t, "", "sleep", "0.05")
	}
	if _, err := trust.AgentKey(socket, nil); err == nil || !strings.Contains(err.Error(), "ssh-add") {
		t.Errorf("empty agent: %v", err)
	}
	t.Setenv("SSH_AUTH_SOCK", socket)
	run(t, "", "ssh-add", "-q", path)
	k, err := trust.AgentKey(socket, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = k.Close() }()
	sig, err := k.Sign([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parse(t, "ada "+public).Verify([]byte("x"), sig); err != nil {
		t.Error(err)
	}
	locked := filepath.Join(t.TempDir(), "locked")
	run(t, "", "ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", locked)
	if _, err := trust.LoadKey(locked); err == nil || !strings.Contains(err.Error(), "passphrase") {
		t.Errorf("locked key: %v", err)
	}
}
