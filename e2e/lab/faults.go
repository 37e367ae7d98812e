package lab

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// faults is everything that is wrong with the underlay.
type faults struct {
	cut      map[[2]string]bool // from, to; names of nodes, "" for the servers
	isolated map[string]bool
	loss     map[string]uint32 // percent of what the node sends
	delay    map[string]time.Duration
}

// Cut drops what node from sends to node to; the other direction is not touched. A nil node stands
// for the servers. Neither side sees its cable unplugged, and nobody gets an error.
func (u *Underlay) Cut(from, to *Node) error {
	return u.change(func(f *faults) { f.cut[[2]string{nameOf(from), nameOf(to)}] = true })
}

// Isolate drops everything from and to a node.
func (u *Underlay) Isolate(n *Node) error {
	return u.change(func(f *faults) { f.isolated[n.Name] = true })
}

// Lose drops this share of the frames that a node sends, at random.
func (u *Underlay) Lose(n *Node, percent int) error {
	if percent < 0 || percent > 100 {
		return fmt.Errorf("lose %d %% of what %s sends: want 0 to 100", percent, n.Name)
	}
	return u.change(func(f *faults) { f.loss[n.Name] = uint32(percent) })
}

// Heal mends everything.
func (u *Underlay) Heal() error {
	return u.change(func(f *faults) { *f = faults{} })
}

func nameOf(n *Node) string {
	if n == nil {
		return ""
	}
	return n.Name
}

// change applies a change of the faults, in one transaction.
func (u *Underlay) change(edit func(*faults)) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	next := faults{cut: maps.Clone(u.faults.cut), isolated: maps.Clone(u.faults.isolated), loss: maps.Clone(u.faults.loss), delay: maps.Clone(u.faults.delay)}
	if next.cut == nil {
		next = faults{cut: map[[2]string]bool{}, isolated: map[string]bool{}, loss: map[string]uint32{}, delay: map[string]time.Duration{}}
	}
	edit(&next)
	if err := u.apply(next); err != nil {
		return fmt.Errorf("change the faults of the underlay: %w", err)
	}
	for node, w := range u.wires {
		w.delay.Store(int64(next.delay[node]))
	}
	u.faults = next
	return nil
}

// apply replaces the bridge's table. What nodes send each other passes the forward hook; what is
// for the servers and from them, input and output; prerouting and postrouting see both.
func (u *Underlay) apply(f faults) error {
	conn, err := nftables.New(nftables.WithNetNSFd(u.ns.fd()))
	if err != nil {
		return err
	}
	table := &nftables.Table{Name: "fault", Family: nftables.TableFamilyBridge}
	conn.AddTable(table) // so that there is one to delete
	conn.DelTable(table)
	conn.AddTable(table)
	chains := make(map[*nftables.ChainHook]*nftables.Chain)
	drop := func(hook *nftables.ChainHook, match ...expr.Any) {
		if chains[hook] == nil {
			chains[hook] = conn.AddChain(&nftables.Chain{
				Name: fmt.Sprintf("hook%d", *hook), Table: table, Type: nftables.ChainTypeFilter,
				Hooknum: hook, Priority: nftables.ChainPriorityFilter,
			})
		}
		conn.AddRule(&nftables.Rule{Table: table, Chain: chains[hook], Exprs: append(match, &expr.Verdict{Kind: expr.VerdictDrop})})
	}
	for _, pair := range slices.SortedFunc(maps.Keys(f.cut), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) }) {
		switch from, to := pair[0], pair[1]; {
		case to == "":
			drop(nftables.ChainHookInput, link(expr.MetaKeyIIFNAME, from)...)
		case from == "":
			drop(nftables.ChainHookOutput, link(expr.MetaKeyOIFNAME, to)...)
		default:
			drop(nftables.ChainHookForward, append(link(expr.MetaKeyIIFNAME, from), link(expr.MetaKeyOIFNAME, to)...)...)
		}
	}
	for _, node := range slices.Sorted(maps.Keys(f.isolated)) {
		drop(nftables.ChainHookPrerouting, link(expr.MetaKeyIIFNAME, node)...)
		drop(nftables.ChainHookPostrouting, link(expr.MetaKeyOIFNAME, node)...)
	}
	for _, node := range slices.Sorted(maps.Keys(f.loss)) {
		if f.loss[node] == 0 {
			continue
		}
		drop(nftables.ChainHookPrerouting, append(link(expr.MetaKeyIIFNAME, node),
			&expr.Numgen{Register: 1, Modulus: 100, Type: unix.NFT_NG_RANDOM},
			&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
			&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: binary.BigEndian.AppendUint32(nil, f.loss[node])})...)
	}
	return conn.Flush()
}

// link matches the cable of a node.
func link(key expr.MetaKey, node string) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, cableOf(node))
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name}}
}
