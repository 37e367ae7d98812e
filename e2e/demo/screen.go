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
	return []suggestion{
		{"Look", []command{
			{line: fmt.Sprintf("export PLEACH_DIR=%s PATH=%s:$PATH", d.agentDir(), filepath.Dir(d.pleach))},
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
		{"Crash", []command{
			{line: "POD=$(pleach get pods -o jsonpath='{.items[0].status.podIP}')"},
			{line: fmt.Sprintf("kill -9 $(cat %s)", d.pidFile())},
			{line: "curl -s http://$POD:9898/version", remark: "no container notices"},
		}},
	}
}

// screen says what is there and what to try next.
func (d *demo) screen(s services) string {
	var b strings.Builder
	fmt.Fprintf(&b, `
  Pleach runs: a node, a Git server and a registry on this machine; podinfo's three replicas are ready.
  The repository's commits are signed with a key that was made for the demo. A push deploys. Try, in this order:

`)
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
  Again    make demo          here: starts the agent again, on the program as it is now
  Away     make demo-down     here: leaves nothing behind
`)
	return b.String()
}
