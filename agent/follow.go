package agent

import (
	"net/http"

	"github.com/pleachdev/pleach/agent/follow"
	"github.com/pleachdev/pleach/gitsync/gitstore"
)

// gitPath is where a node hands out what it has verified, for any git.
const gitPath = "/git"

// newFollower makes the node's follower of the config repository, and offers to the peers what it takes
// in.
func newFollower(n *node) *follow.Follower {
	log := n.Log.With("part", "git")
	n.flock.mux.Handle(gitPath+"/", http.StripPrefix(gitPath, n.syncer.Server(log)))
	return follow.New(follow.Config{
		Node: n.Node, Syncer: n.syncer, Store: n.store, Interval: n.PollInterval, Hints: n.hints,
		Peer: func(node string) gitstore.Remote {
			return gitstore.Remote{URL: "https://" + node + gitPath, Client: n.flock.peers.Client(node)}
		},
		Metrics: n.metrics, Log: log,
	})
}
