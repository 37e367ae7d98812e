package node_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pleachdev/pleach/agent/api"
	"github.com/pleachdev/pleach/e2e/lab"
)

const (
	other    = "other" // a second app
	otherDir = "apps/" + other
	teammate = "bob@example.org"
)

// newPair is a flock with two apps that run one Deployment each, test/web and other/shop, both of
// tag 6.14.1, and with a teammate whom the repository knows. Its status branch is written at once.
func newPair(t *testing.T) (f *flock, bob *lab.Key) {
	t.Helper()
	f = newFlock(t)
	bob, err := lab.NewKey(t.Context(), f.lab.Dir, teammate)
	must(t, err)
	f.repo.Write("trust/allowed_signers", f.repo.Read("trust/allowed_signers")+bob.AllowedSigner())
	f.repo.Replace("pleach.yaml", "path: "+appDir, "path: "+appDir+"\n    - name: "+other+"\n      path: "+otherDir)
	f.repo.Write("pleach.yaml", f.repo.Read("pleach.yaml")+"  status:\n    pushesPerMinute: 600\n")
	f.repo.Write(appDir+"/web.yaml", web("web", "6.14.1", 2))
	f.repo.Write(otherDir+"/shop.yaml", web("shop", "6.14.1", 1))
	f.push("two apps")
	f.waitReady("default/web", 2)
	f.waitReady("default/shop", 1)
	must(t, f.node.KillAgent()) // the budget of the status branch is read at the start
	f.startAgent()
	f.waitClean()
	return f, bob
}

// waitRefused waits until the agent refuses a commit for a unit with these words, and until the page
// of "pleach status", the status branch and the metrics say so.
func (f *flock) waitRefused(commit, unit string, words ...string) {
	f.t.Helper()
	f.wait(fmt.Sprintf("%.12s is refused for %q", commit, unit), func(ctx context.Context) error {
		status, err := f.api.Status(ctx)
		if err != nil {
			return err
		}
		for _, r := range status.Refusals {
			if r.Commit.ID != commit || r.App != unit {
				continue
			}
			text := r.Reason
			for _, p := range r.Problems {
				text += "\n" + p.Error()
			}
			return lacks("the refusal", text, words...)
		}
		return fmt.Errorf("no refusal of it, head %.12s, %d others", status.Head.ID, len(status.Refusals))
	})
	f.waitTold(append([]string{commit[:12]}, words...)...)
	f.waitMetric("pleach_refusals", func(n float64) bool { return n >= 1 })
}

// waitAlarm waits until the branch itself is reported with these words.
func (f *flock) waitAlarm(words ...string) {
	f.t.Helper()
	f.wait("there is an alarm", func(ctx context.Context) error {
		status, err := f.api.Status(ctx)
		if err != nil {
			return err
		}
		return lacks("the alarm", status.Remote.Alarm, words...)
	})
	f.waitTold(words...)
	f.waitMetric("pleach_remote_up", func(n float64) bool { return n == 0 })
}

// waitTold waits until "pleach status" and the README of the status branch hold these words.
func (f *flock) waitTold(words ...string) {
	f.t.Helper()
	f.wait("pleach status tells", func(context.Context) error {
		page, err := f.try("status")
		if err != nil {
			return err
		}
		return lacks("pleach status", page, words...)
	})
	f.wait("the status branch tells", func(context.Context) error {
		text, err := f.readme()
		if err != nil {
			return err
		}
		return lacks("README.md", text, words...)
	})
}

// readme is the README.md of the status branch.
func (f *flock) readme() (string, error) {
	if _, err := f.repo.Try("fetch", "--quiet", "--force", "origin", "refs/heads/pleach/status:refs/remotes/origin/pleach/status"); err != nil {
		return "", err
	}
	return f.repo.Try("show", "refs/remotes/origin/pleach/status:README.md")
}

// waitClean waits until nothing stands against the head, which is the clone's, and everybody is told.
func (f *flock) waitClean() {
	f.t.Helper()
	f.waitHead(f.repo.Head())
	f.wait("nothing is refused", func(ctx context.Context) error {
		status, err := f.api.Status(ctx)
		if err != nil {
			return err
		}
		if status.Remote.Alarm != "" {
			return errors.New(status.Remote.Alarm)
		}
		for _, r := range status.Refusals {
			return errors.New(r.Reason)
		}
		text, err := f.readme()
		if err != nil {
			return err
		}
		if strings.Contains(text, "## Refused") || strings.Contains(text, "Alarm") {
			return fmt.Errorf("the status branch still says:\n%s", text)
		}
		return nil
	})
	f.waitMetric("pleach_refusals", func(n float64) bool { return n == 0 })
	f.waitMetric("pleach_remote_up", func(n float64) bool { return n == 1 })
}

// waitMetric waits for the value of a metric without labels.
func (f *flock) waitMetric(name string, ok func(float64) bool) {
	f.t.Helper()
	f.wait(name, func(ctx context.Context) error {
		text, err := f.get(ctx, "http://"+f.node.Addr.String()+":"+port+"/metrics")
		if err != nil {
			return err
		}
		for line := range strings.Lines(text) {
			value, found := strings.CutPrefix(line, name+" ")
			if !found {
				continue
			}
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err == nil && !ok(n) {
				err = fmt.Errorf("it is %v", n)
			}
			return err
		}
		return errors.New("there is no such metric")
	})
}

// unit is what is accepted of an app.
func (f *flock) unit(name string) api.Unit {
	f.t.Helper()
	units := f.status().Units
	i := slices.IndexFunc(units, func(u api.Unit) bool { return u.Name == name })
	if i < 0 {
		f.t.Fatalf("there is no app %s", name)
	}
	return units[i]
}

// unharmed runs what must not touch any container.
func (f *flock) unharmed(do func()) {
	f.t.Helper()
	before := f.pids()
	if len(before) == 0 {
		f.t.Fatal("nothing runs")
	}
	do()
	if after := f.pids(); !maps.Equal(before, after) {
		f.t.Errorf("containers changed from\n%v to\n%v", before, after)
	}
}

// lacks says which words a text lacks.
func lacks(what, text string, words ...string) error {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return fmt.Errorf("%s lacks %q:\n%s", what, w, text)
		}
	}
	return nil
}
