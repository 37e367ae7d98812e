package repository

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/pleachdev/pleach/gitsync/manifest"
	"github.com/pleachdev/pleach/gitsync/trust"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
)

const (
	// A node's share of the cluster's podCIDR, as kube-controller-manager's default for IPv4 and
	// IPv6.
	nodeBits4 = 24
	nodeBits6 = 64
)

// NodeOptions describe a node to add.
type NodeOptions struct {
	Name string // a DNS subdomain, as everywhere in Kubernetes
	// AgentDir is the directory of the node's agent, when the node is this machine: its keys are
	// read from there, or created.
	AgentDir string
	// NodeKey ("ssh-ed25519 AAAA…") and TokenKey (base64 of a PKIX P-256 key) are the node's public
	// keys, when its private ones are elsewhere.
	NodeKey, TokenKey string
	OS, Arch          string            // GOOS and GOARCH of the node; "" when not known
	Labels            map[string]string // beside those that Kubernetes sets
	Address           string            // host[:port] where others can join; optional
}

// Paths of the node's private keys below the agent's directory.
const (
	NodeKeyFile  = "keys/node.key"
	TokenKeyFile = "keys/token.key"
)

// AddNode writes nodes/<name>.yaml into the config repository in dir, with the next free part of
// the cluster's podCIDR, gives the node's key a line in trust/allowed_signers, and commits both.
// Other changes in the working tree are left alone. The id is "" when nothing was committed.
func AddNode(dir string, node NodeOptions, c Change) (commitID string, err error) {
	return c.make(dir, "nodes: add "+node.Name, []string{manifest.SignersFile}, func() ([]string, error) {
		file, err := addNode(dir, node)
		return []string{file, manifest.SignersFile}, err
	})
}

// nodeObject is the part of a v1 Node that a person writes.
type nodeObject struct {
	APIVersion string       `json:"apiVersion"`
	Kind       string       `json:"kind"`
	Metadata   nodeMetadata `json:"metadata"`
	Spec       nodeSpec     `json:"spec"`
}

