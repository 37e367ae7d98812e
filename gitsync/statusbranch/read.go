package statusbranch

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/crypto/ssh"
	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/gitsync/trust"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
	"github.com/pleachdev/pleach/gossip"
)

// Known is what the status branch tells of the nodes: the last that was heard of each.
type Known struct {
	Commit    string          // full hex; "" when there is no such branch
	Courier   string          // the node that signed the commit; "" when none of those enrolled did
	Documents []gossip.Sealed // verified, sorted by node
	// Refused says what in the branch was tampered with: documents that do not verify by their node's
	// key, a commit that no node has signed.
	Refused []error
}

// Read reads the status branch of a remote and verifies it. Nothing in it is an instruction: it serves a
// node that starts while none of its peers answers, and people who want to know. It errors with
// [gitstore.ErrUnreachable] when the remote does not answer.
func Read(ctx context.Context, remote gitstore.Remote, branchName string, nodes []*corev1.Node) (Known, error) {
	if branchName == "" {
		branchName = DefaultBranch
	}
	store := gitstore.InMemory()
	tip, err := store.FetchTip(ctx, remote, "refs/heads/"+branchName)
	if errors.Is(err, gitstore.ErrMissingRef) {
		return Known{}, nil
	}
	if err != nil {
		return Known{}, err
	}
	known := Known{Commit: tip}
	c, err := store.Commit(tip)
	if err != nil {
		return known, fmt.Errorf("status branch %s: %w", branchName, err)
	}
	if known.Courier = courierOf(c, nodes); known.Courier == "" {
		known.Refused = append(known.Refused, fmt.Errorf("commit %.12s: is not signed by a node that is enrolled", tip))
	}
	if err := store.CheckTree(tip, branchLimits()); err != nil {
		return known, fmt.Errorf("status branch %s: %w", branchName, err)
	}
	tree, err := store.Tree(tip)
	if err != nil {
		return known, fmt.Errorf("status branch %s: %w", branchName, err)
	}
	documents, refused, err := readDocuments(tree, KeysOf(nodes))
	if err != nil {
		return known, fmt.Errorf("status branch %s: %w", branchName, err)
	}
	known.Refused = append(known.Refused, refused...)
	for _, node := range slices.Sorted(maps.Keys(documents)) {
		known.Documents = append(known.Documents, documents[node])
	}
	return known, nil
}

// KeysOf returns the keys of the enrolled nodes.
func KeysOf(nodes []*corev1.Node) Keys {
	all := map[string][]ed25519.PublicKey{}
	for _, n := range nodes {
		keys, err := trust.ParseNodeKeys(n.Annotations[v1alpha1.NodeKeyAnnotation])
		if err != nil {
			continue // a node without a key signs nothing
		}
		for _, key := range keys {
			if c, ok := key.(ssh.CryptoPublicKey); ok {
				if raw, ok := c.CryptoPublicKey().(ed25519.PublicKey); ok {
					all[n.Name] = append(all[n.Name], raw)
				}
			}
		}
	}
	return func(node string) []ed25519.PublicKey { return all[node] }
}

func courierOf(c *gitstore.Commit, nodes []*corev1.Node) string {
	for _, n := range nodes {
		keys, err := trust.ParseNodeKeys(n.Annotations[v1alpha1.NodeKeyAnnotation])
		if err != nil {
			continue // a node without a key signs nothing
		}
		for _, key := range keys {
			if trust.VerifyKey(c.Payload, c.Signature, key) == nil {
				return n.Name
			}
		}
	}
	return ""
}
