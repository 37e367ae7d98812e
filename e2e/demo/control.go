package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
)

// The serving process takes orders on a socket in the demo's directory.
func (d *demo) controlSocket() string { return filepath.Join(d.dir, "control.sock") }

// control answers orders: POST /start, /heal, and /<fault>/<node>.
func (f *flock) control() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, do func(*http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := do(r); err != nil {
				http.Error(w, err.Error(), http.StatusConflict)
			}
		})
	}
	handle("POST /start", func(r *http.Request) error {
		var orders startOrders
		if err := json.NewDecoder(r.Body).Decode(&orders); err != nil {
			return err
		}
		return f.start(r.Context(), orders)
	})
	handle("POST /heal", func(*http.Request) error { return f.underlay.Heal() })
	handle("POST /{fault}/{node}", func(r *http.Request) error {
		fault, ok := faults[r.PathValue("fault")]
		if !ok {
			return fmt.Errorf("no fault %q", r.PathValue("fault"))
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		m, err := f.find(r.PathValue("node"))
		if err != nil {
			return err
		}
		// Whoever asked may go away; what was begun is finished.
		return fault(f, context.WithoutCancel(r.Context()), m)
	})
	return mux
}

// order asks the serving process for something.
func (d *demo) order(ctx context.Context, path string, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", d.controlSocket())
	}}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://demo/"+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("%w; the demo is not up, or it is the one of a single node", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		why, err := io.ReadAll(answer.Body)
		if err != nil {
			return err
		}
		return fmt.Errorf("%s: %s", path, strings.TrimSpace(string(why)))
	}
	return nil
}
