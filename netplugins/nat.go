package netplugins

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The node's table, as `nft list ruleset` prints it:
//
//	table ip pleach0 {
//		chain postrouting {
//			type nat hook postrouting priority srcnat; policy accept;
//			ip saddr 10.1.0.0/24 ip daddr != 10.1.0.0/16 masquerade
//		}
//	}
//
// Traffic within the cluster keeps its source, which is what network policies and logs go by.

const postrouting = "postrouting"

// applyNAT writes the whole table in one transaction, if it differs: packets meet the old rules or
// the new ones.
func applyNAT(d Desired) error {
	want := masquerade(d)
	have, err := natRules(d.Bridge)
	if err != nil {
		return fmt.Errorf("nftables table %s: %w", d.Bridge, err)
	}
	if sameRules(have, [][]expr.Any{want}) {
		return nil
	}
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: d.Bridge}
	c.AddTable(table) // so that there is one to delete
	c.DelTable(table)
	c.AddTable(table)
	chain := c.AddChain(&nftables.Chain{
		Name: postrouting, Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
		Policy: new(nftables.ChainPolicyAccept),
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: want})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables table %s: %w", d.Bridge, err)
	}
	return nil
}

func removeNAT(name string) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: name}
	c.AddTable(table)
	c.DelTable(table)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables table %s: %w", name, err)
	}
	return nil
}

// natRules returns the rules of the postrouting chain; nil when the table is not of our shape.
func natRules(name string) ([]*nftables.Rule, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	all, err := c.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return nil, err
	}
	var chains []*nftables.Chain
	for _, chain := range all {
		if chain.Table.Name == name {
			chains = append(chains, chain)
		}
	}
	if len(chains) != 1 || chains[0].Name != postrouting || chains[0].Type != nftables.ChainTypeNAT ||
		chains[0].Hooknum == nil || *chains[0].Hooknum != *nftables.ChainHookPostrouting ||
		chains[0].Policy == nil || *chains[0].Policy != nftables.ChainPolicyAccept {
		return nil, nil
	}
	rules, err := c.GetRules(chains[0].Table, chains[0])
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // deleted since
	}
	return rules, err
}

// sameRules compares by what goes over the wire.
func sameRules(have []*nftables.Rule, want [][]expr.Any) bool {
	if len(have) != len(want) {
		return false
	}
	for i := range want {
		if len(have[i].Exprs) != len(want[i]) {
			return false
		}
		for j := range want[i] {
			h, err1 := expr.Marshal(unix.NFPROTO_IPV4, have[i].Exprs[j])
			w, err2 := expr.Marshal(unix.NFPROTO_IPV4, want[i][j])
			if err1 != nil || err2 != nil || !bytes.Equal(h, w) {
				return false
			}
		}
	}
	return true
}

// masquerade is the rule: from this node's pods, to beyond the cluster's.
func masquerade(d Desired) []expr.Any {
	const saddr, daddr = 12, 16 // offsets in the IPv4 header
	rule := within(saddr, d.PodCIDR, expr.CmpOpEq)
	rule = append(rule, within(daddr, d.ClusterCIDR, expr.CmpOpNeq)...)
	return append(rule, &expr.Masq{})
}

// within compares the address at offset of the IPv4 header with a prefix.
func within(offset uint32, p netip.Prefix, op expr.CmpOp) []expr.Any {
	network := p.Masked().Addr().AsSlice()
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: net.CIDRMask(p.Bits(), 32), Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: 1, Data: network},
	}
}
