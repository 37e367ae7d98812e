package rules

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/pleachdev/pleach/netplugins/ipam"
)

// Names of sets, as "nft list ruleset" prints them.
const (
	setSenders = "senders"   // source outside . ethertype inside . source inside
	setPorts   = "hostports" // protocol . port : pod . port
	setPortsAt = "hostip"    // address . protocol . port : pod . port
	setHairpin = "hairpin"   // pod . the same pod, for those with ports
	setOwn     = "own"       // link . hardware address . pod
	setLinks   = "links"     // of pods; a kernel need not be able to match the bridge
)

// Offsets in headers, in bytes. Inside is a packet in VXLAN, after UDP, VXLAN and Ethernet headers.
const (
	saddr, daddr = 12, 16
	dport        = 2
	insideType   = 8 + 8 + 12
	insideSaddr  = 8 + 8 + 14 + saddr
	etherSaddr   = 6
	arpSaddr     = 14
)

// Registers as the kernel numbers them: two of 16 bytes, and the later quarters of those.
const (
	reg1, reg2          = 1, 2
	reg1b, reg1c, reg2c = 9, 10, 14
)

var loopback = netip.MustParsePrefix("127.0.0.0/8")

func tables(n Node) []table {
	hook := func(name string, kind nftables.ChainType, at *nftables.ChainHook, p *nftables.ChainPriority, rules [][]expr.Any) chain {
		return chain{nftables.Chain{Name: name, Type: kind, Hooknum: at, Priority: p, Policy: new(nftables.ChainPolicyAccept)}, rules}
	}
	ip := table{family: nftables.TableFamilyIPv4, name: n.Bridge, sets: podSets(n.Pods)}
	if n.VXLANPort != 0 {
		ip.sets = append(ip.sets, senders(n.Senders))
	}
	ip.chains = []chain{
		hook("filter", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw, filter(n)),
		hook("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest, toPods()),
		hook("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest, toPods()),
		hook("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, masquerade(n)),
	}
	return []table{ip, {
		family: nftables.TableFamilyBridge, name: n.Bridge, sets: ownSets(n.Pods),
		chains: []chain{hook("filter", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw, ownRules())},
	}}
}

// filter drops what comes with a source that is not its sender's.
func filter(n Node) [][]expr.Any {
	drop := []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	// route_localnet is for the node itself
	out := [][]expr.Any{slices.Concat(iifname(expr.CmpOpEq, n.Bridge), within(daddr, loopback, expr.CmpOpEq), drop)}
	if n.VXLANPort != 0 {
		vxlan := []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1},
			equal([]byte{unix.IPPROTO_UDP}),
			load(expr.PayloadBaseTransportHeader, dport, 2, reg1),
			equal(binary.BigEndian.AppendUint16(nil, n.VXLANPort)),
		}
		out = append(out,
			slices.Concat(vxlan, []expr.Any{
				load(expr.PayloadBaseNetworkHeader, saddr, 4, reg1),
				load(expr.PayloadBaseTransportHeader, insideType, 2, reg1b),
				load(expr.PayloadBaseTransportHeader, insideSaddr, 4, reg1c),
				&expr.Lookup{SourceRegister: reg1, SetName: setSenders},
				&expr.Verdict{Kind: expr.VerdictAccept},
			}),
			slices.Concat(vxlan, drop))
	}
	// A source in the cluster's range must come from where the way back leads. For what is nobody's
	// there is no way.
	return append(out, slices.Concat(iifname(expr.CmpOpNeq, n.Bridge), within(saddr, n.ClusterCIDR, expr.CmpOpEq), []expr.Any{
		&expr.Fib{Register: reg1, FlagSADDR: true, FlagIIF: true, ResultOIF: true}, equal(make([]byte, 4)),
	}, drop))
}

// toPods translates the node's ports: those of one address first.
func toPods() [][]expr.Any {
	local := []expr.Any{
		&expr.Fib{Register: reg1, FlagDADDR: true, ResultADDRTYPE: true}, equal(binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)),
	}
	lookup := func(name string) *expr.Lookup {
		return &expr.Lookup{SourceRegister: reg1, DestRegister: reg1, IsDestRegSet: true, SetName: name}
	}
	dnat := &expr.NAT{
		Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, Specified: true,
		RegAddrMin: reg1, RegAddrMax: reg1, RegProtoMin: reg1b, RegProtoMax: reg1b,
	}
	return [][]expr.Any{
		slices.Concat(local, []expr.Any{
			load(expr.PayloadBaseNetworkHeader, daddr, 4, reg1),
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1b},
			load(expr.PayloadBaseTransportHeader, dport, 2, reg1c),
			lookup(setPortsAt), dnat,
		}),
		slices.Concat(local, []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1},
			load(expr.PayloadBaseTransportHeader, dport, 2, reg1b),
			lookup(setPorts), dnat,
		}),
	}
}

// masquerade gives the node's address to what leaves the cluster, and to what would not come back
// through the node otherwise: a pod that calls itself by a port of the node, and the node by 127.0.0.1.
// Traffic within the cluster keeps its source, which is what network policies and logs go by.
func masquerade(n Node) [][]expr.Any {
	masq := []expr.Any{&expr.Masq{}}
	return [][]expr.Any{
		slices.Concat(within(saddr, n.PodCIDR, expr.CmpOpEq), within(daddr, n.ClusterCIDR, expr.CmpOpNeq), masq),
		slices.Concat([]expr.Any{
			load(expr.PayloadBaseNetworkHeader, saddr, 4, reg1), load(expr.PayloadBaseNetworkHeader, daddr, 4, reg1b),
			&expr.Lookup{SourceRegister: reg1, SetName: setHairpin},
		}, masq),
		slices.Concat([]expr.Any{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg1}, equal(padded(n.Bridge))},
			within(saddr, loopback, expr.CmpOpEq), masq),
	}
}

