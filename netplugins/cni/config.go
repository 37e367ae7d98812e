package cni

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/pleachdev/pleach/netplugins/ipam"
)

// Version is the CNI specification version that the plugin speaks.
const Version = "1.1.0"

// Type is the plugin's name in a network configuration: the name of its program.
const Type = "pleach-cni"

// Config is the plugin's part of a network configuration.
type Config struct {
	types.PluginConf

	Bridge   string       `json:"bridge"`   // the node's bridge; it must exist
	PodCIDR  netip.Prefix `json:"podCIDR"`  // the node's range, IPv4
	MTU      int          `json:"mtu"`      // bytes, of both ends of the pod's link
	LeaseDir string       `json:"leaseDir"` // absolute

	RuntimeConfig struct {
		PortMappings []portMapping `json:"portMappings"`
	} `json:"runtimeConfig"`
}

// portMapping is a port of the node that leads to the pod, by CNI's conventions.
type portMapping struct {
	HostPort      uint16 `json:"hostPort"`
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol"` // any case; tcp when empty
	HostIP        string `json:"hostIP"`
}

// List is the network configuration list that a container runtime reads from its CNI directory.
func List(network string, c Config) ([]byte, error) {
	plugin := struct {
		Type     string       `json:"type"`
		Bridge   string       `json:"bridge"`
		PodCIDR  netip.Prefix `json:"podCIDR"`
		MTU      int          `json:"mtu"`
		LeaseDir string       `json:"leaseDir"`

		Capabilities map[string]bool `json:"capabilities"`
	}{Type, c.Bridge, c.PodCIDR, c.MTU, c.LeaseDir, map[string]bool{"portMappings": true}}
	b, err := json.MarshalIndent(map[string]any{
		"cniVersion": Version,
		"name":       network,
		"plugins":    []any{plugin},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("network configuration %s: %w", network, err)
	}
	return append(b, '\n'), nil
}

func parse(stdin []byte) (Config, error) {
	var c Config
	if err := json.Unmarshal(stdin, &c); err != nil {
		return Config{}, types.NewError(types.ErrDecodingFailure, "network configuration: "+err.Error(), "")
	}
	for _, bad := range []struct {
		when bool
		what string
	}{
		{c.Bridge == "", "bridge: must not be empty"},
		{!c.PodCIDR.IsValid(), "podCIDR: must not be empty"},
		{c.PodCIDR.IsValid() && !c.PodCIDR.Addr().Is4(), "podCIDR: IPv6 is not supported yet, got " + c.PodCIDR.String()},
		{c.LeaseDir == "", "leaseDir: must not be empty"},
	} {
		if bad.when {
			return Config{}, types.NewError(types.ErrInvalidNetworkConfig, bad.what, "")
		}
	}
	return c, nil
}

// ports returns the node's ports that lead to the pod.
func (c Config) ports() ([]ipam.Port, error) {
	var out []ipam.Port
	for _, m := range c.RuntimeConfig.PortMappings {
		if m.HostPort == 0 {
			continue
		}
		p := ipam.Port{HostIP: netip.IPv4Unspecified(), HostPort: m.HostPort, Port: m.ContainerPort}
		switch strings.ToLower(m.Protocol) {
		case "", "tcp":
			p.Protocol = unix.IPPROTO_TCP
		case "udp":
			p.Protocol = unix.IPPROTO_UDP
		case "sctp":
			p.Protocol = unix.IPPROTO_SCTP
		default:
			return nil, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("hostPort %d: want TCP, UDP or SCTP, got %q", m.HostPort, m.Protocol), "")
		}
		if m.HostIP != "" {
			var err error
			if p.HostIP, err = netip.ParseAddr(m.HostIP); err != nil || !p.HostIP.Is4() {
				return nil, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("hostPort %d: hostIP: want an IPv4 address, got %q", m.HostPort, m.HostIP), "")
			}
		}
		out = append(out, p)
	}
	return out, nil
}

func (c Config) leases() ipam.Store { return ipam.Store{Dir: c.LeaseDir, Range: c.PodCIDR} }
