//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
)

// Command is what the test asks to be run.
type Command struct {
	Args []string
	// Cgroup is the group in which it starts, such as "/system.slice/pleach.service"; "" is the
	// server's own, the root. It must exist.
	Cgroup string
	// Log, when not empty, is the file for its output; the answer then does not wait for its end.
	Log string
}

// Result is the answer.
type Result struct {
	PID    int
	Code   int // exit status; -1 when a signal ended it
	Output string
	Errors string
}

// serve answers POST /run on the address that QEMU's user network gives its guest.
func serve() error {
	if err := network(); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /run", func(w http.ResponseWriter, r *http.Request) {
		var c Command
		if err := json.NewDecoder(r.Body).Decode(&c); err != nil || len(c.Args) == 0 {
			http.Error(w, fmt.Sprintf("want a command: %v", err), http.StatusBadRequest)
			return
		}
		result, err := run(c)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(result) // the test has gone if this fails
	})
	log.Print("ready")
	server := http.Server{Addr: ":80", Handler: mux, ReadHeaderTimeout: time.Minute}
	return server.ListenAndServe()
}

// network is what DHCP would have said.
func network() error {
	for _, link := range []struct{ name, address string }{{"lo", "127.0.0.1/8"}, {"eth0", "10.0.2.15/24"}} {
		l, err := netlink.LinkByName(link.name)
		if err != nil {
			return fmt.Errorf("%s: %w", link.name, err)
		}
		address, err := netlink.ParseAddr(link.address)
		if err != nil {
			return err
		}
		if err := netlink.AddrReplace(l, address); err != nil {
			return fmt.Errorf("%s: %w", link.name, err)
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return fmt.Errorf("%s: %w", link.name, err)
		}
	}
	return netlink.RouteReplace(&netlink.Route{Gw: net.IPv4(10, 0, 2, 2)})
}

func run(c Command) (Result, error) {
	cmd := exec.Command(c.Args[0], c.Args[1:]...) //nolint:noctx // an agent outlives the request
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if c.Cgroup != "" {
		group, err := os.Open(filepath.Join("/sys/fs/cgroup", c.Cgroup))
		if err != nil {
			return Result{}, err
		}
		defer group.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.Fd())
	}
	if c.Log != "" {
		return background(cmd, c.Log)
	}
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		return Result{}, err
	}
	return Result{
		PID: cmd.Process.Pid, Code: cmd.ProcessState.ExitCode(), Output: out.String(), Errors: complaint.String(),
	}, nil
}

func background(cmd *exec.Cmd, logFile string) (Result, error) {
	out, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return Result{}, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return Result{}, err
	}
	go func() { _ = cmd.Wait() }() // reaps it
	return Result{PID: cmd.Process.Pid}, nil
}
