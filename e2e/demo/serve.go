package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/pleachdev/pleach/e2e/lab"
)

// services is what the serving process offers, as it stands in services.json.
type services struct {
	PID      int     `json:"pid"`
	Remote   string  `json:"remote"`   // URL of the config repository
	Registry string  `json:"registry"` // host:port, for nodes
	Hint     string  `json:"hint"`     // URL that is told of pushes
	Nodes    []place `json:"nodes"`
}

// place is where a node is.
type place struct {
	Name    string `json:"name"`
	Dir     string `json:"dir"`     // of its agent
	Log     string `json:"log"`     // of its agent
	Address string `json:"address"` // of the machine
}

// versions of the sample app that the registry holds.
var versions = []string{"1.0", "2.0"}

func (d *demo) servicesFile() string { return filepath.Join(d.dir, "services.json") }

// serve offers Git and images, and holds the machines of a demo of several nodes, until ctx ends. It is a
// process of its own, so that the flock goes on after "make demo" has returned.
func (d *demo) serve(ctx context.Context) (err error) {
	l, err := lab.Open(d.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	s := services{PID: os.Getpid()}
	var machines *flock
	if d.nodes > 1 {
		if machines, err = newFlock(ctx, l, d.nodes); err != nil {
			return err
		}
	}
	git, err := l.GitServer()
	if err != nil {
		return err
	}
	if err := git.Create(ctx, "flock"); err != nil {
		return err
	}
	registry, err := l.Registry()
	if err != nil {
		return err
	}
	for _, version := range versions {
		image, err := lab.Podinfo(ctx, version)
		if err != nil {
			return err
		}
		if _, err := registry.Push(ctx, "podinfo:"+version, image); err != nil {
			return err
		}
	}
	s.Remote, s.Registry = git.URL("flock"), registry.Address()
	if machines == nil {
		listen, err := freePort()
		if err != nil {
			return err
		}
		s.Hint = "http://" + listen + "/hint"
		s.Nodes = []place{{Name: nodeName(0), Dir: d.hostDir(), Log: filepath.Join(d.dir, "agent.log")}}
	} else {
		machines.git, s.Registry = git, registry.NodeAddress()
		s.Hint = "http://" + net.JoinHostPort(machines.machines[0].Addr.String(), hintPort) + "/hint"
		for _, m := range machines.machines {
			if err := registry.Mirror(filepath.Join(m.dir(), "registries")); err != nil {
				return err
			}
			s.Nodes = append(s.Nodes, place{m.Name, m.dir(), filepath.Join(l.Dir, m.Name+"-agent.log"), m.Addr.String()})
		}
		socket, err := new(net.ListenConfig).Listen(ctx, "unix", d.controlSocket())
		if err != nil {
			return err
		}
		server := &http.Server{Handler: machines.control(), ReadHeaderTimeout: time.Minute}
		go func() { _ = server.Serve(socket) }()
		defer func() { err = errors.Join(err, server.Close()) }()
	}
	git.Hint("refs/heads/main", s.Hint, "")
	body, err := json.Marshal(s)
	if err != nil {
		return err
	}
	// By rename: the file is complete when somebody sees it.
	tmp := d.servicesFile() + ".tmp"
	if err := os.WriteFile(tmp, body, 0o644); err != nil {
		return err
	}
	if err := os.Rename(tmp, d.servicesFile()); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// freePort returns a loopback address that nobody listens on.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // returns at once
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// services reads what is being served; ok is false when nothing is.
func (d *demo) services() (s services, ok bool, err error) {
	body, err := os.ReadFile(d.servicesFile())
	if errors.Is(err, fs.ErrNotExist) {
		return s, false, nil
	}
	if err == nil {
		err = json.Unmarshal(body, &s)
	}
	if err != nil {
		return s, false, fmt.Errorf("%s: %w; \"make demo-down\" clears it away", d.servicesFile(), err)
	}
	return s, d.alive(s.PID), nil
}
