package membership

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/serf/serf"
)

// Tags of a member. Serf carries 512 bytes of them; they change with the boot counter only.
const (
	tagKey       = "key"  // fingerprint of the key that signed
	tagPort      = "port" // where the agent serves peers
	tagZone      = "zone"
	tagBoot      = "boot"
	tagSignature = "sig"

	// domain keeps a signature of a member from being taken for one of something else.
	domain = "pleach.dev/member\x00"
)

func (m *Membership) tags(boot int64) map[string]string {
	tags := map[string]string{tagKey: fingerprint(m.Key.Public().(ed25519.PublicKey)), tagPort: itoa(m.PeerPort), tagBoot: itoa(boot)}
	if m.Zone != "" {
		tags[tagZone] = m.Zone
	}
	tags[tagSignature] = base64.RawStdEncoding.EncodeToString(ed25519.Sign(m.Key, m.signed(m.Node, m.Advertise, tags)))
	return tags
}

// signed is what a member signs: who and where it is, and in which life.
func (m *Membership) signed(node string, at netip.AddrPort, tags map[string]string) []byte {
	fields := []string{m.Cluster, node, at.String(), tags[tagBoot], tags[tagPort], tags[tagZone]}
	return []byte(domain + strings.Join(fields, "\x00"))
}

// fingerprint is short for a key. It tells two keys of one node apart, no more.
func fingerprint(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return base64.RawStdEncoding.EncodeToString(sum[:12])
}

// verify returns the member if a key of the node that it says it is has signed where it says it is.
func (m *Membership) verify(s *serf.Member) (Member, error) {
	out, key, err := m.read(s)
	if err != nil {
		return out, err
	}
	signature, err := base64.RawStdEncoding.DecodeString(s.Tags[tagSignature])
	if err != nil || !ed25519.Verify(key, m.signed(s.Name, addrPort(s), s.Tags), signature) {
		return out, fmt.Errorf("node %s: where it is was not signed by its key", s.Name)
	}
	return out, nil
}

// identify is verify for a member that was let in before: its key may have been removed since.
func (m *Membership) identify(s *serf.Member) (Member, error) {
	out, _, err := m.read(s)
	return out, err
}

func (m *Membership) read(s *serf.Member) (Member, ed25519.PublicKey, error) {
	out := Member{Name: s.Name, Zone: s.Tags[tagZone]}
	keys := m.Keys(s.Name)
	if len(keys) == 0 {
		return out, nil, fmt.Errorf("node %.253q is not enrolled", s.Name)
	}
	for _, key := range keys {
		if fingerprint(key) != s.Tags[tagKey] {
			continue
		}
		port, err := strconv.ParseUint(s.Tags[tagPort], 10, 16)
		if err != nil {
			return out, nil, fmt.Errorf("node %s: its port %.10q is none", s.Name, s.Tags[tagPort])
		}
		if out.Boot, err = strconv.ParseInt(s.Tags[tagBoot], 10, 64); err != nil {
			return out, nil, fmt.Errorf("node %s: its boot counter %.20q is none", s.Name, s.Tags[tagBoot])
		}
		out.Peer = netip.AddrPortFrom(addrPort(s).Addr(), uint16(port))
		return out, key, nil
	}
	return out, nil, fmt.Errorf("node %s: its key is not the one that is enrolled", s.Name)
}

func addrPort(s *serf.Member) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(s.Addr)
	return netip.AddrPortFrom(addr.Unmap(), s.Port)
}

// admission lets enrolled members in. memberlist asks it under its own lock: it must not call back.
type admission struct{ m *Membership }

// NotifyMerge judges a single member that is said to be alive, or that joins. What a joining node knows
// of others is let pass here, as each of them is judged by itself afterwards: one that this node does
// not know (yet, or any more) would keep the two apart otherwise.
func (a admission) NotifyMerge(members []*serf.Member) error {
	if len(members) != 1 {
		return nil
	}
	s := members[0]
	if s.Name == a.m.Node {
		return a.self(s)
	}
	_, err := a.m.verify(s)
	return err
}

// self judges what is said of this node itself. Serf needs to hear it, or it could not contradict.
func (a admission) self(s *serf.Member) error {
	at := addrPort(s)
	if at == a.m.Advertise {
		return nil
	}
	found, err := a.m.verify(s)
	if err != nil {
		return err
	}
	a.m.conflict(Conflict{Here: a.m.Advertise, There: at, At: time.Now()}, found.Boot < a.m.boot())
	return errors.New("this node is elsewhere by now, or another machine has its name and key")
}

// conflict takes note of this node's name elsewhere. What may be an earlier life of this node, before it
// moved here, counts only when the others do not forget it: there is a machine that answers.
func (m *Membership) conflict(c Conflict, earlier bool) {
	m.mu.Lock()
	before := m.twin
	if m.echo.There != c.There {
		m.echo = c
	}
	real := !earlier || c.At.Sub(m.echo.At) >= earlierFor
	if real {
		m.twin = c
	}
	m.mu.Unlock()
	if real && before.There != c.There {
		m.Log.Warn("another machine calls itself by this node's name, with its key", "here", c.Here, "there", c.There,
			"toDo", "take one of the two off the network, or give it a name and a key of its own")
		poke(m.changed)
	}
}

// earlierFor is longer than it takes to find out that nobody answers any more where the node was, and to
// take it over from there.
const earlierFor = 2 * time.Minute
