package statusbranch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/crypto/ssh"

	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/gitsync/trust"
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
func Read(ctx context.Context, remote gitstore.Remote, branchName string, keys Keys) (Known, error) {
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
	if known.Courier = courierOf(c, keys); known.Courier == "" {
		known.Refused = append(known.Refused, fmt.Errorf("commit %.12s: is not signed by a node that is enrolled", tip))
	}
	if err := store.CheckTree(tip, branchLimits()); err != nil {
		return known, fmt.Errorf("status branch %s: %w", branchName, err)
	}
	tree, err := store.Tree(tip)
	if err != nil {
		return known, fmt.Errorf("status branch %s: %w", branchName, err)
	}
	documents, refused, err := readDocuments(tree, keys)
	if err != nil {
		return known, fmt.Errorf("status branch %s: %w", branchName, err)
	}
	known.Refused = append(known.Refused, refused...)
	for _, node := range slices.Sorted(maps.Keys(documents)) {
		known.Documents = append(known.Documents, documents[node])
	}
	return known, nil
}

// courierOf returns the node that signed a commit and says so in it, "" when that is not so.
func courierOf(c *gitstore.Commit, keys Keys) string {
	for _, raw := range keys(c.Author.Name) {
		key, err := ssh.NewPublicKey(raw)
		if err == nil && trust.VerifyKey(c.Payload, c.Signature, key) == nil {
			return c.Author.Name
		}
	}
	return ""
}
