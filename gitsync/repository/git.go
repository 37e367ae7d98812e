package repository

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing/object"
	"golang.org/x/crypto/ssh"

	"github.com/pleachdev/pleach/gitsync/manifest"
	"github.com/pleachdev/pleach/gitsync/trust"
)

// complete takes what the user did not say from git's configuration; r is nil before there is a
// repository.
func (u User) complete(r *git.Repository) (User, error) {
	cfg, err := gitConfig(r)
	if err != nil {
		return u, err
	}
	if u.Name == "" {
		u.Name = cfg.User.Name
	}
	if u.Mail == "" {
		u.Mail = cfg.User.Email
	}
	if u.Name == "" {
		u.Name, _, _ = strings.Cut(u.Mail, "@")
	}
	switch {
	case u.Mail == "":
		return u, errors.New("who signs? set your address with: git config --global user.email you@example.com")
	case strings.ContainsAny(u.Mail, " \t\r\n,<>*?!\"#"):
		return u, fmt.Errorf("address %q: cannot be the principal of a key", u.Mail)
	case strings.ContainsAny(u.Name, "\r\n<>"):
		return u, fmt.Errorf("name %q: cannot be a commit's author", u.Name)
	case u.Key == nil:
		return u, errors.New("no key to sign with; see UserKey")
	}
	return u, nil
}

// gitConfig is what git itself would read, the repository's own settings first.
func gitConfig(r *git.Repository) (*config.Config, error) {
	var cfg *config.Config
	var err error
	if r != nil {
		cfg, err = r.ConfigScoped(config.SystemScope)
	} else {
		cfg, err = config.LoadConfig(config.GlobalScope)
	}
	if err != nil {
		return nil, fmt.Errorf("git configuration: %w", err)
	}
	return cfg, nil
}

// UserKey finds the SSH key that the user signs with. file names a private key, or a public one
// whose private half is in the ssh-agent. When it is empty, the key is the one of git's
// user.signingkey, else the first in the ssh-agent, else a key under its usual name in ~/.ssh. The
// caller closes the key.
func UserKey(file string) (*trust.SigningKey, error) {
	if file != "" {
		return keyFrom(file)
	}
	cfg, err := gitConfig(nil)
	if err != nil {
		return nil, err
	}
	if cfg.Raw.Section("gpg").Option("format") == "ssh" {
		if key := cfg.Raw.Section("user").Option("signingkey"); key != "" {
			return keyFrom(key)
		}
	}
	if socket := os.Getenv("SSH_AUTH_SOCK"); socket != "" {
		if key, err := trust.AgentKey(socket, nil); err == nil {
			return key, nil
		}
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		path := filepath.Join(home, ".ssh", name)
		if _, err := os.Stat(path); err == nil {
			return keyFrom(path)
		}
	}
	return nil, errors.New("no SSH key to sign with; make one with: ssh-keygen -t ed25519")
}

// keyFrom understands what git's user.signingkey may hold: a path, or a public key itself.
func keyFrom(value string) (*trust.SigningKey, error) {
	literal, isLiteral := strings.CutPrefix(value, "key::")
	if isLiteral || strings.HasPrefix(value, "ssh-") {
		return agentKey(literal, "the public key")
	}
	if rest, ok := strings.CutPrefix(value, "~/"); ok {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, err
		}
		value = filepath.Join(home, rest)
	}
	data, err := os.ReadFile(value)
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	if _, _, _, _, err := ssh.ParseAuthorizedKey(data); err != nil {
		key, err := trust.LoadKey(value)
		if !errors.Is(err, trust.ErrLocked) {
			return key, err
		}
		// Its owner unlocks it in the ssh-agent; the public half lies beside it.
		public, readErr := os.ReadFile(value + ".pub")
		if readErr != nil {
			return nil, err
		}
		return agentKey(string(public), value)
	}
	if private, ok := strings.CutSuffix(value, ".pub"); ok {
		if key, err := trust.LoadKey(private); err == nil {
			return key, nil
		}
	}
	return agentKey(string(data), value)
}

func agentKey(public, where string) (*trust.SigningKey, error) {
	want, _, _, _, err := ssh.ParseAuthorizedKey([]byte(public))
	if err != nil {
		return nil, fmt.Errorf("signing key: %s is no SSH public key", where)
	}
	return trust.AgentKey(os.Getenv("SSH_AUTH_SOCK"), want)
}

// configure makes git sign and verify in this repository as Pleach does.
func configure(r *git.Repository, u User) error {
	cfg, err := r.Config()
	if err != nil {
		return err
	}
	cfg.User.Name, cfg.User.Email = u.Name, u.Mail
	cfg.Raw.SetOption("gpg", "", "format", "ssh")
	cfg.Raw.SetOption("gpg", "ssh", "allowedSignersFile", manifest.SignersFile)
	cfg.Raw.SetOption("commit", "", "gpgsign", "true")
	cfg.Raw.SetOption("user", "", "signingkey", u.Key.GitSigningKey())
	if err := r.SetConfig(cfg); err != nil {
		return fmt.Errorf("git config: %w", err)
	}
	return nil
}

// commit commits what is staged.
func commit(w *git.Worktree, u User, message string) (string, error) {
	me := &object.Signature{Name: u.Name, Email: u.Mail, When: time.Now()}
	id, err := w.Commit(message+"\n", &git.CommitOptions{Author: me, Signer: signer{u.Key}})
	if err != nil {
		return "", fmt.Errorf("git commit: %w", err)
	}
	return id.String(), nil
}

type signer struct{ key *trust.SigningKey }

func (s signer) Sign(message io.Reader) ([]byte, error) {
	payload, err := io.ReadAll(message)
	if err != nil {
		return nil, err
	}
	armoured, err := s.key.Sign(payload)
	return []byte(armoured), err
}
