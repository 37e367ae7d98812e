package images

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Keyring holds registry credentials from imagePullSecrets. The zero value pulls anonymously.
type Keyring struct {
	entries []keyEntry // longest pattern first
}

type keyEntry struct {
	pattern string // "host[:port][/path]", the host may hold "*" within a label
	auth    *runtimeapi.AuthConfig
}

type dockerAuth struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// NewKeyring reads Secrets of type kubernetes.io/dockerconfigjson and kubernetes.io/dockercfg. The
// errors never hold a credential.
func NewKeyring(secrets ...*corev1.Secret) (Keyring, error) {
	var keys Keyring
	for _, s := range secrets {
		var auths map[string]dockerAuth
		switch s.Type {
		case corev1.SecretTypeDockerConfigJson:
			var config struct {
				Auths map[string]dockerAuth `json:"auths"`
			}
			if json.Unmarshal(s.Data[corev1.DockerConfigJsonKey], &config) != nil {
				return Keyring{}, fmt.Errorf("secret %s/%s: %s is not a docker configuration", s.Namespace, s.Name, corev1.DockerConfigJsonKey)
			}
			auths = config.Auths
		case corev1.SecretTypeDockercfg:
			if json.Unmarshal(s.Data[corev1.DockerConfigKey], &auths) != nil {
				return Keyring{}, fmt.Errorf("secret %s/%s: %s is not a docker configuration", s.Namespace, s.Name, corev1.DockerConfigKey)
			}
		default:
			return Keyring{}, fmt.Errorf("secret %s/%s: want type %s for imagePullSecrets, got %q", s.Namespace, s.Name, corev1.SecretTypeDockerConfigJson, s.Type)
		}
		for server, a := range auths {
			auth, err := a.config(server)
			if err != nil {
				return Keyring{}, fmt.Errorf("secret %s/%s: registry %s: %w", s.Namespace, s.Name, server, err)
			}
			keys.entries = append(keys.entries, keyEntry{pattern(server), auth})
		}
	}
	slices.SortStableFunc(keys.entries, func(a, b keyEntry) int {
		return cmp.Or(cmp.Compare(len(b.pattern), len(a.pattern)), strings.Compare(a.pattern, b.pattern),
			strings.Compare(a.auth.Username, b.auth.Username))
	})
	return keys, nil
}

func (a dockerAuth) config(server string) (*runtimeapi.AuthConfig, error) {
	auth := &runtimeapi.AuthConfig{
		Username: a.Username, Password: a.Password, ServerAddress: server,
		IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken,
	}
	if a.Auth != "" {
		plain, err := base64.StdEncoding.DecodeString(a.Auth)
		user, password, ok := strings.Cut(string(plain), ":")
		if err != nil || !ok {
			return nil, fmt.Errorf("auth is not the base64 of user:password")
		}
		auth.Username, auth.Password = user, strings.TrimRight(password, "\x00")
	}
	return auth, nil
}

// pattern normalizes the name of a registry as docker configurations write it.
func pattern(server string) string {
	server = strings.TrimPrefix(strings.TrimPrefix(server, "https://"), "http://")
	server = strings.TrimSuffix(server, "/")
	server = strings.TrimSuffix(strings.TrimSuffix(server, "/v1"), "/v2")
	if server == "index.docker.io" {
		server = "docker.io"
	}
	return strings.ToLower(server)
}

// For returns what to try for an image in order; the last resort is a pull without credentials,
// only when no entry matches, as the kubelet does.
func (k Keyring) For(image string) []*runtimeapi.AuthConfig {
	var auths []*runtimeapi.AuthConfig
	named, err := reference.ParseDockerRef(image)
	if err == nil {
		for _, e := range k.entries {
			if e.matches(reference.Domain(named), reference.Path(named)) {
				auths = append(auths, e.auth)
			}
		}
	}
	if len(auths) == 0 {
		auths = append(auths, nil)
	}
	return auths
}

// fingerprint tells the credentials for an image apart without showing them.
func (k Keyring) fingerprint(image string) string {
	hash := sha256.New()
	for _, a := range k.For(image) {
		fmt.Fprintf(hash, "%q", []string{a.GetUsername(), a.GetPassword(), a.GetIdentityToken(), a.GetRegistryToken()})
	}
	return hex.EncodeToString(hash.Sum(nil)[:8])
}

func (e keyEntry) matches(host, repository string) bool {
	wantHost, wantPath, _ := strings.Cut(e.pattern, "/")
	want, have := strings.Split(wantHost, "."), strings.Split(strings.ToLower(host), ".")
	if len(want) != len(have) {
		return false
	}
	for i := range want {
		if ok, err := path.Match(want[i], have[i]); err != nil || !ok {
			return false
		}
	}
	return wantPath == "" || repository == wantPath || strings.HasPrefix(repository, wantPath+"/")
}
