package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pleachdev/pleach/agent/access"
	"github.com/pleachdev/pleach/agent/api"
	"github.com/pleachdev/pleach/agent/containerd"
	"github.com/pleachdev/pleach/agent/follow"
	"github.com/pleachdev/pleach/agent/machine"
	"github.com/pleachdev/pleach/agent/pods"
	"github.com/pleachdev/pleach/agent/wake"
	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/gitsync/trust"
	"github.com/pleachdev/pleach/reconcile"
	"github.com/pleachdev/pleach/state"
)

// Run runs the node until ctx ends. Pods, containerd and the pod network stay as they are then: the
// next agent finds them and goes on.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.complete(); err != nil {
		return err
	}
	n, err := open(ctx, cfg)
	if err != nil {
		return err
	}
	return errors.Join(n.run(ctx), n.close())
}

// node is one running agent.
type node struct {
	Config
	reach
	lock    io.Closer
	boot    int64
	machine *machine.Machine
	signer  *trust.SigningKey
	store   *state.Store
	remote  gitstore.Remote
	// statusUser and statusPassword are for a status branch in another repository.
	statusUser, statusPassword string
	syncer                     *gitsync.Syncer
	runtime                    *containerd.Supervisor
	metrics                    *api.Metrics
	gather                     prometheus.Gatherer
	hints                      chan struct{} // buffered by one
	ready                      readiness
	flock                      *flock
	following                  *follow.Follower
}

// open reads what is on disk. It starts nothing.
func open(ctx context.Context, cfg Config) (*node, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := lock(cfg.Dir)
	if err != nil {
		return nil, err
	}
	n := &node{Config: cfg, lock: lock, store: state.New(), hints: make(chan struct{}, 1)}
	if err := n.read(ctx); err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

func (n *node) read(ctx context.Context) (err error) {
	if n.boot, err = nextBoot(n.Dir, time.Now()); err != nil {
		return err
	}
	if n.machine, err = machine.Read(n.Dir, n.CgroupRoot); err != nil {
		return err
	}
	if n.reach, err = reachOf(n.Config, n.machine.Addresses); err != nil {
		return err
	}
	if n.signer, err = trust.LoadOrCreateKey(filepath.Join(n.Dir, "keys", "node.key"), n.Node); err != nil {
		return err
	}
	n.remote.URL = n.Remote
	if n.remote.Username, n.remote.Password, err = ReadCredentials("--remote-credentials", n.RemoteCredentials); err != nil {
		return err
	}
	if n.statusUser, n.statusPassword, err = ReadCredentials("--status-credentials", n.StatusCredentials); err != nil {
		return err
	}
	n.syncer, err = gitsync.Open(ctx, gitsync.Config{
		Dir: n.Dir, Remote: n.remote, Branch: n.Branch, Introduction: n.Introduction,
	})
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	n.gather = registry
	if n.metrics, err = api.NewMetrics(registry, n.store, n.Version); err != nil {
		return err
	}
	n.runtime = &containerd.Supervisor{Dir: n.Dir, External: n.Containerd, Log: n.Log.With("part", "containerd")}
	n.ready.runtime = n.runtime.Err
	n.ready.await("the agent is starting")
	n.flock = newFlock(n)
	n.following = newFollower(n)
	return n.flock.measure(registry)
}

// close gives up what open took, in the reverse order.
func (n *node) close() error {
	var errs []error
	if n.syncer != nil {
		errs = append(errs, n.syncer.Close())
	}
	return errors.Join(append(errs, n.lock.Close())...)
}

// ReadCredentials reads a file of two lines; "" is for none. flag is for messages.
func ReadCredentials(flag, file string) (user, password string, err error) {
	if file == "" {
		return "", "", nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", "", fmt.Errorf("%s: %w", flag, err)
	}
	user, password, ok := strings.Cut(strings.TrimSpace(string(data)), "\n")
	if !ok {
		return "", "", fmt.Errorf("%s %s: want two lines, the user's name and the password or token", flag, file)
	}
	return strings.TrimSpace(user), strings.TrimSpace(password), nil
}

// run works until ctx ends or a part breaks that cannot go on by itself.
func (n *node) run(ctx context.Context) error {
	local, err := api.Listen(filepath.Join(n.Dir, api.SocketName))
	if err != nil {
		return err
	}
	var public net.Listener
	if n.Listen != "" {
		if public, err = new(net.ListenConfig).Listen(ctx, "tcp", n.Listen); err != nil {
			return errors.Join(fmt.Errorf("--listen: %w", err), local.Close())
		}
	}
	secret, err := n.hintSecret()
	if err != nil {
		return err
	}
	// What was accepted before is in force before the remote is asked.
	if accepted := n.syncer.Accepted(); accepted != nil {
		n.store.SetAccepted(accepted)
	}

	group, ctx := errgroup.WithContext(ctx)
	streams := &streams{}
	server := &api.Server{
		Node: n.Node, Version: n.Version, Store: n.store, Logs: streams.logs, Exec: streams.exec,
		Peer: n.flock.peers.Client, Judge: access.NewJudge(time.Now), Log: n.Log.With("part", "api"),
	}
	n.flock.mux.Handle("/v1/pods/", server.PeerHandler())
	group.Go(func() error {
		return server.Run(ctx, local, public, api.Public{
			Metrics: n.gather, Ready: n.ready.err, Hint: func() { wake.Poke(n.hints) }, HintSecret: secret,
		}.Handler())
	})
	group.Go(func() error { return n.runtime.Run(ctx) })
	group.Go(func() error { return n.following.Run(ctx) })
	group.Go(func() error { return n.flock.run(ctx) })
	group.Go(func() error { return n.runPods(ctx, streams) })
	group.Go(func() error { return n.trim(ctx) })
	n.Log.Info("agent started", "node", n.Node, "boot", n.boot, "version", n.Version, "remote", n.remote.String(), "branch", n.Branch)
	return group.Wait()
}

func (n *node) hintSecret() ([]byte, error) {
	if n.HintSecretFile == "" {
		return nil, nil
	}
	data, err := os.ReadFile(n.HintSecretFile)
	if err != nil {
		return nil, fmt.Errorf("--hint-secret-file: %w", err)
	}
	data = bytes.TrimSpace(data)
	if len(data) == 0 {
		return nil, fmt.Errorf("--hint-secret-file %s is empty", n.HintSecretFile)
	}
	return data, nil
}

// runPods runs what needs the runtime: it waits for containerd, and for the commit that enrols this
// node, which tells its range of pod addresses.
func (n *node) runPods(ctx context.Context, streams *streams) error {
	if err := n.runtime.Ready(ctx); err != nil {
		return quietly(ctx, err)
	}
	self, err := n.enrolled(ctx)
	if err != nil {
		return quietly(ctx, err)
	}
	network := &network{node: n}
	if err := network.apply(ctx, self); err != nil {
		return quietly(ctx, err)
	}
	client, err := dial(ctx, n.runtime.Endpoint())
	if err != nil {
		return quietly(ctx, err)
	}
	if err := network.release(ctx, client.runtime); err != nil {
		return quietly(ctx, err)
	}
	manager := pods.New(pods.Config{
		Dir: n.Dir, LogDir: n.PodLogDir, Runtime: client.runtime, Images: client.images,
		Lookup: lookup{store: n.store, node: n.Node}, NodeName: n.Node, NodeIPs: n.addresses(),
		Capacity: n.machine.Capacity, CgroupRoot: n.CgroupRoot,
		Recorder: n.record, Log: n.Log.With("part", "pods"),
	})
	streams.set(manager, client.runtime)
	writer := &statusWriter{node: n}
	memory, err := openDecisions(n.Dir)
	if err != nil {
		n.Log.Warn("timers and back-offs start again", "err", err)
	}
	journal, err := openJournal(n.Journal)
	if err != nil {
		return err
	}
	if journal != nil {
		defer func() { _ = journal.Close() }() // every line was written at once
	}
	decider := &decider{
		journal: journal,
		node:    n.Node, flock: n.flock, self: n.document, pods: manager, store: n.store, publish: writer.set,
		memory: memory, key: n.signer.Ed25519(), metrics: n.metrics, log: n.Log.With("part", "decide"), starting: map[types.UID]time.Time{}, asking: map[reconcile.Ask]bool{},
	}
	n.ready.await("")
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return manager.Run(ctx) })
	group.Go(func() error { return writer.run(ctx) })
	group.Go(func() error { return network.run(ctx) })
	group.Go(func() error { return decider.run(ctx) })
	return group.Wait()
}