// ownRules let a pod send IPv4 and ARP with its own addresses, and nothing else.
func ownRules() [][]expr.Any {
	own := func(etherType uint16, offset uint32) []expr.Any {
		return []expr.Any{
			&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: reg1}, equal(binary.BigEndian.AppendUint16(nil, etherType)),
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg1},
			load(expr.PayloadBaseLLHeader, etherSaddr, 6, reg2),
			load(expr.PayloadBaseNetworkHeader, offset, 4, reg2c),
			&expr.Lookup{SourceRegister: reg1, SetName: setOwn},
			&expr.Verdict{Kind: expr.VerdictAccept},
		}
	}
	return [][]expr.Any{
		own(unix.ETH_P_IP, saddr), own(unix.ETH_P_ARP, arpSaddr),
		{
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg1}, &expr.Lookup{SourceRegister: reg1, SetName: setLinks},
			&expr.Verdict{Kind: expr.VerdictDrop},
		},
	}
}

func load(base expr.PayloadBase, offset, length, register uint32) *expr.Payload {
	return &expr.Payload{Base: base, Offset: offset, Len: length, DestRegister: register}
}

func equal(data []byte) *expr.Cmp { return &expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: data} }

func iifname(op expr.CmpOp, link string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg1}, &expr.Cmp{Op: op, Register: reg1, Data: padded(link)}}
}

// within compares the address at offset of the IPv4 header with a prefix.
func within(offset uint32, p netip.Prefix, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		load(expr.PayloadBaseNetworkHeader, offset, 4, reg1),
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: net.CIDRMask(p.Bits(), 32), Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: reg1, Data: p.Masked().Addr().AsSlice()},
	}
}

// word is a 16-bit part of a key, filled up to 4 bytes as each part is.
func word(n uint16) []byte { return append(binary.BigEndian.AppendUint16(nil, n), 0, 0) }

// podSets are the sets of the ip table that follow from the pods.
func podSets(pods []Pod) []set {
	concat := nftables.MustConcatSetType
	where := concat(nftables.TypeIPAddr, nftables.TypeInetService)
	all := set{Set: nftables.Set{
		Name: setPorts, IsMap: true, Concatenation: true, DataType: where,
		KeyType: concat(nftables.TypeInetProto, nftables.TypeInetService),
	}}
	at := set{Set: nftables.Set{
		Name: setPortsAt, IsMap: true, Concatenation: true, DataType: where,
		KeyType: concat(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService),
	}}
	hairpin := set{Set: nftables.Set{Name: setHairpin, Concatenation: true, KeyType: concat(nftables.TypeIPAddr, nftables.TypeIPAddr)}}
	taken := map[ipam.Port]bool{} // without the pod's port
	for _, p := range slices.Backward(pods) {
		ip := p.Address.AsSlice()
		if len(p.Ports) > 0 {
			hairpin.elements = append(hairpin.elements, nftables.SetElement{Key: slices.Concat(ip, ip)})
		}
		for _, port := range p.Ports {
			node := port
			node.Port = 0
			if taken[node] {
				continue
			}
			taken[node] = true
			e := nftables.SetElement{
				Key: slices.Concat([]byte{port.Protocol, 0, 0, 0}, word(port.HostPort)), Val: slices.Concat(ip, word(port.Port)),
			}
			if port.HostIP.IsUnspecified() {
				all.elements = append(all.elements, e)
				continue
			}
			e.Key = slices.Concat(port.HostIP.AsSlice(), e.Key)
			at.elements = append(at.elements, e)
		}
	}
	return []set{all, at, hairpin}
}

// ownSets are the sets of the bridge table.
func ownSets(pods []Pod) []set {
	links := set{Set: nftables.Set{Name: setLinks, KeyType: nftables.TypeIFName}}
	own := set{Set: nftables.Set{
		Name: setOwn, Concatenation: true,
		KeyType: nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIPAddr),
	}}
	for _, p := range pods {
		key := slices.Concat(padded(p.Link), p.HardwareAddr, []byte{0, 0}, p.Address.AsSlice())
		own.elements = append(own.elements, nftables.SetElement{Key: key})
		links.elements = append(links.elements, nftables.SetElement{Key: padded(p.Link)})
	}
	return []set{own, links}
}

func senders(from []Sender) set {
	s := set{Set: nftables.Set{
		Name: setSenders, Concatenation: true, Interval: true,
		KeyType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeEtherType, nftables.TypeIPAddr),
	}}
	for _, f := range from {
		for _, p := range f.PodCIDRs {
			first := p.Masked().Addr().As4()
			last := binary.BigEndian.Uint32(first[:]) | (1<<(32-p.Bits()) - 1)
			outside := slices.Concat(f.Address.AsSlice(), word(unix.ETH_P_IP))
			s.elements = append(s.elements, nftables.SetElement{
				Key: slices.Concat(outside, first[:]), KeyEnd: slices.Concat(outside, binary.BigEndian.AppendUint32(nil, last)),
			})
		}
	}
	return s
}
