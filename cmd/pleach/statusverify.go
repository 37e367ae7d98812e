package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	corev1 "k8s.io/api/core/v1"

	"github.com/pleachdev/pleach/agent"
	"github.com/pleachdev/pleach/agent/api"
	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/gitsync/statusbranch"
	"github.com/pleachdev/pleach/gitsync/trust"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
	"github.com/pleachdev/pleach/gossip"
)

// verifyStatus reads the status branch as it is on its server and says who signed what, by the keys that
// the agent has accepted. Its error says that something was tampered with, or could not be read.
func verifyStatus(ctx context.Context, c *api.Client, credentials string, w io.Writer) error {
	st, err := c.Status(ctx)
	if err != nil {
		return err
	}
	kind, err := api.FindKind("nodes")
	if err != nil {
		return err
	}
	list, err := c.List(ctx, kind, api.ListOptions{})
	if err != nil {
		return err
	}
	names, keys := []string(nil), map[string][]ed25519.PublicKey{}
	for _, o := range list {
		n := o.(*corev1.Node)
		names = append(names, n.Name)
		keys[n.Name] = trust.Ed25519Keys(n.Annotations[v1alpha1.NodeKeyAnnotation])
	}
	remote := gitstore.Remote{URL: st.StatusPush.Remote}
	if remote.URL == "" { // nothing was written yet
		remote.URL = st.Remote.URL
	}
	if remote.Username, remote.Password, err = agent.ReadCredentials("--credentials", credentials); err != nil {
		return err
	}
	known, err := statusbranch.Read(ctx, remote, st.StatusPush.Branch, func(node string) []ed25519.PublicKey { return keys[node] })
	if err != nil {
		return fmt.Errorf("the status branch cannot be verified: %w", err)
	}
	return printVerified(known, names, w)
}

// printVerified says of each enrolled node what the branch holds of it.
func printVerified(known statusbranch.Known, names []string, w io.Writer) error {
	if known.Commit == "" {
		return errors.New("the status branch cannot be verified: there is none yet; nodes write it once they have accepted a commit")
	}
	courier := "no enrolled node has signed it"
	if known.Courier != "" {
		courier = "written and signed by node " + known.Courier
	}
	fmt.Fprintf(w, "commit %.12s: %s\n\n", known.Commit, courier)
	tw := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(tw, "NODE\tDOCUMENT\tSIGNED")
	for _, name := range names {
		i := slices.IndexFunc(known.Documents, func(d gossip.Sealed) bool { return d.Node == name })
		if i < 0 {
			fmt.Fprintf(tw, "%s\tnone that counts\t-\n", name)
			continue
		}
		n := known.Documents[i].Version.Number
		fmt.Fprintf(tw, "%s\t%d of boot %d\tby its key\n", name, n.Seq, n.Boot)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if len(known.Refused) == 0 {
		return nil
	}
	fmt.Fprintln(w, "\nREFUSED")
	for _, why := range known.Refused {
		fmt.Fprintf(w, "  %s\n", printable(why.Error()))
	}
	return errors.New("something in the status branch is not what nodes have signed: somebody else writes to it; no node acts on it, " +
		"and the nodes write it anew. Look at who may push there")
}