// enrolled waits until the accepted state has this node.
func (n *node) enrolled(ctx context.Context) (*corev1.Node, error) {
	told := false
	for {
		snapshot := n.store.Snapshot()
		if a := snapshot.Accepted(); a != nil {
			if self := enrolledNode(a, n.Node); self != nil {
				return self, nil
			}
			if !told {
				told = true
				n.ready.await("this node is not enrolled: no nodes/" + n.Node + ".yaml was accepted")
				n.Log.Warn("the config repository does not enrol this node; it runs nothing until a commit adds it",
					"node", n.Node, "toDo", "pleach node add "+n.Node+" --key '"+n.signer.AuthorizedKey()+"'")
			}
		}
		if err := snapshot.Wait(ctx, state.Accepted); err != nil {
			return nil, err
		}
	}
}

// addresses are this node's, the one that others reach it at first.
func (n *node) addresses() []netip.Addr {
	out := slices.Clone(n.machine.Addresses)
	if at := n.advertise.Addr(); at.IsValid() {
		out = slices.Insert(slices.DeleteFunc(out, func(a netip.Addr) bool { return a == at }), 0, at)
	}
	return out
}

// record keeps an event of a pod.
func (n *node) record(pod *corev1.Pod, eventType, reason, message string) {
	n.store.Record(state.Happening{
		Object: corev1.ObjectReference{
			APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID,
		},
		Type: eventType, Reason: reason, Message: message, Host: n.Node, At: time.Now(),
	})
}

// quietly returns nil where the agent was asked to end.
func quietly(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return nil
}