type nodeMetadata struct {
	Name        string            `json:"name"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

type nodeSpec struct {
	PodCIDR  string   `json:"podCIDR"`
	PodCIDRs []string `json:"podCIDRs"`
}

// addNode writes the node's file and returns its path from the repository's root.
func addNode(dir string, o NodeOptions) (string, error) {
	if errs := validation.IsDNS1123Subdomain(o.Name); len(errs) > 0 {
		return "", fmt.Errorf("node name %q: %s", o.Name, strings.Join(errs, "; "))
	}
	cluster, bad := manifest.LoadCluster(os.DirFS(dir))
	if len(bad) > 0 {
		return "", problems(bad)
	}
	for _, n := range cluster.Nodes {
		if n.Name == o.Name {
			return "", fmt.Errorf("node %s: is in the cluster already", o.Name)
		}
	}
	podCIDR, err := nextPodCIDR(cluster.Spec.Spec.PodCIDR, cluster.Nodes)
	if err != nil {
		return "", err
	}
	nodeKey, tokenKey, err := o.publicKeys()
	if err != nil {
		return "", err
	}
	labels := map[string]string{corev1.LabelHostname: o.Name}
	if o.OS != "" {
		labels[corev1.LabelOSStable] = o.OS
	}
	if o.Arch != "" {
		labels[corev1.LabelArchStable] = o.Arch
	}
	maps.Copy(labels, o.Labels)
	annotations := map[string]string{v1alpha1.NodeKeyAnnotation: nodeKey, v1alpha1.TokenKeyAnnotation: tokenKey}
	if o.Address != "" {
		annotations[v1alpha1.AddressAnnotation] = o.Address
	}
	data, err := yaml.Marshal(nodeObject{
		APIVersion: "v1", Kind: "Node",
		Metadata: nodeMetadata{Name: o.Name, Labels: labels, Annotations: annotations},
		Spec:     nodeSpec{PodCIDR: podCIDR.String(), PodCIDRs: []string{podCIDR.String()}},
	})
	if err != nil {
		return "", err
	}
	file := manifest.NodesDir + "/" + o.Name + ".yaml"
	path := filepath.Join(dir, filepath.FromSlash(file))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		if errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("%s: exists already", file)
		}
		return "", err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		// What Kubernetes says of names, labels and annotations is said by the loader.
		if _, bad := manifest.LoadCluster(os.DirFS(dir)); len(bad) > 0 {
			err = problems(bad)
		}
	}
	if err != nil {
		return "", errors.Join(err, os.Remove(path))
	}
	if err := addSigners(dir, o.Name, nodeKey); err != nil {
		return "", errors.Join(err, os.Remove(path))
	}
	return file, nil
}

// publicKeys reads or creates the node's keys and returns their public halves.
func (o *NodeOptions) publicKeys() (nodeKey, tokenKey string, err error) {
	nodeKey, tokenKey = o.NodeKey, o.TokenKey
	if o.AgentDir == "" && (nodeKey == "" || tokenKey == "") {
		return "", "", fmt.Errorf("node %s: give the agent's directory, or the node's two public keys", o.Name)
	}
	if nodeKey == "" {
		key, err := trust.LoadOrCreateKey(filepath.Join(o.AgentDir, NodeKeyFile), o.Name)
		if err != nil {
			return "", "", err
		}
		nodeKey = key.AuthorizedKey()
	}
	if tokenKey == "" {
		key, err := trust.LoadOrCreateTokenKey(filepath.Join(o.AgentDir, TokenKeyFile))
		if err != nil {
			return "", "", err
		}
		if tokenKey, err = trust.EncodeTokenKey(&key.PublicKey); err != nil {
			return "", "", err
		}
	}
	keys, err := trust.ParseNodeKeys(nodeKey)
	if err != nil {
		return "", "", err
	}
	parts := make([]string, len(keys))
	for i, k := range keys {
		parts[i] = trust.AuthorizedKey(k) // without the comment
	}
	if _, err := trust.ParseTokenKey(tokenKey); err != nil {
		return "", "", err
	}
	return strings.Join(parts, ","), tokenKey, nil
}

// nextPodCIDR is the lowest part of the cluster's podCIDR that no node has.
func nextPodCIDR(cluster string, nodes []*corev1.Node) (netip.Prefix, error) {
	all, err := netip.ParsePrefix(cluster)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%s: spec.podCIDR: %w", v1alpha1.ClusterFile, err)
	}
	bits := nodeBits4
	if all.Addr().Is6() {
		bits = nodeBits6
	}
	if all.Bits() > bits {
		return netip.Prefix{}, fmt.Errorf("%s: spec.podCIDR: %s is smaller than one node's /%d", v1alpha1.ClusterFile, all, bits)
	}
	var taken []netip.Prefix
	for _, n := range nodes {
		for _, text := range n.Spec.PodCIDRs {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				return netip.Prefix{}, fmt.Errorf("node %s: spec.podCIDRs: %w", n.Name, err)
			}
			taken = append(taken, p)
		}
	}
	// Each taken range blocks at most one candidate more than it spans, so that this ends soon also
	// in an IPv6 range.
	for at := all.Masked().Addr(); at.IsValid() && all.Contains(at); {
		candidate := netip.PrefixFrom(at, bits)
		blocked := false
		for _, p := range taken {
			if p.Overlaps(candidate) {
				blocked = true
				if p.Bits() < bits {
					candidate = p // skip all of the larger range
				}
				break
			}
		}
		if !blocked {
			return candidate, nil
		}
		at = lastAddr(candidate).Next()
	}
	return netip.Prefix{}, fmt.Errorf("%s: spec.podCIDR: %s has no free /%d left for another node", v1alpha1.ClusterFile, all, bits)
}

func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b) // the length is an address's
	return a
}
