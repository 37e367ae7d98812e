package main

import (
	"fmt"
	"path/filepath"
	"strings"
)

// suggestion is something to try: commands to type into one shell, one after the other.
type suggestion struct {
	title    string
	commands []command
}

// command is one line, and what is worth knowing of it.
type command struct{ line, remark string }

// suggestions are what the demo tells to try. They work as printed, in this order.
func (d *demo) suggestions(s services) []suggestion {
	const app = "apps/podinfo/podinfo.yaml"
	push := func(message string) command {
		return command{line: fmt.Sprintf("git commit -am %q && git push origin main", message)}
	}
	edit := func(from, to string) command {
		return command{line: fmt.Sprintf("sed -i 's|%s|%s|' %s", from, to, app)}
	}
	all := []suggestion{
		{"Look", []command{
			{line: fmt.Sprintf("export PLEACH_DIR=%s %s=%s PATH=%s:%s:$PATH", s.Nodes[0].Dir, dirVariable, d.dir, d.dir, filepath.Dir(d.pleach))},
			{line: "pleach status"},
			{line: "pleach get deploy,pods -A -o wide"},
			{line: "pleach logs deploy/podinfo"},
			{line: "curl -s http://$(pleach get pods -o jsonpath='{.items[0].status.podIP}'):9898/version"},
		}},
		{"Edit", []command{
			{line: "cd " + d.config(), remark: "a clone of " + s.Remote},
			edit("podinfo:1.0", "podinfo:2.0"),
			push("podinfo: version 2.0"),
			{line: "timeout 5 pleach status -w", remark: "the rollout, live"},
		}},
		{"Scale", []command{
			edit("replicas: 3", "replicas: 5"),
			push("podinfo: five replicas"),
		}},
		{"Break", []command{
			edit("podinfo:2.0", "podinfo:3.0"),
			push("podinfo: an image that nobody built"),
			{line: "pleach describe deploy podinfo", remark: "says what the rollout waits for; the old pods run on"},
		}},
		{"Revert", []command{
			{line: "git revert --no-edit HEAD && git push origin main"},
		}},
		{"Attack", []command{
			{line: "git commit --no-gpg-sign --allow-empty -m unsigned && git push origin main"},
			{line: "pleach status", remark: "refused, and why"},
			{line: "git revert --no-edit HEAD && git push origin main", remark: "mends it: this commit is signed"},
		}},
		{"Status", []command{
			{line: "git fetch origin pleach/status && git show FETCH_HEAD:README.md"},
			{line: "git log --show-signature -1 FETCH_HEAD", remark: "signed with the node's key"},
		}},
	}
	if len(s.Nodes) == 1 {
		return append(all, suggestion{"Crash", []command{
			podAddress,
			{line: fmt.Sprintf("kill -9 $(cat %s)", d.pidFile())},
			{line: "curl -s http://$POD:9898/version", remark: "no container notices"},
		}})
	}
	last, other := s.Nodes[len(s.Nodes)-1].Name, s.Nodes[1].Name
	return append(all, suggestion{"Crash", []command{
		podAddress,
		{line: "demo crash " + s.Nodes[0].Name, remark: "kill -9 of its agent, which is started again soon"},
		{line: "curl -s http://$POD:9898/version", remark: "no container notices"},
	}}, suggestion{"Kill", []command{
		{line: "demo off " + last, remark: "pulls the plug of a machine"},
		{line: "timeout 25 pleach status -w", remark: "its pods start on the others, nothing else moves"},
		{line: "demo on " + last},
	}}, suggestion{"Cut off", []command{
		{line: "demo cut " + other, remark: "no network: its pods run on, the others replace them"},
		{line: "timeout 25 pleach status -w"},
		{line: "demo heal"},
		{line: "timeout 25 pleach status -w", remark: "each slot runs once again"},
		{line: "pleach get pods -o wide"},
	}})
}

var podAddress = command{line: "POD=$(pleach get pods -o jsonpath='{.items[0].status.podIP}')"}

// screen says what is there and what to try next.
func (d *demo) screen(s services) string {
	var b strings.Builder
	fmt.Fprintf(&b, `
  Pleach runs: %s, a Git server and a registry on this machine; podinfo's three replicas are ready.
  The repository's commits are signed with a key that was made for the demo. A push deploys. Try, in this order:

`, nodesOf(s))
	for _, group := range d.suggestions(s) {
		for i, c := range group.commands {
			title := ""
			if i == 0 {
				title = group.title
			}
			line := fmt.Sprintf("  %-8s %s", title, c.line)
			if c.remark != "" {
				line = fmt.Sprintf("%-90s  # %s", line, c.remark)
			}
			b.WriteString(line + "\n")
		}
	}
	b.WriteString(`
  Again    make demo          here: starts the agents again, on the program as it is now
  Away     make demo-down     here: leaves nothing behind
`)
	return b.String()
}

func nodesOf(s services) string {
	if len(s.Nodes) == 1 {
		return "a node"
	}
	return fmt.Sprintf("%d nodes, each a machine of its own by namespaces and control groups", len(s.Nodes))
}
