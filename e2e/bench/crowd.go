package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/pleachdev/pleach/agent/api"
	"github.com/pleachdev/pleach/e2e/lab"
	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/gitstore"
	"github.com/pleachdev/pleach/gitsync/trust"
	"github.com/pleachdev/pleach/gitsync/v1alpha1"
	"github.com/pleachdev/pleach/gossip"
	"github.com/pleachdev/pleach/gossip/peer"
	"github.com/pleachdev/pleach/reconcile"
)

const (
	crowdNodes      = 1000
	crowdEach       = 20  // pods of each
	crowdOf         = 50  // replicas of each of their deployments
	crowdPerMessage = 100 // documents
)

// crowd measures what an agent holds of a thousand other nodes: the config repository enrols them, and one
// connection of a peer brings their documents, each signed by its node's key, with twenty pods each that are
// what the accepted deployments want. None of them is a machine: membership has never seen them.
func (b *bench) crowd() error {
	return b.laboratory(1, func(f *flock) error {
		others := newCrowd()
		if err := f.enrolCrowd(others); err != nil {
			return err
		}
		if err := f.begin(); err != nil {
			return err
		}
		rest := time.Duration(f.count(90, 30)) * time.Second
		if err := f.pause(rest); err != nil {
			return err
		}
		before, err := f.agents()
		if err != nil {
			return err
		}
		accepted, err := f.accepted()
		if err != nil {
			return err
		}
		began := time.Now()
		if err := f.tellOf(others, accepted); err != nil {
			return err
		}
		if err := f.await("the agent counts the pods of all", func(ctx context.Context) error {
			objects, err := f.api.List(ctx, api.Kinds[0], api.ListOptions{Namespace: "bench"})
			if err == nil && len(objects) != crowdNodes*crowdEach {
				err = fmt.Errorf("it knows of %d pods", len(objects))
			}
			return err
		}); err != nil {
			return err
		}
		told, err := f.agents()
		if err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "    told of %d nodes in %s\n", crowdNodes, seconds(time.Since(began)))
		if err := f.pause(rest); err != nil {
			return err
		}
		after, err := f.agents()
		if err != nil {
			return err
		}
		share := float64(after[0].CPU-told[0].CPU) / float64(rest) * 100
		f.table.add("crowd", fmt.Sprintf("agent that %d nodes are enrolled with, before their documents, PSS", crowdNodes), megabytes(before[0].PSS))
		f.table.add("crowd", "processor time until it has taken their documents in", millis(told[0].CPU-before[0].CPU))
		f.table.judge("crowd", fmt.Sprintf("agent with the documents of %d nodes of %d pods, PSS (private)", crowdNodes, crowdEach),
			fmt.Sprintf("%s (%s)", megabytes(after[0].PSS), megabytes(after[0].Private)), "≤ 120 MB", after[0].PSS <= 120e6)
		f.table.add("crowd", "the same, of a core when nothing happens", fmt.Sprintf("%.2f %%", share))
		return nil
	})
}

// other is a node that is a key and a document.
type other struct {
	name string
	key  ed25519.PrivateKey
	cidr string // its podCIDR, without the last number and the length
}

func newCrowd() (out []other) {
	for i := range crowdNodes {
		name := fmt.Sprintf("other-%04d", i)
		seed := sha256.Sum256([]byte(name))
		out = append(out, other{name, ed25519.NewKeyFromSeed(seed[:]), fmt.Sprintf("10.%d.%d.", 128+i/256, i%256)})
	}
	return out
}

// public is the node's key as the config repository has it.
func (o other) public() (string, error) {
	key, err := ssh.NewPublicKey(o.key.Public())
	if err != nil {
		return "", err
	}
	return trust.AuthorizedKey(key), nil
}

// enrolCrowd commits the nodes, and deployments that want as many pods as they run.
func (f *flock) enrolCrowd(others []other) error {
	f.repo.Replace("pleach.yaml", "podCIDR: 10.244.0.0/16", "podCIDR: 10.128.0.0/9")
	signers := []string{f.repo.Read("trust/allowed_signers")}
	for _, o := range others {
		key, err := o.public()
		if err != nil {
			return err
		}
		signers = append(signers, fmt.Sprintf("%s%s namespaces=\"git\" %s\n", trust.NodePrincipal, o.name, key))
		f.repo.Write("nodes/"+o.name+".yaml", fmt.Sprintf(`apiVersion: v1
kind: Node
metadata:
  name: %[1]s
  labels: {kubernetes.io/hostname: %[1]s, kubernetes.io/os: linux}
  annotations:
    %[2]s: %[3]s
spec:
  podCIDR: %[4]s0/24
  podCIDRs: [%[4]s0/24]
`, o.name, v1alpha1.NodeKeyAnnotation, key, o.cidr))
	}
	f.repo.Write("trust/allowed_signers", strings.Join(signers, ""))
	for i := range crowdNodes * crowdEach / crowdOf {
		f.write(deployment{fmt.Sprintf("app-%03d", i), crowdOf, "1"})
	}
	f.commit("a crowd")
	f.repo.Push()
	return nil
}

