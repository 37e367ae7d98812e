// Package repository writes config repositories: a new one to start a cluster from, and a node's
// file into one that exists. Whatever it writes it commits, signed with the user's SSH key.
package repository

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"

	"github.com/pleachdev/pleach/gitsync/manifest"
	"github.com/pleachdev/pleach/gitsync/trust"
)

// What a new cluster gets unless it is told otherwise. The ranges are those of kubeadm's examples
// and of many clusters; neither is routed on the internet.
const (
	DefaultBranch      = "main"
	DefaultPodCIDR     = "10.244.0.0/16"
	DefaultServiceCIDR = "10.96.0.0/16"
	DefaultImage       = "nginx:stable-alpine"
)

//go:embed skeleton
var skeleton embed.FS

// InitOptions say what a new config repository holds. User and Node.Name are required.
type InitOptions struct {
	ClusterName string // the directory's name when empty
	PodCIDR     string
	ServiceCIDR string
	Image       string // of the sample app: a web server on port 80 that serves /usr/share/nginx/html
	Node        NodeOptions
	User        User
}

// User is who signs.
type User struct {
	// Name and Mail are the commits' author; taken from git's configuration when empty. Mail is
	// the principal in trust/allowed_signers.
	Name, Mail string
	Key        *trust.SigningKey
}

// Init writes a config repository into dir, which must be empty or not exist, and returns its first
// commit: the introduction that agents are started with. When it fails, dir is as it was.
func Init(dir string, o InitOptions) (commit string, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return "", fmt.Errorf("%s: is not empty", dir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if o.User, err = o.User.complete(nil); err != nil {
		return "", err
	}
	if err := o.setDefaults(dir); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".pleach-init-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(tmp) }() // renamed when all went well
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", err
	}
	if err := o.writeSkeleton(tmp); err != nil {
		return "", err
	}
	if commit, err = o.commit(tmp); err != nil {
		return "", err
	}
	return commit, os.Rename(tmp, dir)
}

func (o *InitOptions) setDefaults(dir string) error {
	if o.ClusterName == "" {
		o.ClusterName = strings.ToLower(filepath.Base(dir))
	}
	if o.PodCIDR == "" {
		o.PodCIDR = DefaultPodCIDR
	}
	if o.ServiceCIDR == "" {
		o.ServiceCIDR = DefaultServiceCIDR
	}
	if o.Image == "" {
		o.Image = DefaultImage
	}
	for name, cidr := range map[string]string{"pod": o.PodCIDR, "service": o.ServiceCIDR} {
		if p, err := netip.ParsePrefix(cidr); err != nil || p != p.Masked() {
			return fmt.Errorf("%s CIDR %q: want a network such as %s", name, cidr, DefaultPodCIDR)
		}
	}
	if strings.ContainsAny(o.Image, " \t\n\"'#") || o.Image == "" {
		return fmt.Errorf("image %q: want a name such as %s", o.Image, DefaultImage)
	}
	return nil
}

// writeSkeleton fills dir with everything but the node.
func (o *InitOptions) writeSkeleton(dir string) error {
	values := struct {
		InitOptions
		Branch, Principal, PublicKey, Fingerprint string
	}{*o, DefaultBranch, o.User.Mail, o.User.Key.AuthorizedKey(), o.User.Key.Fingerprint()}
	return fs.WalkDir(skeleton, "skeleton", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := skeleton.ReadFile(name)
		if err != nil {
			return err
		}
		t, err := template.New(name).Option("missingkey=error").Parse(string(text))
		if err != nil {
			return err
		}
		var out bytes.Buffer
		if err := t.Execute(&out, values); err != nil {
			return err
		}
		target := filepath.Join(dir, strings.TrimSuffix(strings.TrimPrefix(name, "skeleton/"), ".tmpl"))
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		return os.WriteFile(target, out.Bytes(), 0o644)
	})
}

func (o *InitOptions) commit(dir string) (string, error) {
	if _, err := addNode(dir, o.Node); err != nil {
		return "", err
	}
	if report := manifest.Validate(os.DirFS(dir)); !report.OK() {
		bad := report.Problems
		for _, app := range report.Apps {
			bad = append(bad, app.Result.Errors...)
		}
		return "", problems(bad)
	}
	r, err := git.PlainInitWithOptions(dir, &git.PlainInitOptions{
		InitOptions: git.InitOptions{DefaultBranch: plumbing.NewBranchReferenceName(DefaultBranch)},
	})
	if err != nil {
		return "", fmt.Errorf("git init: %w", err)
	}
	if err := configure(r, o.User); err != nil {
		return "", err
	}
	w, err := r.Worktree()
	if err != nil {
		return "", err
	}
	if err := w.AddWithOptions(&git.AddOptions{All: true}); err != nil {
		return "", fmt.Errorf("git add: %w", err)
	}
	return commit(w, o.User, fmt.Sprintf("cluster %s with the node %s", o.ClusterName, o.Node.Name))
}

func problems(all []manifest.Problem) error {
	errs := make([]error, len(all))
	for i, p := range all {
		errs[i] = p
	}
	return errors.Join(errs...)
}
