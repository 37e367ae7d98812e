package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/pleachdev/pleach/gossip/membership"
)

const defaultPeerPort = 7434

// reach is where this node listens for its flock and where it says it is, of its agent; Serf has the
// next port of both.
type reach struct {
	peerBind, advertise netip.AddrPort // advertise's address is not valid while the machine has none
	gossipKeys          [][]byte       // nil for the derived one
}

// reachOf reads the flags. machine are the host's own addresses, the best first.
func reachOf(c Config, machine []netip.Addr) (reach, error) {
	var r reach
	host, port, err := net.SplitHostPort(c.PeerListen)
	if err != nil {
		return r, fmt.Errorf("--peer-listen: %w", err)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 || number == 1<<16-1 {
		return r, fmt.Errorf("--peer-listen %s: want a port of 1 to 65534, as Serf has the next one", c.PeerListen)
	}
	bind := netip.IPv4Unspecified()
	if host != "" {
		if bind, err = netip.ParseAddr(host); err != nil {
			return r, fmt.Errorf("--peer-listen %s: want an IP address and a port: %w", c.PeerListen, err)
		}
	}
	r.peerBind = netip.AddrPortFrom(bind, uint16(number))
	switch {
	case c.Advertise != "":
		if r.advertise, err = netip.ParseAddrPort(c.Advertise); err == nil {
			if r.advertise.Port() == 0 || r.advertise.Port() == 1<<16-1 {
				err = errors.New("want a port of 1 to 65534, as Serf has the next one")
			}
			break
		}
		var addr netip.Addr
		addr, err = netip.ParseAddr(c.Advertise)
		r.advertise = netip.AddrPortFrom(addr, r.peerBind.Port())
	case !bind.IsUnspecified():
		r.advertise = r.peerBind
	case len(machine) > 0:
		r.advertise = netip.AddrPortFrom(machine[0], r.peerBind.Port())
	}
	if err != nil {
		return r, fmt.Errorf("--advertise %s: %w", c.Advertise, err)
	}
	if c.GossipKeyFile != "" {
		r.gossipKeys, err = membership.ReadKeys(c.GossipKeyFile)
	}
	return r, err
}
