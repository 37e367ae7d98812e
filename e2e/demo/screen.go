package main

import (
	"path/filepath"
	"strings"
)

// screen says what is there and what to try next. Every command works as printed.
func (d *demo) screen(s services) string {
	return strings.NewReplacer(
		"PATH_OF_PLEACH", filepath.Dir(d.pleach), "NODE", d.agentDir(), "CLONE", d.config(), "REMOTE", s.Remote, "REGISTRY", s.Registry,
		"DIR", d.dir,
	).Replace(text)
}

const text = `
  Pleach runs: one node, a Git server and a registry on this machine. Three replicas of podinfo are ready.

  Look      export PLEACH_DIR=NODE PATH=PATH_OF_PLEACH:$PATH
            pleach status
            pleach get deploy,pods -A -o wide
            pleach logs deploy/podinfo
            curl -s http://$(pleach get pods -o jsonpath='{.items[0].status.podIP}'):9898/version

  The config repository is cloned in CLONE (from REMOTE);
  its commits are signed with a key made for the demo. A push deploys:

  Edit      cd CLONE
            sed -i 's/podinfo:1.0/podinfo:2.0/' apps/podinfo/podinfo.yaml
            git commit -am "podinfo: version 2.0" && git push origin main
            pleach status -w                                       # the rollout, live; Ctrl-C ends it
  Scale     sed -i 's/replicas: 3/replicas: 5/' apps/podinfo/podinfo.yaml
            git commit -am "podinfo: five replicas" && git push origin main
  Break     sed -i 's/podinfo:2.0/podinfo:3.0/' apps/podinfo/podinfo.yaml
            git commit -am "podinfo: an image that nobody built" && git push origin main
            pleach describe deploy podinfo                         # the old pods keep running
  Revert    git revert --no-edit HEAD && git push origin main
  Attack    git commit --no-gpg-sign --allow-empty -m "unsigned" && git push origin main
            pleach status                                          # refused, with the reason

  Status    git fetch origin pleach/status && git show FETCH_HEAD:README.md
            git log --show-signature -1 FETCH_HEAD                 # signed with the node's key
  Crash     kill -9 $(cat DIR/agent.pid)             # no container notices
            make demo                                              # back in this folder: starts the agent again

  Away      make demo-down                                         # leaves nothing behind
`
