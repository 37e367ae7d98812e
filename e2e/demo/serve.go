package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pleachdev/pleach/e2e/lab"
)

// services is what the serving process offers, as it stands in services.json.
type services struct {
	PID      int    `json:"pid"`
	Remote   string `json:"remote"`   // URL of the config repository
	Registry string `json:"registry"` // host:port
	Hint     string `json:"hint"`     // URL that is told of pushes
}

// versions of the sample app that the registry holds.
var versions = []string{"1.0", "2.0"}

func (d *demo) servicesFile() string { return filepath.Join(d.dir, "services.json") }

// serve offers Git and images until ctx ends. It is a process of its own, so that the flock goes on
// after "make demo" has returned.
func (d *demo) serve(ctx context.Context, hint string) (err error) {
	l, err := lab.Open(d.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	git, err := l.GitServer()
	if err != nil {
		return err
	}
	if err := git.Create(ctx, "flock"); err != nil {
		return err
	}
	git.Hint("refs/heads/main", hint, "")
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
	body, err := json.Marshal(services{PID: os.Getpid(), Remote: git.URL("flock"), Registry: registry.Address(), Hint: hint})
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