// accepted is what the nodes accept of the newest commit.
func (f *flock) accepted() (*gitsync.Accepted, error) {
	clone, err := gitstore.OpenClone(f.repo.Dir)
	if err != nil {
		return nil, err
	}
	defer clone.Close() // only read from
	foresight, err := gitsync.Foresee(f.ctx, clone.Store, f.introduction, f.repo.Head(), f.repo.Head(), nil)
	if err != nil {
		return nil, err
	}
	return foresight.Before, nil
}

// documents are what the others say of themselves when every slot runs, signed.
func (f *flock) documents(others []other, accepted *gitsync.Accepted) ([]gossip.Sealed, error) {
	now := time.Now().UTC().Truncate(time.Second)
	all := make([]reconcile.Document, len(others))
	for i, o := range others {
		all[i] = reconcile.Document{
			Node: o.name, Boot: 1, Seq: 1, Accepted: accepted.Vector(), Head: accepted.Head, Versions: []int32{1},
			Allocatable: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110"),
			},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "AgentReady", Message: "the runtime and the pod network are ready"}},
			NodeInfo:   corev1.NodeSystemInfo{KernelVersion: "6.1.0", OSImage: "Debian GNU/Linux 12 (bookworm)", OperatingSystem: "linux", Architecture: "amd64"},
		}
		all[i].Capacity = all[i].Allocatable
	}
	slots := 0
	for _, o := range accepted.Objects() {
		if len(o.Templates) == 0 {
			continue
		}
		for ordinal := range int32(crowdOf) {
			d := &all[slots%len(all)]
			slots++
			m := reconcile.Instance{
				Slot: reconcile.Slot{Workload: o.Object.GetUID(), Ordinal: ordinal}, Revision: o.Templates[0].Revision, Epoch: 1, Node: d.Node, Boot: 1,
				Claimed: now, Cause: accepted.Head.ID, Commit: o.Commit, App: o.Source.App, Kind: "Deployment", Namespace: o.Object.GetNamespace(),
				Owner: o.Object.GetName(), Phase: corev1.PodRunning, Ready: true, ReadySince: now,
				PodIP: fmt.Sprintf("%s%d", others[(slots-1)%len(all)].cidr, len(d.Instances)+2),
			}
			m.Name, m.UID = m.PodID()
			d.Instances = append(d.Instances, m)
		}
	}
	var out []gossip.Sealed
	for i, d := range all {
		sealed, err := gossip.Encode(d, others[i].key)
		if err != nil {
			return nil, err
		}
		out = append(out, sealed)
	}
	return out, nil
}

// tellOf hands the documents to the agent, over the connection of one of the others.
func (f *flock) tellOf(others []other, accepted *gitsync.Accepted) error {
	documents, err := f.documents(others, accepted)
	if err != nil {
		return err
	}
	size := 0
	for _, d := range documents {
		size += len(d.Bytes())
	}
	fmt.Fprintf(os.Stderr, "    %d documents of %d bytes in the mean\n", len(documents), size/len(documents))
	door, err := f.door(net.JoinHostPort(f.node.Addr.String(), lab.PeerPort))
	if err != nil {
		return err
	}
	defer door.Close()
	network := peer.New(peer.Config{
		Node: others[0].name, Key: others[0].key,
		Keys: func(node string) []ed25519.PublicKey {
			for _, n := range accepted.Nodes {
				if n.Name == node {
					return trust.Ed25519Keys(n.Annotations[v1alpha1.NodeKeyAnnotation])
				}
			}
			return nil
		},
		Addresses: func(string) []string { return []string{door.Addr().String()} },
	})
	defer network.Close()
	for len(documents) > 0 {
		n := min(crowdPerMessage, len(documents))
		body, err := gossip.Message{Documents: documents[:n]}.Encode()
		if err != nil {
			return err
		}
		documents = documents[n:]
		if err := f.send(network, body); err != nil {
			return err
		}
	}
	return nil
}

func (f *flock) send(network *peer.Network, body []byte) error {
	ctx, cancel := context.WithTimeout(f.ctx, patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+f.node.Name+"/v1/gossip", bytes.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := network.Client(f.node.Name).Do(r)
	if err != nil {
		return err
	}
	said, err := io.ReadAll(answer.Body)
	if err = errors.Join(err, answer.Body.Close()); err == nil && answer.StatusCode/100 != 2 {
		err = fmt.Errorf("the agent answers %s: %s", answer.Status, said)
	}
	return err
}

// door listens on this machine for connections to an address that only the node reaches.
func (f *flock) door(to string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(f.ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			outside, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer outside.Close()
				inside, err := f.node.DialContext(f.ctx, "tcp", to)
				if err != nil {
					return
				}
				defer inside.Close()
				go func() { _, _ = io.Copy(inside, outside) }() // ends with the connections
				_, _ = io.Copy(outside, inside)
			}()
		}
	}()
	return l, nil
}
