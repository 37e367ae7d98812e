package flock

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pleachdev/pleach/e2e/lab"
	"github.com/pleachdev/pleach/gitsync/trust"
	"github.com/pleachdev/pleach/state"
)

// TestJoinAndLeave: a node joins three by a commit, which moves nothing, and takes new work. It is drained
// by a commit, which moves its pods before it ends them, and removed by another: it is nobody from then on.
func TestJoinAndLeave(t *testing.T) {
	f := newFlock(t, 3)
	f.deployWeb()
	before := f.spread(6)
	rest := slices.Clone(f.machines)

	m := f.newMachine()
	f.add(m)
	id := f.push(rest...)
	// The annotations of the others are all that it has to find them by.
	f.startAgentWith(m, m.Name, "--journal", f.recorder.journal(m.Name))
	f.waitHead(id, m)
	f.alive(f.machines...)
	joined := f.settled(6, f.machines...)
	f.stays(before, joined, rest...)
	if len(joined[m.Name]) > 0 {
		t.Errorf("pods were moved to the new node: %v", joined)
	}

	f.repo.Replace(appDir+"/web.yaml", "replicas: 6", "replicas: 8")
	f.deploy("eight replicas", f.machines...)
	grown := f.settled(8, f.machines...)
	f.stays(joined, grown, rest...)
	if len(grown[m.Name]) != 2 {
		t.Errorf("the new node does not run the two new pods: %v", grown)
	}
	f.reachEachOther(grown)
	for _, other := range rest {
		f.hasWayTo(other, m, true)
	}

	spectator, began := f.watchAll()
	f.commit("node", "drain", m.Name)
	f.push(f.machines...)
	f.wait("the drained node is empty", func(ctx context.Context) error {
		_, err := f.placed(ctx, 8, rest...)
		if err == nil {
			_, err = f.placed(ctx, 0, m)
		}
		return err
	})
	drained := f.settled(8, f.machines...)
	f.stays(grown, drained, rest...)
	f.always(spectator, 8, began, "since the drain began")

	caught := f.nodeKey(m)
	f.must(f.call(rest[0], m.Name, caught))
	f.commit("node", "remove", m.Name)
	f.push(rest...)
	for _, other := range rest {
		f.forgotten(other, m)
	}
	lab.Hold(t, 5*time.Second, "the removed node stays nobody, and nothing moves", func(ctx context.Context) error {
		for _, other := range rest {
			if err := f.call(other, m.Name, caught); err == nil {
				return errors.New(other.Name + " still answers to the removed key")
			}
		}
		return f.unmoved(ctx, drained, rest...)
	})
	f.always(spectator, 8, began, "since the drain began")
	// The checker asks what the flock's nodes say, and this one is none.
	f.machines = rest
	m.pleach(f, "status") // it goes on by itself until somebody resets it
	f.endAgent(m)
	m.pleach(f, "reset", "--yes")
}

// commit changes the config repository by the pleach command, which commits it.
func (f *flock) commit(args ...string) {
	f.t.Helper()
	f.recorder.setQuiet(false)
	args = append(args, "-C", f.repo.Dir, "--signing-key", f.repo.Key.File, "--author-name", "Alice", "--author-email", f.repo.Key.Principal)
	out, err := exec.CommandContext(f.t.Context(), f.program, args...).CombinedOutput()
	if err != nil {
		f.t.Fatalf("pleach %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// push pushes what was committed, and waits until these nodes have accepted it.
func (f *flock) push(nodes ...*machine) string {
	f.t.Helper()
	f.repo.Push()
	id := f.repo.Head()
	f.waitHead(id, nodes...)
	return id
}

// alive waits until each of these nodes hears all the others.
func (f *flock) alive(nodes ...*machine) {
	f.t.Helper()
	for _, m := range nodes {
		f.wait(m.Name+" hears the others", func(ctx context.Context) error {
			st, err := m.api.Status(ctx)
			if err != nil {
				return err
			}
			if len(st.Nodes) != len(nodes) {
				return fmt.Errorf("it knows %d nodes, want %d", len(st.Nodes), len(nodes))
			}
			for _, n := range st.Nodes {
				if n.Name != m.Name && n.Standing != state.Alive || !n.Ready {
					return fmt.Errorf("%s is %q, ready %v: %s", n.Name, n.Standing, n.Ready, n.Reason)
				}
			}
			return nil
		})
	}
}

// forgotten waits until nothing on a node leads to one that was removed: it is not listed, not a member,
// has no route and no place among the senders of the tunnel.
func (f *flock) forgotten(m, removed *machine) {
	f.t.Helper()
	f.wait(m.Name+" has forgotten "+removed.Name, func(ctx context.Context) error {
		st, err := m.api.Status(ctx)
		if err != nil {
			return err
		}
		for _, n := range st.Nodes {
			if n.Name == removed.Name {
				return errors.New("it lists the node: " + n.Reason)
			}
		}
		return f.counts(ctx, m, "pleach_flock_members", len(st.Nodes))
	})
	f.hasWayTo(m, removed, false)
}

// counts holds a metric of a node against a number.
func (f *flock) counts(ctx context.Context, m *machine, metric string, want int) error {
	client := http.Client{Transport: &http.Transport{DialContext: m.DialContext, DisableKeepAlives: true}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.Addr.String()+":"+hintPort+"/metrics", nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && !strings.Contains("\n"+string(body), fmt.Sprintf("\n%s %d\n", metric, want)) {
		at := strings.Index(string(body), "\n"+metric+" ") + 1
		err = fmt.Errorf("%.60q, want %d", string(body)[at:], want)
	}
	return err
}

// hasWayTo waits until a node's kernel has, or has not, anything that names another node's address.
func (f *flock) hasWayTo(m, to *machine, want bool) {
	f.t.Helper()
	f.wait(fmt.Sprintf("%s has a way to %s: %v", m.Name, to.Name, want), func(ctx context.Context) error {
		routes, err := m.Exec(ctx, "ip", "route")
		if err != nil {
			return err
		}
		tables, err := m.Exec(ctx, "nft", "list", "ruleset")
		if err != nil {
			return err
		}
		forwarding, err := m.Exec(ctx, "bridge", "fdb")
		if err != nil {
			return err
		}
		var found []string
		for line := range strings.Lines(string(routes) + string(tables) + string(forwarding)) {
			if slices.Contains(strings.FieldsFunc(line, func(r rune) bool { return !strings.ContainsRune("0123456789.", r) }), to.Addr.String()) {
				found = append(found, strings.TrimSpace(line))
			}
		}
		if (len(found) > 0) != want {
			return fmt.Errorf("found %q", found)
		}
		return nil
	})
}

// add commits a node with the keys that its machine shows.
func (f *flock) add(m *machine) {
	f.t.Helper()
	f.commit("node", "add", m.Name, "--key", m.pleach(f, "node", "key"), "--token-key", m.pleach(f, "node", "key", "--token"),
		"--arch", runtime.GOARCH, "--address", m.Addr.String())
}

// nodeKey reads the private key of a node, as a thief would.
func (f *flock) nodeKey(m *machine) ed25519.PrivateKey {
	f.t.Helper()
	key, err := trust.LoadKey(filepath.Join(m.dir(), "keys", "node.key"))
	f.must(err)
	return key.Ed25519()
}
