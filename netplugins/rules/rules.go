// Package rules writes a node's two nftables tables, which have the bridge's name: "ip" translates
// addresses and drops what comes with a foreign source, "bridge" holds pods to their own address.
//
// [Apply] writes the rules and everything in their sets; [SetPods] changes what follows from the pods
// alone, as the CNI plugin does between two Applys. Both write differences, a table in one transaction.
package rules

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/pleachdev/pleach/netplugins/ipam"
)

// Node is what a node's tables are made from.
type Node struct {
	Bridge               string
	PodCIDR, ClusterCIDR netip.Prefix
	VXLANPort            uint16 // UDP; 0 where there is no VXLAN
	Senders              []Sender
	Pods                 []Pod
}

// Sender is a node that sends encapsulated packets from Address, and from nobody outside of PodCIDRs.
type Sender struct {
	Address  netip.Addr
	PodCIDRs []netip.Prefix
}

// Pod is one pod on the bridge. Where two have the same port of the node, the later one has it.
type Pod struct {
	Link         string // the node's end
	HardwareAddr []byte // of the pod's end
	Address      netip.Addr
	Ports        []ipam.Port
}

type chain struct {
	nftables.Chain
	rules [][]expr.Any
}

type set struct {
	nftables.Set
	elements []nftables.SetElement
}

type table struct {
	family nftables.TableFamily
	name   string
	chains []chain
	sets   []set
}

// Apply makes the tables be those of n. When nothing differs, nothing is written.
func Apply(n Node) error {
	for _, t := range tables(n) {
		if err := t.apply(); err != nil {
			return fmt.Errorf("nftables table %s: %w", t.name, err)
		}
	}
	return nil
}

// SetPods makes the sets of an applied node be those of the pods. The error is [fs.ErrNotExist] when
// nothing was applied.
func SetPods(bridge string, pods []Pod) error {
	for _, t := range []table{
		{family: nftables.TableFamilyIPv4, name: bridge, sets: podSets(pods)},
		{family: nftables.TableFamilyBridge, name: bridge, sets: ownSets(pods)},
	} {
		if err := t.fill(); err != nil {
			return fmt.Errorf("nftables table %s: %w: the agent makes and repairs it", bridge, err)
		}
	}
	return nil
}

// Remove removes the tables.
func Remove(bridge string) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyBridge} {
		t := &nftables.Table{Family: family, Name: bridge}
		c.AddTable(t) // so that there is one to delete
		c.DelTable(t)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables table %s: %w", bridge, err)
	}
	return nil
}

func (t table) apply() error {
	same, err := t.hasShape()
	if err != nil {
		return err
	}
	if same {
		return t.fill()
	}
	c, err := nftables.New()
	if err != nil {
		return err
	}
	kernel := &nftables.Table{Family: t.family, Name: t.name}
	c.AddTable(kernel)
	c.DelTable(kernel)
	c.AddTable(kernel)
	for i := range t.sets {
		s := &t.sets[i]
		s.Table = kernel
		if err := c.AddSet(&s.Set, s.elements); err != nil {
			return err
		}
	}
	for i := range t.chains {
		ch := &t.chains[i].Chain
		ch.Table = kernel
		c.AddChain(ch)
		for _, r := range t.chains[i].rules {
			c.AddRule(&nftables.Rule{Table: kernel, Chain: ch, Exprs: r})
		}
	}
	return c.Flush()
}

// hasShape says whether the kernel's table has exactly the wanted chains, rules and number of sets.
func (t table) hasShape() (bool, error) {
	c, err := nftables.New()
	if err != nil {
		return false, err
	}
	all, err := c.ListChainsOfTableFamily(t.family)
	if err != nil {
		return false, err
	}
	have := map[string]*nftables.Chain{}
	for _, ch := range all {
		if ch.Table.Name == t.name {
			have[ch.Name] = ch
		}
	}
	if len(have) != len(t.chains) {
		return false, nil
	}
	for i := range t.chains {
		want, got := &t.chains[i], have[t.chains[i].Name]
		if got == nil || got.Type != want.Type || got.Hooknum == nil || *got.Hooknum != *want.Hooknum ||
			got.Priority == nil || *got.Priority != *want.Priority || got.Policy == nil || *got.Policy != *want.Policy {
			return false, nil
		}
		rules, err := c.GetRules(got.Table, got)
		if err != nil {
			return false, nil //nolint:nilerr // deleted since: it is written anew
		}
		if !sameRules(rules, want.rules, byte(t.family)) {
			return false, nil
		}
	}
	sets, err := c.GetSets(&nftables.Table{Family: t.family, Name: t.name})
	return err == nil && len(sets) == len(t.sets), nil
}

// fill makes the elements of the sets be the wanted ones.
func (t table) fill() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	kernel := &nftables.Table{Family: t.family, Name: t.name}
	for i := range t.sets {
		want := &t.sets[i]
		want.Table = kernel
		have, err := c.GetSetByName(kernel, want.Name)
		if err != nil {
			return fmt.Errorf("set %s: %w", want.Name, err)
		}
		elements, err := c.GetSetElements(have)
		if err != nil {
			return fmt.Errorf("set %s: %w", want.Name, err)
		}
		extra, missing := without(elements, want.elements), without(want.elements, elements)
		if len(extra) > 0 {
			if err := c.SetDeleteElements(&want.Set, extra); err != nil {
				return err
			}
		}
		if len(missing) > 0 {
			if err := c.SetAddElements(&want.Set, missing); err != nil {
				return err
			}
		}
	}
	return c.Flush()
}

// without returns the elements of a that are not in b.
func without(a, b []nftables.SetElement) []nftables.SetElement {
	key := func(e nftables.SetElement) string { return fmt.Sprintf("%x %x %x", e.Key, e.KeyEnd, e.Val) }
	have := map[string]bool{}
	for _, e := range b {
		have[key(e)] = true
	}
	return slices.DeleteFunc(slices.Clone(a), func(e nftables.SetElement) bool { return have[key(e)] })
}

// sameRules compares by what goes over the wire.
func sameRules(have []*nftables.Rule, want [][]expr.Any, family byte) bool {
	return slices.EqualFunc(have, want, func(r *nftables.Rule, w []expr.Any) bool {
		return slices.EqualFunc(r.Exprs, w, func(a, b expr.Any) bool {
			x, err1 := expr.Marshal(family, a)
			y, err2 := expr.Marshal(family, b)
			return err1 == nil && err2 == nil && bytes.Equal(x, y)
		})
	})
}

// padded returns the name of an interface as the kernel compares it.
func padded(link string) []byte {
	out := make([]byte, unix.IFNAMSIZ)
	copy(out, link)
	return out
}
